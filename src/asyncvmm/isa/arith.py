"""Integer operations of M and Zbb on two's complement words, for the compiled engines."""

from __future__ import annotations

from mypy_extensions import i64

from asyncvmm.base.bits import sext32, shr, ult


def mulhu(a: i64, b: i64) -> i64:
    """High 64 bits of the unsigned product."""
    low_mask: i64 = 0xFFFFFFFF
    a0 = a & low_mask
    a1 = (a >> 32) & low_mask
    b0 = b & low_mask
    b1 = (b >> 32) & low_mask
    middle = a1 * b0 + shr(a0 * b0, 32)
    other = a0 * b1 + (middle & low_mask)
    return a1 * b1 + shr(middle, 32) + shr(other, 32)


def mulh(a: i64, b: i64) -> i64:
    """High 64 bits of the signed product."""
    high = mulhu(a, b)
    if a < 0:
        high -= b
    if b < 0:
        high -= a
    return high


def mulhsu(a: i64, b: i64) -> i64:
    """High 64 bits of signed ``a`` times unsigned ``b``."""
    high = mulhu(a, b)
    return high - b if a < 0 else high


def div(a: i64, b: i64) -> i64:
    """DIV: rounds towards zero; -1 by zero; overflow gives the dividend (13.2)."""
    if b == 0:
        return -1
    if b == -1:
        return -a
    q = a // b
    if q < 0 and q * b != a:  # // rounds down
        q += 1
    return q


def rem(a: i64, b: i64) -> i64:
    """REM: the sign of the dividend; the dividend by zero; 0 on overflow (13.2)."""
    if b == 0:
        return a
    if b == -1:
        return 0
    return a - div(a, b) * b


def divu(a: i64, b: i64) -> i64:
    """DIVU: all ones by zero (13.2)."""
    if b == 0:
        return -1
    if b < 0:
        return 0 if ult(a, b) else 1
    if a >= 0:
        return a // b
    q = (shr(a, 1) // b) << 1
    return q if ult(a - q * b, b) else q + 1


def remu(a: i64, b: i64) -> i64:
    """REMU: the dividend by zero (13.2)."""
    if b == 0:
        return a
    return a - divu(a, b) * b


def divw(a: i64, b: i64) -> i64:
    """DIVW of the low 32 bits."""
    return sext32(div(sext32(a), sext32(b)))


def remw(a: i64, b: i64) -> i64:
    """REMW of the low 32 bits."""
    return sext32(rem(sext32(a), sext32(b)))


def divuw(a: i64, b: i64) -> i64:
    """DIVUW of the low 32 bits."""
    return sext32(divu(a & 0xFFFFFFFF, b & 0xFFFFFFFF))


def remuw(a: i64, b: i64) -> i64:
    """REMUW of the low 32 bits."""
    return sext32(remu(a & 0xFFFFFFFF, b & 0xFFFFFFFF))


def cpop64(a: i64) -> i64:
    """Number of ones."""
    a = a - (shr(a, 1) & 0x5555555555555555)
    a = (a & 0x3333333333333333) + (shr(a, 2) & 0x3333333333333333)
    a = (a + shr(a, 4)) & 0x0F0F0F0F0F0F0F0F
    return shr(a * 0x0101010101010101, 56)


def cpop32(a: i64) -> i64:
    """Number of ones in the low 32 bits."""
    return cpop64(a & 0xFFFFFFFF)


def ctz64(a: i64) -> i64:
    """Number of trailing zeros; 64 for 0."""
    if a == 0:
        return 64
    return cpop64((a & -a) - 1)


def ctz32(a: i64) -> i64:
    """Number of trailing zeros of the low 32 bits; 32 for 0."""
    a = a & 0xFFFFFFFF
    return 32 if a == 0 else ctz64(a)


def clz64(a: i64) -> i64:
    """Number of leading zeros; 64 for 0."""
    if a < 0:
        return 0
    a |= a >> 1
    a |= a >> 2
    a |= a >> 4
    a |= a >> 8
    a |= a >> 16
    a |= a >> 32
    return 64 - cpop64(a)


def clz32(a: i64) -> i64:
    """Number of leading zeros of the low 32 bits; 32 for 0."""
    return clz64(a & 0xFFFFFFFF) - 32


def rol64(a: i64, n: i64) -> i64:
    """Rotate left by 0..63."""
    return a if n == 0 else (a << n) | shr(a, 64 - n)


def ror64(a: i64, n: i64) -> i64:
    """Rotate right by 0..63."""
    return a if n == 0 else shr(a, n) | (a << (64 - n))


def rol32(a: i64, n: i64) -> i64:
    """Rotate the low 32 bits left by 0..31, sign-extended."""
    low = a & 0xFFFFFFFF
    return sext32((low << n) | (low >> (32 - n)))


def ror32(a: i64, n: i64) -> i64:
    """Rotate the low 32 bits right by 0..31, sign-extended."""
    low = a & 0xFFFFFFFF
    return sext32((low >> n) | (low << (32 - n)))


def rev8(a: i64) -> i64:
    """The bytes in the opposite order."""
    a = (shr(a, 8) & 0x00FF00FF00FF00FF) | ((a & 0x00FF00FF00FF00FF) << 8)
    a = (shr(a, 16) & 0x0000FFFF0000FFFF) | ((a & 0x0000FFFF0000FFFF) << 16)
    return shr(a, 32) | (a << 32)


def orcb(a: i64) -> i64:
    """Each byte all ones unless it is zero."""
    ones: i64 = 0x0101010101010101
    a |= shr(a, 4) & 0x0F0F0F0F0F0F0F0F
    a |= shr(a, 2) & 0x3F3F3F3F3F3F3F3F
    a |= shr(a, 1)
    return (a & ones) * 255
