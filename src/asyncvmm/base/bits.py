"""Bit arithmetic on 64-bit words held as two's complement ``i64``."""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

MIN_I64: Final[i64] = -0x8000000000000000


def ult(a: i64, b: i64) -> bool:
    """Whether ``a < b`` when both are read as unsigned 64-bit numbers."""
    # Not MIN_I64: mypyc unboxes literals of 2**62 and more at each use.
    sign: i64 = i64(0x80000000) << 32
    return (a ^ sign) < (b ^ sign)


def shr(a: i64, n: i64) -> i64:
    """``a`` shifted right by ``n`` (0..63) with zeros coming in."""
    if n == 0:
        return a
    one: i64 = 1
    return (a >> n) & ((one << (64 - n)) - 1)


def sext32(a: i64) -> i64:
    """The low 32 bits of ``a``, sign-extended."""
    return ((a & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000


def to_signed(value: int) -> i64:
    """A Python integer's low 64 bits as a signed word: how unsigned values enter compiled code."""
    value &= 0xFFFFFFFFFFFFFFFF
    return value - 0x10000000000000000 if value >= 0x8000000000000000 else value


def to_unsigned(value: i64) -> int:
    """A signed word as the Python integer 0..2**64-1: how values leave compiled code."""
    return int(value) & 0xFFFFFFFFFFFFFFFF
