"""The flash part in a machine's NVRAM as a blob: what a flash device reads, programs and flushes."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs

from asyncvmm.base.errors import BackendError
from asyncvmm.base.units import PAGE_SIZE
from asyncvmm.device import Blob
from asyncvmm.storage.nvram import ERASED, FlashPart, Nvram, NvramError, update_nvram


class NvramFlash(Blob):
    """The first flash part in the NVRAM at ``path``. NvramError when there is none.

    Writes are kept here until ``flush``, or ``close`` at the latest, which replaces the file as a whole:
    so the file always holds what the flash held at one instant, and a crash loses what came after it.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        found = Nvram.load(path).flash
        if not found:
            raise NvramError(f"{path}: holds no flash part")
        super().__init__(found[0].size_bytes, read_only)
        self.path: Final = path
        self._pages: Final = dict(found[0].pages)
        self._changed = False

    def pread(self, offset: int, length: int) -> bytes:
        """See Blob."""
        self._check(offset, length)
        first, end = offset // PAGE_SIZE, -(-(offset + length) // PAGE_SIZE)
        data = b"".join([self._pages.get(number, ERASED) for number in range(first, end)])
        return data[offset - first * PAGE_SIZE :][:length]

    def pwrite(self, offset: int, data: bytes) -> None:
        """See Blob."""
        self._check(offset, len(data))
        if self.read_only:
            raise BackendError(f"{self.path}: is open to be read only")
        at = 0
        while at < len(data):
            number, inside = divmod(offset + at, PAGE_SIZE)
            piece = data[at : at + PAGE_SIZE - inside]
            before = self._pages.get(number, ERASED)
            page = before[:inside] + piece + before[inside + len(piece) :]
            if page == ERASED:
                self._pages.pop(number, None)
            else:
                self._pages[number] = page
            at += len(piece)
        self._changed = True

    def flush(self) -> None:
        """Replace the file, if anything was written; BackendError when that fails."""
        if self._changed:
            part = FlashPart(self.size_bytes, dict(self._pages))
            update_nvram(
                self.path, lambda nvram: attrs.evolve(nvram, flash=(part, *nvram.flash[1:]))
            )
            self._changed = False

    def close(self) -> None:
        """See Blob. What was not flushed is: the guest's chips have said that it is there."""
        self.flush()

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise BackendError(f"{self.path}: bytes {offset}+{length} are outside the flash part")


def flash_part(blob: Blob) -> FlashPart:
    """All that a flash's blob holds, as an NVRAM has it."""
    return FlashPart.of(
        blob.pread(0, blob.size_bytes), -(-blob.size_bytes // PAGE_SIZE) * PAGE_SIZE
    )
