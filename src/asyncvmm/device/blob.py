"""Disk contents as a device sees them: bytes of a fixed size, somewhere."""

from __future__ import annotations

from mypy_extensions import mypyc_attr

from asyncvmm.base.errors import BackendError


@mypyc_attr(allow_interpreted_subclasses=True)
class Blob:
    """The base class, and itself an empty read-only blob.

    Offsets and lengths are bytes; the caller stays within ``size_bytes``. Failures of the world
    outside are BackendError. What was written is durable only after ``flush``.
    """

    def __init__(self, size_bytes: int = 0, read_only: bool = True) -> None:
        self.size_bytes: int = size_bytes
        self.read_only: bool = read_only

    def pread(self, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes from ``offset``."""
        raise BackendError("this blob is empty")

    def pwrite(self, offset: int, data: bytes) -> None:
        """Write ``data`` at ``offset``."""
        raise BackendError("this blob is empty")

    def flush(self) -> None:
        """Return when everything written before is durable."""

    def discard(self, offset: int, length: int) -> None:
        """A hint: the contents of the range do not matter any more."""

    def write_zeroes(self, offset: int, length: int, may_unmap: bool = True) -> None:
        """Make the range read as zeros; ``may_unmap`` allows giving its storage back."""
        step = 1 << 20
        end = offset + length
        while offset < end:
            count = step if end - offset > step else end - offset
            self.pwrite(offset, bytes(count))
            offset += count

    def close(self) -> None:
        """Let go of what is outside; no other call comes after this one."""


class MemoryBlob(Blob):
    """A blob in host memory: for tests and for disks that vanish with their guest."""

    def __init__(self, contents: bytes, read_only: bool = False) -> None:
        super().__init__(len(contents), read_only)
        self.contents: bytearray = bytearray(contents)
        self.flushes: int = 0

    def pread(self, offset: int, length: int) -> bytes:
        """See Blob."""
        self._check(offset, length)
        return bytes(self.contents[offset : offset + length])

    def pwrite(self, offset: int, data: bytes) -> None:
        """See Blob."""
        self._check(offset, len(data))
        if self.read_only:
            raise BackendError("this blob is read-only")
        self.contents[offset : offset + len(data)] = data

    def flush(self) -> None:
        """Counts, so that a test can see it."""
        self.flushes += 1

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise BackendError(f"bytes {offset}+{length} are outside this blob")
