"""Division and square root of binary32 and binary64 (IEEE 754-2019, 5.4.1)."""

from __future__ import annotations

import math

from mypy_extensions import i64

from asyncvmm.arch.float_status import FloatStatus
from asyncvmm.isa.softfloat_core import (
    ABS32,
    DZ,
    EXP32,
    EXP64,
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


def f64_div(st: FloatStatus, a: i64, b: i64, rm: i64) -> i64:
    """``a / b`` in binary64."""
    sign = ((a ^ b) >> 63) << 63
    exp_a = (a >> 52) & EXP64
    exp_b = (b >> 52) & EXP64
    sig_a = a & FRAC64
    sig_b = b & FRAC64
    if exp_a == EXP64 or exp_b == EXP64 or b << 1 == 0:
        return _div_special_f64(st, a, b)
    if exp_b != 0:
        sig_b |= HIDDEN64
    else:
        exp_b = 10 - norm_shift(sig_b)
        sig_b <<= 1 - exp_b
    if exp_a != 0:
        sig_a |= HIDDEN64
    else:
        if sig_a == 0:
            return sign
        exp_a = 10 - norm_shift(sig_a)
        sig_a <<= 1 - exp_a

    exp = exp_a - exp_b + 1023
    if sig_a < sig_b:
        sig_a <<= 1
        exp -= 1
    # Schoolbook division with digits of 28 bits: the quotient is 1.d1 d2. A digit is guessed from
    # the remainder and the divisor's upper bits rounded up: never too high, at most one too low.
    # The new remainder is below 2 * sig_b, so it is right whatever `rem << 28` lost at the top.
    guess = (sig_b >> 21) + 1
    rem = sig_a - sig_b
    digit = ((rem << 10) // guess) >> 3
    rem = (rem << 28) - digit * sig_b
    if rem >= sig_b:
        rem -= sig_b
        digit += 1
    sig = (1 << 28) + digit
    digit = ((rem << 10) // guess) >> 3
    rem = (rem << 28) - digit * sig_b
    if rem >= sig_b:
        rem -= sig_b
        digit += 1
    sig = ((sig << 28) + digit) << 5
    if rem != 0:
        sig |= 1
    return round_pack_f64(st, sign, exp, sig, rm)


def f32_div(st: FloatStatus, a: i64, b: i64, rm: i64) -> i64:
    """``a / b`` in binary32."""
    sign = (a ^ b) & SIGN32
    exp_a = (a >> 23) & EXP32
    exp_b = (b >> 23) & EXP32
    sig_a = a & FRAC32
    sig_b = b & FRAC32
    if exp_a == EXP32 or exp_b == EXP32 or b & ABS32 == 0:
        return _div_special_f32(st, a, b)
    if exp_b != 0:
        sig_b |= HIDDEN32
    else:
        exp_b = 39 - norm_shift(sig_b)
        sig_b <<= 1 - exp_b
    if exp_a != 0:
        sig_a |= HIDDEN32
    else:
        if sig_a == 0:
            return sign
        exp_a = 39 - norm_shift(sig_a)
        sig_a <<= 1 - exp_a

    exp = exp_a - exp_b + 127
    if sig_a < sig_b:
        sig_a <<= 1
        exp -= 1
    dividend = sig_a << 37
    quotient = dividend // sig_b
    sig = quotient << 24
    if quotient * sig_b != dividend:
        sig |= 1
    return round_pack_f32(st, sign, exp, sig, rm)


def f64_sqrt(st: FloatStatus, a: i64, rm: i64) -> i64:
    """The square root of ``a`` in binary64."""
    exp_a = (a >> 52) & EXP64
    sig_a = a & FRAC64
    if a <= 0 or exp_a == EXP64:
        if a << 1 == 0 or a == i64(0x3FF8000000000000) << 1:
            return a
        if is_nan_f64(a):
            return nan_result_f64(st, a, a)
        return invalid_f64(st)
    if exp_a != 0:
        sig_a |= HIDDEN64
    else:
        exp_a = 10 - norm_shift(sig_a)
        sig_a <<= 1 - exp_a

    # The radicand, in [2**60, 2**62), stands for a number in [1, 4) beside an even power of two.
    radicand = sig_a << (9 - (exp_a & 1))
    exp = (exp_a + 1023) >> 1
    # Zimmermann's Karatsuba square root: 31 bits and a remainder, then 30 more from one division.
    root = _isqrt(radicand)
    rem = radicand - root * root
    scaled = rem << 30
    digit = scaled // (root << 1)
    rem = ((scaled - digit * (root << 1)) << 30) - digit * digit
    root = (root << 30) + digit
    while rem < 0:
        root -= 1
        rem += (root << 1) + 1
    sig = root << 1
    if rem != 0:
        sig |= 1
    return round_pack_f64(st, 0, exp, sig, rm)


def f32_sqrt(st: FloatStatus, a: i64, rm: i64) -> i64:
    """The square root of ``a`` in binary32."""
    exp_a = (a >> 23) & EXP32
    sig_a = a & FRAC32
    if a & SIGN32 != 0 or a == 0 or exp_a == EXP32:
        if a & ABS32 == 0 or a == INF32:
            return a
        if is_nan_f32(a):
            return nan_result_f32(st, a, a)
        return invalid_f32(st)
    if exp_a != 0:
        sig_a |= HIDDEN32
    else:
        exp_a = 39 - norm_shift(sig_a)
        sig_a <<= 1 - exp_a

    radicand = sig_a << (38 - (exp_a & 1))
    exp = (exp_a + 127) >> 1
    root = _isqrt(radicand)
    sig = root << 31
    if root * root != radicand:
        sig |= 1
    return round_pack_f32(st, 0, exp, sig, rm)


def _isqrt(value: i64) -> i64:
    """The integer part of a radicand's square root (53 bits and zeros, below 2**62)."""
    # A double holds the radicand exactly, and its rounded root is never below the integer part; it
    # is one too high when the root lies within half a place below an integer.
    root = i64(math.sqrt(float(value)))
    if root * root > value:
        root -= 1
    return root


def _div_special_f64(st: FloatStatus, a: i64, b: i64) -> i64:
    """A quotient with an infinity, a NaN or a zero divisor in it."""
    if is_nan_f64(a) or is_nan_f64(b):
        return nan_result_f64(st, a, b)
    sign = ((a ^ b) >> 63) << 63
    if (a >> 52) & EXP64 == EXP64:
        if (b >> 52) & EXP64 == EXP64:
            return invalid_f64(st)
        return sign | (i64(0x3FF8000000000000) << 1)
    if (b >> 52) & EXP64 == EXP64:
        return sign
    if a << 1 == 0:
        return invalid_f64(st)
    st.flags |= DZ
    return sign | (i64(0x3FF8000000000000) << 1)


def _div_special_f32(st: FloatStatus, a: i64, b: i64) -> i64:
    """A quotient with an infinity, a NaN or a zero divisor in it."""
    if is_nan_f32(a) or is_nan_f32(b):
        return nan_result_f32(st, a, b)
    sign = (a ^ b) & SIGN32
    if a & INF32 == INF32:
        if b & INF32 == INF32:
            return invalid_f32(st)
        return sign | INF32
    if b & INF32 == INF32:
        return sign
    if a & ABS32 == 0:
        return invalid_f32(st)
    st.flags |= DZ
    return sign | INF32
