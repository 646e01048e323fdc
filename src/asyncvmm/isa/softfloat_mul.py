"""Multiplication of binary32 and binary64 (IEEE 754-2019, 5.4.1)."""

from __future__ import annotations

from mypy_extensions import i64

from asyncvmm.arch.float_status import FloatStatus
from asyncvmm.isa.softfloat_core import (
    ABS32,
    FRAC32,
    FRAC64,
    HIDDEN32,
    HIDDEN64,
    INF32,
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
)


def f64_mul(st: FloatStatus, a: i64, b: i64, rm: i64) -> i64:
    """``a * b`` in binary64."""
    sign = ((a ^ b) >> 63) << 63
    exp_a = (a >> 52) & 0x7FF
    exp_b = (b >> 52) & 0x7FF
    sig_a = a & FRAC64
    sig_b = b & FRAC64
    if exp_a == 0x7FF or exp_b == 0x7FF:
        return _special_f64(st, a, b)
    if exp_a != 0:
        sig_a |= HIDDEN64
    else:
        if sig_a == 0:
            return sign
        exp_a = 10 - norm_shift(sig_a)
        sig_a <<= 1 - exp_a
    if exp_b != 0:
        sig_b |= HIDDEN64
    else:
        if sig_b == 0:
            return sign
        exp_b = 10 - norm_shift(sig_b)
        sig_b <<= 1 - exp_b

    # 53 x 53 bits in halves of 26 and 27, so that no partial sum needs an unsigned word; the
    # product, in [2**104, 2**106), keeps its upper 62 bits and jams the 44 below them.
    high_a = sig_a >> 27
    low_a = sig_a & 0x7FFFFFF
    high_b = sig_b >> 27
    low_b = sig_b & 0x7FFFFFF
    middle = high_a * low_b + low_a * high_b
    low = ((middle & 0x1FFFF) << 27) + low_a * low_b
    sig = ((high_a * high_b) << 10) + (middle >> 17) + (low >> 44)
    if low & 0xFFFFFFFFFFF != 0:
        sig |= 1
    exp = exp_a + exp_b - 1022
    if sig < 0x2000000000000000:
        sig <<= 1
        exp -= 1
    return round_pack_f64(st, sign, exp, sig, rm)


def f32_mul(st: FloatStatus, a: i64, b: i64, rm: i64) -> i64:
    """``a * b`` in binary32."""
    sign = (a ^ b) & SIGN32
    exp_a = (a >> 23) & 0xFF
    exp_b = (b >> 23) & 0xFF
    sig_a = a & FRAC32
    sig_b = b & FRAC32
    if exp_a == 0xFF or exp_b == 0xFF:
        return _special_f32(st, a, b)
    if exp_a != 0:
        sig_a |= HIDDEN32
    else:
        if sig_a == 0:
            return sign
        exp_a = 39 - norm_shift(sig_a)
        sig_a <<= 1 - exp_a
    if exp_b != 0:
        sig_b |= HIDDEN32
    else:
        if sig_b == 0:
            return sign
        exp_b = 39 - norm_shift(sig_b)
        sig_b <<= 1 - exp_b

    sig = (sig_a * sig_b) << 14
    exp = exp_a + exp_b - 126
    if sig < 0x2000000000000000:
        sig <<= 1
        exp -= 1
    return round_pack_f32(st, sign, exp, sig, rm)


def _special_f64(st: FloatStatus, a: i64, b: i64) -> i64:
    """A product with an infinity or a NaN in it."""
    if is_nan_f64(a) or is_nan_f64(b):
        return nan_result_f64(st, a, b)
    if a << 1 == 0 or b << 1 == 0:
        return invalid_f64(st)
    return (((a ^ b) >> 63) << 63) | (i64(0x3FF8000000000000) << 1)


def _special_f32(st: FloatStatus, a: i64, b: i64) -> i64:
    """A product with an infinity or a NaN in it."""
    if is_nan_f32(a) or is_nan_f32(b):
        return nan_result_f32(st, a, b)
    if a & ABS32 == 0 or b & ABS32 == 0:
        return invalid_f32(st)
    return ((a ^ b) & SIGN32) | INF32
