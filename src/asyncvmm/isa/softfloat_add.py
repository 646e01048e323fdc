"""Addition and subtraction of binary32 and binary64 (IEEE 754-2019, 5.4.1)."""

from __future__ import annotations

from mypy_extensions import i64

from asyncvmm.arch.float_status import FloatStatus
from asyncvmm.isa.softfloat_core import (
    EXP64,
    FRAC32,
    FRAC64,
    HIDDEN32,
    HIDDEN64,
    INF32,
    RDN,
    SIGN32,
    invalid_f32,
    invalid_f64,
    is_nan_f32,
    is_nan_f64,
    nan_result_f32,
    nan_result_f64,
    norm_shift,
    round_pack_f32,
    round_pack_f64,
    shift_right_jam,
)


def f64_add(st: FloatStatus, a: i64, b: i64, rm: i64) -> i64:
    """``a + b`` in binary64."""
    exp = (a >> 52) & 0x7FF
    exp_b = (b >> 52) & 0x7FF
    if exp == 0x7FF or exp_b == 0x7FF:
        return _special_f64(st, a, b)
    sign = (a >> 63) << 63
    sig = (a & FRAC64) << 9
    sig_b = (b & FRAC64) << 9
    # A subnormal has the exponent of the smallest normal and no hidden bit.
    if exp != 0:
        sig |= HIDDEN64 << 9
    else:
        exp = 1
    if exp_b != 0:
        sig_b |= HIDDEN64 << 9
    else:
        exp_b = 1
    if exp < exp_b:
        sig = shift_right_jam(sig, exp_b - exp)
        exp = exp_b
    elif exp > exp_b:
        sig_b = shift_right_jam(sig_b, exp - exp_b)

    if (a ^ b) >= 0:
        sig += sig_b
        if sig > 0x3FFFFFFFFFFFFFFF:
            sig = (sig >> 1) | (sig & 1)
            exp += 1
        elif sig < 0x2000000000000000:
            return sign | (sig >> 9)  # two subnormals, or zeros: exact
    else:
        sig -= sig_b
        if sig < 0:
            sig = -sig
            sign ^= i64(0x80000000) << 32
        elif sig == 0:
            return i64(0x80000000) << 32 if rm == RDN else 0
        if sig < 0x2000000000000000:
            shift = norm_shift(sig)
            sig <<= shift
            exp -= shift
    return round_pack_f64(st, sign, exp, sig, rm)


def f64_sub(st: FloatStatus, a: i64, b: i64, rm: i64) -> i64:
    """``a - b`` in binary64."""
    # A NaN's sign does not matter, because every NaN result is the canonical one.
    return f64_add(st, a, b ^ (i64(0x80000000) << 32), rm)


def f32_add(st: FloatStatus, a: i64, b: i64, rm: i64) -> i64:
    """``a + b`` in binary32."""
    exp = (a >> 23) & 0xFF
    exp_b = (b >> 23) & 0xFF
    if exp == 0xFF or exp_b == 0xFF:
        return _special_f32(st, a, b)
    sign = a & SIGN32
    sig = (a & FRAC32) << 38
    sig_b = (b & FRAC32) << 38
    if exp != 0:
        sig |= HIDDEN32 << 38
    else:
        exp = 1
    if exp_b != 0:
        sig_b |= HIDDEN32 << 38
    else:
        exp_b = 1
    if exp < exp_b:
        sig = shift_right_jam(sig, exp_b - exp)
        exp = exp_b
    elif exp > exp_b:
        sig_b = shift_right_jam(sig_b, exp - exp_b)

    if (a ^ b) & SIGN32 == 0:
        sig += sig_b
        if sig > 0x3FFFFFFFFFFFFFFF:
            sig = (sig >> 1) | (sig & 1)
            exp += 1
        elif sig < 0x2000000000000000:
            return sign | (sig >> 38)
    else:
        sig -= sig_b
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


def f32_sub(st: FloatStatus, a: i64, b: i64, rm: i64) -> i64:
    """``a - b`` in binary32."""
    return f32_add(st, a, b ^ SIGN32, rm)


def _special_f64(st: FloatStatus, a: i64, b: i64) -> i64:
    """A sum with an infinity or a NaN in it."""
    if is_nan_f64(a) or is_nan_f64(b):
        return nan_result_f64(st, a, b)
    infinite_a = (a >> 52) & EXP64 == EXP64
    if infinite_a and (b >> 52) & EXP64 == EXP64 and (a ^ b) < 0:
        return invalid_f64(st)
    return a if infinite_a else b


def _special_f32(st: FloatStatus, a: i64, b: i64) -> i64:
    """A sum with an infinity or a NaN in it."""
    if is_nan_f32(a) or is_nan_f32(b):
        return nan_result_f32(st, a, b)
    infinite_a = a & INF32 == INF32
    if infinite_a and b & INF32 == INF32 and (a ^ b) & SIGN32 != 0:
        return invalid_f32(st)
    return a if infinite_a else b
