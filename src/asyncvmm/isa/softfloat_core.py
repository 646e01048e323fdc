"""What all binary32 and binary64 operations share: normalising, rounding, packing, NaNs.

Every operation reduces to an exact *working value*: a sign, a biased exponent ``exp`` and a
significand ``sig`` in [2**61, 2**62), standing for ``sig * 2**(exp - bias - 61)``. Bits that would
fall off the low end are ORed into bit 0 ("jammed"), which keeps every rounding decision and the
inexact flag right as long as bit 0 lies below the half-way bit. Two spare bits at the top keep
every sum positive in an i64. A sign is the format's sign bit in place: 0 or the mask.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

from asyncvmm.arch.float_status import FloatStatus

RNE: Final = 0
RTZ: Final = 1
RDN: Final = 2
RUP: Final = 3
RMM: Final = 4

NX: Final = 1
UF: Final = 2
OF: Final = 4
DZ: Final = 8
NV: Final = 16

# mypyc keeps a literal of 2**62 or more as a Python int and unboxes it at every use, and gives C a
# literal below 2**31 as a 32-bit int even on the left of a shift. So the upper patterns of binary64
# are spelt as shifted literals between the two, which the C compiler folds:
# `i64(0x80000000) << 32` is the sign bit, `i64(0x3FF8000000000000) << 1` is infinity and
# `i64(0x3FFC000000000000) << 1` the canonical NaN; masks of variable length are shifted right.
SIGN32: Final = 0x80000000
ABS32: Final = 0x7FFFFFFF
EXP32: Final = 0xFF
INF32: Final = 0x7F800000
NAN32: Final = 0x7FC00000
FRAC32: Final = 0x007FFFFF
HIDDEN32: Final = 0x00800000

EXP64: Final = 0x7FF
FRAC64: Final = 0x000FFFFFFFFFFFFF
HIDDEN64: Final = 0x0010000000000000

DROP32: Final = 38
"""Bits of a working significand below binary32's last place."""
DROP64: Final = 9
"""Bits of a working significand below binary64's last place."""


def norm_shift(sig: i64) -> i64:
    """The left shift that brings the leading one of ``sig`` (0 < sig < 2**62) to bit 61."""
    shift: i64 = 0
    if sig < 0x40000000:
        shift = 32
        sig <<= 32
    if sig < 0x400000000000:
        shift += 16
        sig <<= 16
    if sig < 0x40000000000000:
        shift += 8
        sig <<= 8
    if sig < 0x400000000000000:
        shift += 4
        sig <<= 4
    if sig < 0x1000000000000000:
        shift += 2
        sig <<= 2
    if sig < 0x2000000000000000:
        shift += 1
    return shift


def shift_right_jam(sig: i64, count: i64) -> i64:
    """``sig`` (0 <= sig < 2**62) shifted right by any ``count`` >= 0, lost bits ORed into bit 0."""
    if count >= 62:
        if sig != 0:
            return 1
        return 0
    shifted = sig >> count
    return shifted if shifted << count == sig else shifted | 1


def round_right(sign: i64, sig: i64, drop: i64, rm: i64) -> i64:
    """``sig / 2**drop`` (0 <= sig < 2**62, drop 1..62) rounded to an integer as ``rm`` says."""
    if rm == RNE:
        return (sig + (0x1FFFFFFFFFFFFFFF >> (62 - drop)) + ((sig >> drop) & 1)) >> drop
    if rm == RMM:
        return (sig + (0x2000000000000000 >> (62 - drop))) >> drop
    if rm == RTZ or (rm == RDN) != (sign != 0):
        return sig >> drop
    return (sig + (0x3FFFFFFFFFFFFFFF >> (62 - drop))) >> drop


def round_pack_f64(st: FloatStatus, sign: i64, exp: i64, sig: i64, rm: i64) -> i64:
    """Round a working value to binary64, raise its flags and return the pattern."""
    if exp <= 0 or exp >= 0x7FE:
        return _round_pack_edge(st, sign, exp, sig, rm, DROP64, EXP64)
    if sig & 0x1FF != 0:
        st.flags |= NX
        if rm == RNE:
            sig += 0xFF + ((sig >> 9) & 1)
        else:
            return sign | (((exp - 1) << 52) + round_right(sign, sig, DROP64, rm))
    # The hidden bit and a carry out of the fraction both count up the exponent field.
    return sign | (((exp - 1) << 52) + (sig >> 9))


def round_pack_f32(st: FloatStatus, sign: i64, exp: i64, sig: i64, rm: i64) -> i64:
    """Round a working value to binary32, raise its flags and return the pattern."""
    if exp <= 0 or exp >= 0xFE:
        return _round_pack_edge(st, sign, exp, sig, rm, DROP32, EXP32)
    if sig & 0x3FFFFFFFFF != 0:
        st.flags |= NX
        if rm == RNE:
            sig += 0x1FFFFFFFFF + ((sig >> 38) & 1)
        else:
            return sign | (((exp - 1) << 23) + round_right(sign, sig, DROP32, rm))
    return sign | (((exp - 1) << 23) + (sig >> 38))


def _round_pack_edge(
    st: FloatStatus, sign: i64, exp: i64, sig: i64, rm: i64, drop: i64, exp_max: i64
) -> i64:
    """Round near a format's ends; ``exp_max`` is the exponent field of its infinities."""
    places = 61 - drop
    infinity = exp_max << places
    if exp <= 0:
        # IEEE 754 7.5, tininess after rounding: what counts is whether the value, rounded to full
        # precision as if the exponent had no lower bound, stays below the smallest normal number.
        tiny = exp < 0 or round_right(sign, sig, drop, rm) >> places == 1
        sig = shift_right_jam(sig, 1 - exp)
        if (sig >> drop) << drop != sig:
            st.flags |= NX
            if tiny:
                st.flags |= UF
        return sign | round_right(sign, sig, drop, rm)
    if exp < exp_max:
        packed = ((exp - 1) << places) + round_right(sign, sig, drop, rm)
        if packed < infinity:
            if (sig >> drop) << drop != sig:
                st.flags |= NX
            return sign | packed
    st.flags |= OF | NX
    if rm == RTZ or (rm == RDN and sign == 0) or (rm == RUP and sign != 0):
        return sign | (infinity - 1)
    return sign | infinity


def is_nan_f32(a: i64) -> bool:
    """Whether the binary32 pattern is a NaN."""
    return (a & ABS32) > INF32


def is_nan_f64(a: i64) -> bool:
    """Whether the binary64 pattern is a NaN."""
    return (a >> 52) & EXP64 == EXP64 and a & FRAC64 != 0


def is_snan_f32(a: i64) -> bool:
    """Whether the binary32 pattern is a signaling NaN (the fraction's top bit is clear)."""
    return (a & ABS32) > INF32 and a & 0x00400000 == 0


def is_snan_f64(a: i64) -> bool:
    """Whether the binary64 pattern is a signaling NaN (the fraction's top bit is clear)."""
    return (a >> 51) & 0xFFF == 0xFFE and a & 0x0007FFFFFFFFFFFF != 0


def nan_result_f32(st: FloatStatus, a: i64, b: i64) -> i64:
    """The result of an operation with a NaN among ``a`` and ``b``: canonical, NV if one signals."""
    if is_snan_f32(a) or is_snan_f32(b):
        st.flags |= NV
    return NAN32


def nan_result_f64(st: FloatStatus, a: i64, b: i64) -> i64:
    """The result of an operation with a NaN among ``a`` and ``b``: canonical, NV if one signals."""
    if is_snan_f64(a) or is_snan_f64(b):
        st.flags |= NV
    return i64(0x3FFC000000000000) << 1


def invalid_f32(st: FloatStatus) -> i64:
    """Raise NV and return the canonical binary32 NaN."""
    st.flags |= NV
    return NAN32


def invalid_f64(st: FloatStatus) -> i64:
    """Raise NV and return the canonical binary64 NaN."""
    st.flags |= NV
    return i64(0x3FFC000000000000) << 1
