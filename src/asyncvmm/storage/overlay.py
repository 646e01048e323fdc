"""Throw-away overlays: a disk that takes writes and forgets them, and that can be forked."""

from __future__ import annotations

import os
import tempfile
from typing import IO, Final

from asyncvmm.base.errors import BackendError
from asyncvmm.device import Blob

BLOCK_BYTES: Final = 4096


class _Store:
    """An append-only file without a name: nothing in it changes once two overlays share it."""

    def __init__(self) -> None:
        self._users = 0
        self._file: IO[bytes] | None = None
        self._end = 0

    def open(self) -> None:
        """One more user."""
        self._users += 1

    def close(self) -> None:
        """One user less; the last one takes the file along."""
        self._users -= 1
        if self._users == 0 and self._file is not None:
            self._file.close()
            self._file = None

    def append(self, block: bytes) -> int:
        """Where the block is from now on."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(  # noqa: SIM115 - open until the last user closes
                prefix="asyncvmm-overlay-", buffering=0
            )
        at = self._end
        self.write(at, block)
        self._end += len(block)
        return at

    def write(self, at: int, data: bytes) -> None:
        """Change a block that nobody shares."""
        assert self._file is not None
        done = 0
        while done < len(data):
            done += os.pwrite(self._file.fileno(), data[done:], at + done)

    def read(self, at: int, length: int) -> bytes:
        """A part of a block."""
        assert self._file is not None
        return os.pread(self._file.fileno(), length, at)


class OverlayBlob(Blob):
    """Writes over ``base`` that are gone when it is closed; ``base`` is only read, and closed too.

    Blocks of 4 KiB go to a temporary file without a name. ``fork`` gives an independent overlay with
    the same contents at the cost of copying a table.
    """

    def __init__(self, base: Blob) -> None:
        super().__init__(base.size_bytes, False)
        self.base = base
        self._bases = [1]  # how many forks use the base
        self._store = _Store()
        self._store.open()
        self._places: dict[int, int] = {}  # block -> place in the store, -1 for zeros
        self._own: set[int] = set()  # blocks written since the last fork
        self._closed = False

    def fork(self) -> OverlayBlob:
        """Another overlay that begins with what this one has now."""
        other = OverlayBlob.__new__(OverlayBlob)
        Blob.__init__(other, self.size_bytes, False)
        other.base, other._bases, other._store = self.base, self._bases, self._store
        other._bases[0] += 1
        other._store.open()
        other._places = dict(self._places)
        other._own, self._own = set(), set()
        other._closed = False
        return other

    def changed(self) -> list[int]:
        """The blocks (of 4 KiB, by number) that are not the base's any more, in order."""
        return sorted(self._places)

    def pread(self, offset: int, length: int) -> bytes:
        """See Blob."""
        self._inside(offset, length)
        parts: list[bytes] = []
        at, end = offset, offset + length
        while at < end:
            block, inside = divmod(at, BLOCK_BYTES)
            place = self._places.get(block)
            if place is None:
                stop = at
                while stop < end and stop // BLOCK_BYTES not in self._places:
                    stop = min(end, (stop // BLOCK_BYTES + 1) * BLOCK_BYTES)
                parts.append(self.base.pread(at, stop - at))
                at = stop
                continue
            count = min(end - at, BLOCK_BYTES - inside)
            parts.append(bytes(count) if place < 0 else self._read(place + inside, count))
            at += count
        return b"".join(parts)

    def _read(self, at: int, length: int) -> bytes:
        try:
            data = self._store.read(at, length)
        except OSError as error:
            raise BackendError(f"throw-away disk: read: {error.strerror}") from error
        if len(data) != length:
            raise BackendError("throw-away disk: its temporary file was cut short")
        return data

    def pwrite(self, offset: int, data: bytes) -> None:
        """See Blob."""
        self._inside(offset, len(data))
        at, end = offset, offset + len(data)
        while at < end:
            block, inside = divmod(at, BLOCK_BYTES)
            count = min(end - at, BLOCK_BYTES - inside)
            self._write(block, inside, data[at - offset : at - offset + count])
            at += count

    def _write(self, block: int, inside: int, piece: bytes) -> None:
        try:
            if block in self._own and self._places[block] >= 0:
                self._store.write(self._places[block] + inside, piece)
                return
            if len(piece) < BLOCK_BYTES:
                start = block * BLOCK_BYTES
                size = min(BLOCK_BYTES, self.size_bytes - start)
                before = self.pread(start, size).ljust(BLOCK_BYTES, b"\0")
                piece = before[:inside] + piece + before[inside + len(piece) :]
            self._places[block] = self._store.append(piece)
            self._own.add(block)
        except OSError as error:
            raise BackendError(f"throw-away disk: write: {error.strerror}") from error

    def write_zeroes(self, offset: int, length: int, may_unmap: bool = True) -> None:
        """See Blob."""
        self._inside(offset, length)
        first, last = -(-offset // BLOCK_BYTES), (offset + length) // BLOCK_BYTES
        if first >= last:
            self.pwrite(offset, bytes(length))
            return
        self.pwrite(offset, bytes(first * BLOCK_BYTES - offset))
        for block in range(first, last):
            self._places[block] = -1
            self._own.discard(block)
        self.pwrite(last * BLOCK_BYTES, bytes(offset + length - last * BLOCK_BYTES))

    def close(self) -> None:
        """See Blob; may be called again."""
        if self._closed:
            return
        self._closed = True
        self._store.close()
        self._bases[0] -= 1
        if not self._bases[0]:
            self.base.close()

    def _inside(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise BackendError(f"throw-away disk: bytes {offset}+{length} are beyond its end")
