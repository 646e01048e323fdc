"""Raw disk images: a host file whose bytes are the disk's."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from asyncvmm.base.errors import BackendError
from asyncvmm.device import Blob
from asyncvmm.storage.errors import ImageError
from asyncvmm.storage.hostfile import HostFile

SECTOR_BYTES: Final = 512


class RawImage(Blob):
    """``path`` as a blob, locked against a second writer while it is open.

    ImageError (a ConfigError) when the file cannot be a disk; BackendError when the host fails later
    on. What is written is durable after ``flush`` (fdatasync).
    """

    def __init__(self, path: Path, read_only: bool = False, *, devices: bool = True) -> None:
        self.path = path
        self.file = HostFile(path, read_only, devices=devices)
        size = self.file.size_bytes
        if size == 0 or size % SECTOR_BYTES:
            self.file.close()
            raise ImageError(
                f"disk image {path}: {size} bytes are not a whole number of "
                f"{SECTOR_BYTES}-byte sectors"
            )
        super().__init__(size, read_only)

    def pread(self, offset: int, length: int) -> bytes:
        """See Blob."""
        return self.file.read(offset, length)

    def pwrite(self, offset: int, data: bytes) -> None:
        """See Blob."""
        if offset < 0 or offset + len(data) > self.size_bytes:
            raise BackendError(f"disk image {self.path}: write beyond its end")
        self.file.write(offset, data)

    def flush(self) -> None:
        """See Blob."""
        self.file.sync()

    def discard(self, offset: int, length: int) -> None:
        """Give the range's storage back to the host, where the host can."""
        self._punch(offset, length)

    def write_zeroes(self, offset: int, length: int, may_unmap: bool = True) -> None:
        """See Blob."""
        if not (may_unmap and self._punch(offset, length)):
            super().write_zeroes(offset, length, may_unmap)

    def _punch(self, offset: int, length: int) -> bool:
        if self.read_only or offset < 0 or offset + length > self.size_bytes:
            return False
        return self.file.punch(offset, length)

    def resize(self, size_bytes: int) -> None:
        """Set the size; what is new reads as zeros."""
        self.file.truncate(size_bytes)
        self.size_bytes = size_bytes

    def abandon(self) -> None:
        """Close at once: what was written is the host's business."""
        self.file.close()

    def close(self) -> None:
        """See Blob; may be called again."""
        self.file.close()
