"""Tables of big-endian 64-bit words and of refcounts, as arrays."""

from __future__ import annotations

import sys
from array import array

_TYPES = {3: "B", 4: "H", 5: "I", 6: "Q"}


def words_from(data: bytes) -> array[int]:
    """64-bit words of a table."""
    return _swapped(array("Q", data))


def words_bytes(words: array[int]) -> bytes:
    """A table of words (or of wider refcounts) as it is in the file."""
    return _swapped(words[:]).tobytes()


def counts_from(data: bytes, order: int) -> array[int]:
    """Refcounts of ``1 << order`` bits each; in narrow ones bit 0 comes first."""
    if order >= 3:
        return _swapped(array(_TYPES[order], data))
    bits = 1 << order
    mask = (1 << bits) - 1
    return array("B", [byte >> shift & mask for byte in data for shift in range(0, 8, bits)])


def counts_bytes(counts: array[int], order: int) -> bytes:
    """The opposite of ``counts_from``, for a whole number of bytes."""
    if order >= 3:
        return words_bytes(counts)
    bits = 1 << order
    each = 8 // bits
    return bytes(
        sum(counts[at + i] << (i * bits) for i in range(each)) for at in range(0, len(counts), each)
    )


def _swapped(words: array[int]) -> array[int]:
    if sys.byteorder == "little":
        words.byteswap()
    return words
