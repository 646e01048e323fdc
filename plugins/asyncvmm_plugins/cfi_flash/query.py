"""What a chip says about itself: JEDEC JESD68.01 (the Common Flash Interface) and Intel's extension."""

from __future__ import annotations

from typing import Final

MANUFACTURER: Final = 0x89  # Intel
DEVICE: Final = 0x18  # 128 Mbit
CHIP_BYTES_LOG2: Final = 24
BLOCK_BYTES: Final = 128 << 10
BLOCKS: Final = (1 << CHIP_BYTES_LOG2) // BLOCK_BYTES
BUFFER_BYTES_LOG2: Final = 10
BUFFER_WORDS: Final = 1 << (BUFFER_BYTES_LOG2 - 1)

_INTEL_EXTENDED: Final = 0x0001
_EXTENSION: Final = 0x31
_INSTANT_BLOCK_LOCKING: Final = 1 << 5
_ASYNCHRONOUS_X16: Final = 0x0001


def _pair(value: int) -> bytes:
    return value.to_bytes(2, "little")


QUERY: Final = (
    bytes(0x10)
    + b"QRY"
    + _pair(_INTEL_EXTENDED)
    + _pair(_EXTENSION)
    + bytes(4)  # no alternate command set
    + bytes((0x27, 0x36, 0, 0))  # Vcc 2.7 to 3.6 V, no Vpp
    # Typical times, as powers of two: a word and a buffer in us, a block's erase in ms.
    + bytes((7, 7, 10, 0))
    + bytes((4, 4, 4, 0))  # the longest, as powers of two of the typical
    + bytes((CHIP_BYTES_LOG2,))
    + _pair(_ASYNCHRONOUS_X16)
    + _pair(BUFFER_BYTES_LOG2)
    + bytes((1,))  # one region of equal blocks
    + _pair(BLOCKS - 1)
    + _pair(BLOCK_BYTES // 256)
    + b"PRI10"
    + _INSTANT_BLOCK_LOCKING.to_bytes(4, "little")
    + bytes((0,))  # nothing can be done while an erase is suspended
    + _pair(1)  # the lock bit of a block is in its identifier
    + bytes((0x33, 0, 0))  # Vcc 3.3 V, no Vpp, no protection registers
)
"""One byte for each word address from 0."""
