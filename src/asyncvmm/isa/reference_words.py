"""The reference's 64-bit arithmetic: Python integers 0..2**64-1, from the definitions."""

from __future__ import annotations

from typing import Final

MASK: Final = 0xFFFFFFFFFFFFFFFF
MASK32: Final = 0xFFFFFFFF
CANONICAL_NAN32: Final = 0x7FC00000


def signed(a: int) -> int:
    """The word read as two's complement."""
    return a - (1 << 64) if a >> 63 else a


def signed32(a: int) -> int:
    """The low 32 bits read as two's complement."""
    a &= MASK32
    return a - (1 << 32) if a >> 31 else a


def sext8(a: int) -> int:
    """Low 8 bits, sign-extended."""
    a &= 0xFF
    return (a - 0x100 if a >> 7 else a) & MASK


def sext16(a: int) -> int:
    """Low 16 bits, sign-extended."""
    a &= 0xFFFF
    return (a - 0x10000 if a >> 15 else a) & MASK


def sext32(a: int) -> int:
    """Low 32 bits, sign-extended."""
    return signed32(a) & MASK


def zext8(a: int) -> int:
    """Low 8 bits."""
    return a & 0xFF


def zext16(a: int) -> int:
    """Low 16 bits."""
    return a & 0xFFFF


def zext32(a: int) -> int:
    """Low 32 bits."""
    return a & MASK32


def shr(a: int, amount: int) -> int:
    """Logical right shift."""
    return a >> amount


def mulh(a: int, b: int) -> int:
    """High word of the signed product."""
    return signed(a) * signed(b) >> 64 & MASK


def mulhu(a: int, b: int) -> int:
    """High word of the unsigned product."""
    return a * b >> 64


def mulhsu(a: int, b: int) -> int:
    """High word of signed times unsigned."""
    return signed(a) * b >> 64 & MASK


def _divide(a: int, b: int) -> tuple[int, int]:
    """Quotient rounded towards zero, and remainder; by zero -1 and the dividend (I 12.2)."""
    if b == 0:
        return -1, a
    quotient = abs(a) // abs(b)
    if (a < 0) != (b < 0):
        quotient = -quotient
    return quotient, a - quotient * b


def div(a: int, b: int) -> int:
    """Signed quotient; the overflow -2**63 / -1 wraps to the dividend."""
    return _divide(signed(a), signed(b))[0] & MASK


def divu(a: int, b: int) -> int:
    """Unsigned quotient."""
    return _divide(a, b)[0] & MASK


def rem(a: int, b: int) -> int:
    """Signed remainder."""
    return _divide(signed(a), signed(b))[1] & MASK


def remu(a: int, b: int) -> int:
    """Unsigned remainder."""
    return _divide(a, b)[1] & MASK


def divw(a: int, b: int) -> int:
    """Signed quotient of the low halves."""
    return sext32(_divide(signed32(a), signed32(b))[0])


def divuw(a: int, b: int) -> int:
    """Unsigned quotient of the low halves, sign-extended."""
    return sext32(_divide(a & MASK32, b & MASK32)[0])


def remw(a: int, b: int) -> int:
    """Signed remainder of the low halves."""
    return sext32(_divide(signed32(a), signed32(b))[1])


def remuw(a: int, b: int) -> int:
    """Unsigned remainder of the low halves, sign-extended."""
    return sext32(_divide(a & MASK32, b & MASK32)[1])


def clz64(a: int) -> int:
    """Leading zeros."""
    return 64 - a.bit_length()


def clz32(a: int) -> int:
    """Leading zeros of the low half."""
    return 32 - (a & MASK32).bit_length()


def ctz64(a: int) -> int:
    """Trailing zeros."""
    return (a & -a).bit_length() - 1 if a else 64


def ctz32(a: int) -> int:
    """Trailing zeros of the low half."""
    return ctz64(a & MASK32) if a & MASK32 else 32


def cpop64(a: int) -> int:
    """Ones."""
    return a.bit_count()


def cpop32(a: int) -> int:
    """Ones in the low half."""
    return (a & MASK32).bit_count()


def orcb(a: int) -> int:
    """Each byte that is not zero becomes 0xff."""
    return int.from_bytes(bytes(0xFF if byte else 0 for byte in a.to_bytes(8, "little")), "little")


def rev8(a: int) -> int:
    """The bytes in the opposite order."""
    return int.from_bytes(a.to_bytes(8, "little"), "big")


def rol64(a: int, amount: int) -> int:
    """Rotate left by 0..63."""
    return (a << amount | a >> (64 - amount)) & MASK


def ror64(a: int, amount: int) -> int:
    """Rotate right by 0..63."""
    return rol64(a, (64 - amount) % 64)


def rol32(a: int, amount: int) -> int:
    """Rotate the low half left by 0..31, sign-extended."""
    a &= MASK32
    return sext32(a << amount | a >> (32 - amount))


def ror32(a: int, amount: int) -> int:
    """Rotate the low half right by 0..31, sign-extended."""
    return rol32(a, (32 - amount) % 32)


def unbox32(a: int) -> int:
    """The pattern in a register's low half, or the canonical NaN if it is not boxed (I 21.2)."""
    return a & MASK32 if a >> 32 == MASK32 else CANONICAL_NAN32


def box32(a: int) -> int:
    """A single-precision pattern under 32 ones."""
    return a & MASK32 | MASK32 << 32
