"""What the flash holds: in memory for the guest, and in the image for the next time."""

from __future__ import annotations

import hashlib
from typing import Final

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.units import MIB
from asyncvmm.device import DeviceIo
from asyncvmm_plugins.cfi_flash.query import BLOCK_BYTES, BLOCKS

LANES: Final = 2
SIZE_BYTES: Final = 32 * MIB
BANK_BLOCK_BYTES: Final = LANES * BLOCK_BYTES

_ERASED_BLOCK: Final = b"\xff" * BANK_BLOCK_BYTES
_EMPTY_BLOCK: Final = bytes(BANK_BLOCK_BYTES)
_KNOWN: Final = {block: hashlib.sha256(block).digest() for block in (_ERASED_BLOCK, _EMPTY_BLOCK)}


class Contents:
    """32 MiB. What is changed goes to the image at once, as far as the image has room; the rest of the
    flash is erased for ever, and write protected."""

    def __init__(self, io: DeviceIo) -> None:
        if io.blob.size_bytes > SIZE_BYTES:
            raise ConfigError(
                f"{io.path}: an image of {io.blob.size_bytes} bytes does not fit a flash of {SIZE_BYTES}"
            )
        self._blob = io.blob
        self._window = io.window
        self._window.reserve(SIZE_BYTES)
        self._digests: list[bytes | None] = [None] * BLOCKS
        self.load()

    def load(self) -> None:
        """Take everything from the image."""
        blob = self._blob
        for start in range(0, SIZE_BYTES, BANK_BLOCK_BYTES):
            length = max(0, min(BANK_BLOCK_BYTES, blob.size_bytes - start))
            data = blob.pread(start, length) if length else b""
            self._window.write(start, data.ljust(BANK_BLOCK_BYTES, b"\xff"))
        self._digests = [None] * BLOCKS

    @property
    def digest(self) -> str:
        """SHA-256 of the SHA-256s of the blocks."""
        for number, known in enumerate(self._digests):
            if known is None:
                block = self._window.read(number * BANK_BLOCK_BYTES, BANK_BLOCK_BYTES)
                self._digests[number] = _KNOWN.get(block) or hashlib.sha256(block).digest()
        return hashlib.sha256(b"".join(filter(None, self._digests))).hexdigest()

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the flash."""
        return self._window.read(offset, length)

    def change(self, offset: int, data: bytes) -> bool:
        """Write, if the image is writable there; whether it was."""
        if self._blob.read_only or offset + len(data) > self._blob.size_bytes:
            return False
        if self._window.read(offset, len(data)) != data:
            self._window.write(offset, data)
            self._blob.pwrite(offset, data)
            for number in range(
                offset // BANK_BLOCK_BYTES, (offset + len(data) - 1) // BANK_BLOCK_BYTES + 1
            ):
                self._digests[number] = None
        return True

    def changeable(self, offset: int, length: int) -> int:
        """How many of ``length`` bytes from ``offset`` the image has."""
        if self._blob.read_only:
            return 0
        return max(0, min(length, self._blob.size_bytes - offset))

    def flush(self) -> None:
        """Make changes durable."""
        self._blob.flush()


class Lane:
    """The cells of one chip: every second halfword of the flash."""

    def __init__(self, contents: Contents, number: int) -> None:
        self._contents = contents
        self._number = number
        self.changed = False  # since somebody looked

    def word(self, address: int) -> int:
        """See Cells."""
        at = LANES * 2 * address + 2 * self._number
        return int.from_bytes(self._contents.read(at, 2), "little")

    def program(self, address: int, words: dict[int, int]) -> bool:
        """See Cells."""
        first, last = min(words), max(words)
        start = LANES * 2 * first
        data = bytearray(self._contents.read(start, LANES * 2 * (last - first + 1)))
        for word, value in words.items():
            at = LANES * 2 * (word - first) + 2 * self._number
            data[at] &= value & 0xFF
            data[at + 1] &= value >> 8
        return self._change(start, bytes(data))

    def erase(self, block: int) -> bool:
        """See Cells. Of a block that the image has a part of, the rest is erased already."""
        start = block * BANK_BLOCK_BYTES
        length = self._contents.changeable(start, BANK_BLOCK_BYTES)
        if length == 0:
            return False
        data = bytearray(self._contents.read(start, length))
        for byte in (2 * self._number, 2 * self._number + 1):
            lane = slice(byte, None, LANES * 2)
            data[lane] = b"\xff" * len(data[lane])
        return self._change(start, bytes(data))

    def _change(self, start: int, data: bytes) -> bool:
        done = self._contents.change(start, data)
        self.changed = self.changed or done
        return done
