"""Conversions between binary32 and binary64, and from integers (IEEE 754-2019, 5.4.1 and 5.4.2)."""

from __future__ import annotations

from mypy_extensions import i64

from asyncvmm.arch.float_status import FloatStatus
from asyncvmm.isa.softfloat_core import (
    EXP32,
    EXP64,
    FRAC32,
    FRAC64,
    HIDDEN64,
    INF32,
    SIGN32,
    is_nan_f64,
    nan_result_f32,
    nan_result_f64,
    norm_shift,
    round_pack_f32,
    round_pack_f64,
)


def f32_to_f64(st: FloatStatus, a: i64) -> i64:
    """Binary32 to binary64, which is exact; NaNs become canonical."""
    sign = (a >> 31) << 63
    exp = (a >> 23) & EXP32
    sig = a & FRAC32
    if exp == EXP32:
        if sig != 0:
            nan_result_f32(st, a, a)
            return i64(0x3FFC000000000000) << 1
        return sign | (i64(0x3FF8000000000000) << 1)
    if exp == 0:
        if sig == 0:
            return sign
        shift = norm_shift(sig) - 38
        sig = (sig << shift) & FRAC32
        exp = 1 - shift
    return sign | ((exp + 896) << 52) | (sig << 29)


def f64_to_f32(st: FloatStatus, a: i64, rm: i64) -> i64:
    """Binary64 to binary32; NaNs become canonical."""
    sign = (a >> 63) & SIGN32
    exp = (a >> 52) & EXP64
    sig = a & FRAC64
    if exp == EXP64:
        if is_nan_f64(a):
            nan_result_f64(st, a, a)
            return nan_result_f32(st, 0, 0)
        return sign | INF32
    if exp != 0:
        return round_pack_f32(st, sign, exp - 896, (sig | HIDDEN64) << 9, rm)
    if sig == 0:
        return sign
    shift = norm_shift(sig)
    return round_pack_f32(st, sign, -886 - shift, sig << shift, rm)


def i32_to_f32(st: FloatStatus, v: i64, rm: i64) -> i64:
    """The low 32 bits of ``v``, signed, to binary32."""
    return i64_to_f32(st, ((v & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000, rm)


def u32_to_f32(st: FloatStatus, v: i64, rm: i64) -> i64:
    """The low 32 bits of ``v``, unsigned, to binary32."""
    return i64_to_f32(st, v & 0xFFFFFFFF, rm)


def i64_to_f32(st: FloatStatus, v: i64, rm: i64) -> i64:
    """The signed word ``v`` to binary32."""
    if v >= 0:
        return u64_to_f32(st, v, rm)
    return _from_magnitude_f32(st, SIGN32, -v, rm)


def u64_to_f32(st: FloatStatus, v: i64, rm: i64) -> i64:
    """The word ``v``, read as unsigned, to binary32."""
    if v == 0:
        return 0
    return _from_magnitude_f32(st, 0, v, rm)


def i32_to_f64(st: FloatStatus, v: i64, rm: i64) -> i64:
    """The low 32 bits of ``v``, signed, to binary64."""
    return i64_to_f64(st, ((v & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000, rm)


def u32_to_f64(st: FloatStatus, v: i64, rm: i64) -> i64:
    """The low 32 bits of ``v``, unsigned, to binary64."""
    return i64_to_f64(st, v & 0xFFFFFFFF, rm)


def i64_to_f64(st: FloatStatus, v: i64, rm: i64) -> i64:
    """The signed word ``v`` to binary64."""
    if v >= 0:
        return u64_to_f64(st, v, rm)
    return _from_magnitude_f64(st, i64(0x80000000) << 32, -v, rm)


def u64_to_f64(st: FloatStatus, v: i64, rm: i64) -> i64:
    """The word ``v``, read as unsigned, to binary64."""
    if v == 0:
        return 0
    return _from_magnitude_f64(st, 0, v, rm)


def _from_magnitude_f32(st: FloatStatus, sign: i64, v: i64, rm: i64) -> i64:
    """An unsigned word other than 0, with a sign, to binary32."""
    exp: i64 = 127 + 61
    if v >> 62 != 0:  # the top two bits make room
        # Jam the two bits below: `-(v & 3)` is negative unless both are 0.
        v = ((v >> 2) & 0x3FFFFFFFFFFFFFFF) | ((-(v & 3) >> 2) & 1)
        exp = 127 + 63
    shift = norm_shift(v)
    return round_pack_f32(st, sign, exp - shift, v << shift, rm)


def _from_magnitude_f64(st: FloatStatus, sign: i64, v: i64, rm: i64) -> i64:
    """An unsigned word other than 0, with a sign, to binary64."""
    exp: i64 = 1023 + 61
    if v >> 62 != 0:
        # Jam the two bits below: `-(v & 3)` is negative unless both are 0.
        v = ((v >> 2) & 0x3FFFFFFFFFFFFFFF) | ((-(v & 3) >> 2) & 1)
        exp = 1023 + 63
    shift = norm_shift(v)
    return round_pack_f64(st, sign, exp - shift, v << shift, rm)
