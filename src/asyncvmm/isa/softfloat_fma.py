"""Fused multiply-add of binary32 and binary64: one rounding (IEEE 754-2019, 5.4.1)."""

from __future__ import annotations

from mypy_extensions import i64

from asyncvmm.arch.float_status import FloatStatus
from asyncvmm.isa.softfloat_core import (
    ABS32,
    EXP32,
    EXP64,
    FRAC32,
    FRAC64,
    HIDDEN32,
    HIDDEN64,
    INF32,
    NV,
    RDN,
    SIGN32,
    invalid_f32,
    invalid_f64,
    is_nan_f32,
    is_nan_f64,
    is_snan_f32,
    is_snan_f64,
    nan_result_f32,
    nan_result_f64,
    norm_shift,
    round_pack_f32,
    round_pack_f64,
    shift_right_jam,
)


def f64_fma(st: FloatStatus, a: i64, b: i64, c: i64, rm: i64) -> i64:
    """``a * b + c`` in binary64, rounded once."""
    exp_a = (a >> 52) & EXP64
    exp_b = (b >> 52) & EXP64
    exp_c = (c >> 52) & EXP64
    sig_a = a & FRAC64
    sig_b = b & FRAC64
    sig_c = c & FRAC64
    if exp_a == EXP64 or exp_b == EXP64 or exp_c == EXP64:
        return _special_f64(st, a, b, c)
    negative = a ^ b  # the sign of the product
    if a << 1 == 0 or b << 1 == 0:
        return _zero_product_f64(negative, c, rm)
    if exp_a != 0:
        sig_a |= HIDDEN64
    else:
        exp_a = 10 - norm_shift(sig_a)
        sig_a <<= 1 - exp_a
    if exp_b != 0:
        sig_b |= HIDDEN64
    else:
        exp_b = 10 - norm_shift(sig_b)
        sig_b <<= 1 - exp_b

    # Two numbers of two words, radix 2**62: the product's top bit is 120 or 121, the addend's 121.
    # Nothing is jammed before 16 zeros below the product, or 69 below the addend, are used up; then
    # the two are so far apart that at most two leading bits cancel, and the jammed bit stays low.
    high_a = sig_a >> 27
    low_a = sig_a & 0x7FFFFFF
    high_b = sig_b >> 27
    low_b = sig_b & 0x7FFFFFF
    middle = high_a * low_b + low_a * high_b
    low = low_a * low_b
    part = ((middle & 0x7FFFF) << 43) + ((low & 0x3FFFFFFFFFFF) << 16)
    hi = ((high_a * high_b) << 8) + (middle >> 19) + (low >> 46) + (part >> 62)
    lo = part & 0x3FFFFFFFFFFFFFFF
    exp = exp_a + exp_b - 1022

    hi_c: i64 = 0
    lo_c: i64 = 0
    if exp_c != 0:
        hi_c = (sig_c | HIDDEN64) << 7
    elif sig_c != 0:
        exp_c = 10 - norm_shift(sig_c)
        hi_c = sig_c << (8 - exp_c)
    else:
        exp_c = exp
    distance = exp - exp_c
    if distance > 0:
        if distance < 62:
            upper = hi_c >> distance
            lo_c = (hi_c - (upper << distance)) << (62 - distance)
            hi_c = upper
        else:
            lo_c = shift_right_jam(hi_c, distance - 62)
            hi_c = 0
    elif distance < 0:
        exp = exp_c
        distance = -distance
        if distance < 62:
            upper = hi >> distance
            lo = shift_right_jam(lo, distance) | ((hi - (upper << distance)) << (62 - distance))
            hi = upper
        else:
            # `hi` is not 0 and now below the place that decides: it alone is sticky enough.
            lo = shift_right_jam(hi, distance - 62)
            hi = 0

    if (negative ^ c) >= 0:
        hi += hi_c
        lo += lo_c
        hi += lo >> 62
        lo &= 0x3FFFFFFFFFFFFFFF
    else:
        hi -= hi_c
        lo -= lo_c
        if hi < 0 or (hi == 0 and lo < 0):
            hi = -hi
            lo = -lo
            negative = c
        if lo < 0:
            hi -= 1
            lo = (lo + 1) + 0x3FFFFFFFFFFFFFFF
        if hi == 0:
            if lo == 0:
                return i64(0x80000000) << 32 if rm == RDN else 0
            hi = lo
            lo = 0
            exp -= 62
    # The upper bit goes to 61; a weight of 2**121 belongs to `exp`.
    shift = norm_shift(hi)
    hi = (hi << shift) | shift_right_jam(lo, 62 - shift)
    return round_pack_f64(st, (negative >> 63) << 63, exp + 2 - shift, hi, rm)


def f32_fma(st: FloatStatus, a: i64, b: i64, c: i64, rm: i64) -> i64:
    """``a * b + c`` in binary32, rounded once."""
    exp_a = (a >> 23) & EXP32
    exp_b = (b >> 23) & EXP32
    exp_c = (c >> 23) & EXP32
    sig_a = a & FRAC32
    sig_b = b & FRAC32
    sig_c = c & FRAC32
    if exp_a == EXP32 or exp_b == EXP32 or exp_c == EXP32:
        return _special_f32(st, a, b, c)
    sign = (a ^ b) & SIGN32
    if a & ABS32 == 0 or b & ABS32 == 0:
        return _zero_product_f32(sign, c, rm)
    if exp_a != 0:
        sig_a |= HIDDEN32
    else:
        exp_a = 39 - norm_shift(sig_a)
        sig_a <<= 1 - exp_a
    if exp_b != 0:
        sig_b |= HIDDEN32
    else:
        exp_b = 39 - norm_shift(sig_b)
        sig_b <<= 1 - exp_b

    # The product's 48 bits fit a word with 14 zeros below them, so one word is enough.
    sig = (sig_a * sig_b) << 14
    exp = exp_a + exp_b - 126
    if exp_c != 0:
        sig_c = (sig_c | HIDDEN32) << 38
    elif sig_c != 0:
        exp_c = 39 - norm_shift(sig_c)
        sig_c <<= 39 - exp_c
    else:
        exp_c = exp
    if exp > exp_c:
        sig_c = shift_right_jam(sig_c, exp - exp_c)
    elif exp < exp_c:
        sig = shift_right_jam(sig, exp_c - exp)
        exp = exp_c

    if (sign ^ c) & SIGN32 == 0:
        sig += sig_c
        if sig > 0x3FFFFFFFFFFFFFFF:
            sig = (sig >> 1) | (sig & 1)
            exp += 1
    else:
        sig -= sig_c
        if sig < 0:
            sig = -sig
            sign ^= SIGN32
        elif sig == 0:
            return SIGN32 if rm == RDN else 0
    if sig < 0x2000000000000000:
        shift = norm_shift(sig)
        sig <<= shift
        exp -= shift
    return round_pack_f32(st, sign, exp, sig, rm)


def _zero_product_f64(negative: i64, c: i64, rm: i64) -> i64:
    """A zero with the sign of ``negative``, plus ``c``."""
    if c << 1 != 0:
        return c
    if (negative ^ c) >= 0:
        return c
    return i64(0x80000000) << 32 if rm == RDN else 0


def _zero_product_f32(sign: i64, c: i64, rm: i64) -> i64:
    """A zero with the given sign, plus ``c``."""
    if c & ABS32 != 0 or sign == c:
        return c
    return SIGN32 if rm == RDN else 0


def _special_f64(st: FloatStatus, a: i64, b: i64, c: i64) -> i64:
    """A fused multiply-add with an infinity or a NaN in it."""
    infinite_a = a << 1 == i64(0x3FF8000000000000) << 2
    infinite_b = b << 1 == i64(0x3FF8000000000000) << 2
    # RISC-V: infinity times zero raises NV even when a quiet NaN is added (F extension, 20.6).
    if (infinite_a and b << 1 == 0) or (infinite_b and a << 1 == 0):
        return invalid_f64(st)
    if is_nan_f64(a) or is_nan_f64(b) or is_nan_f64(c):
        if is_snan_f64(c):
            st.flags |= NV
        return nan_result_f64(st, a, b)
    if not (infinite_a or infinite_b):
        return c
    if c << 1 == i64(0x3FF8000000000000) << 2 and (a ^ b ^ c) < 0:
        return invalid_f64(st)
    return (((a ^ b) >> 63) << 63) | (i64(0x3FF8000000000000) << 1)


def _special_f32(st: FloatStatus, a: i64, b: i64, c: i64) -> i64:
    """A fused multiply-add with an infinity or a NaN in it."""
    infinite_a = a & ABS32 == INF32
    infinite_b = b & ABS32 == INF32
    if (infinite_a and b & ABS32 == 0) or (infinite_b and a & ABS32 == 0):
        return invalid_f32(st)
    if is_nan_f32(a) or is_nan_f32(b) or is_nan_f32(c):
        if is_snan_f32(c):
            st.flags |= NV
        return nan_result_f32(st, a, b)
    if not (infinite_a or infinite_b):
        return c
    if c & ABS32 == INF32 and (a ^ b ^ c) & SIGN32 != 0:
        return invalid_f32(st)
    return ((a ^ b) & SIGN32) | INF32
