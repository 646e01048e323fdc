"""Comparison, minimum, maximum and classification of binary32 and binary64.

IEEE 754-2019 5.11 (comparisons), 9.6 (minimumNumber, maximumNumber) and 5.7.2 (class), with the
results that the RISC-V F and D extensions give them.
"""

from __future__ import annotations

from mypy_extensions import i64

from asyncvmm.arch.float_status import FloatStatus
from asyncvmm.isa.softfloat_core import (
    ABS32,
    EXP64,
    FRAC64,
    HIDDEN32,
    INF32,
    NAN32,
    NV,
    SIGN32,
    is_nan_f32,
    is_nan_f64,
    is_snan_f32,
    is_snan_f64,
)


def f64_eq(st: FloatStatus, a: i64, b: i64) -> i64:
    """1 if ``a == b``, else 0; quiet: only a signaling NaN raises NV."""
    if is_nan_f64(a) or is_nan_f64(b):
        if is_snan_f64(a) or is_snan_f64(b):
            st.flags |= NV
        return 0
    if a == b or (a | b) << 1 == 0:
        return 1
    return 0


def f64_lt(st: FloatStatus, a: i64, b: i64) -> i64:
    """1 if ``a < b``, else 0; signaling: any NaN raises NV."""
    if is_nan_f64(a) or is_nan_f64(b):
        st.flags |= NV
        return 0
    if _key_f64(a) < _key_f64(b) and (a | b) << 1 != 0:
        return 1
    return 0


def f64_le(st: FloatStatus, a: i64, b: i64) -> i64:
    """1 if ``a <= b``, else 0; signaling: any NaN raises NV."""
    if is_nan_f64(a) or is_nan_f64(b):
        st.flags |= NV
        return 0
    if _key_f64(a) <= _key_f64(b) or (a | b) << 1 == 0:
        return 1
    return 0


def f64_min(st: FloatStatus, a: i64, b: i64) -> i64:
    """minimumNumber: a NaN loses to a number, -0 is less than +0, a signaling NaN raises NV."""
    if is_nan_f64(a) or is_nan_f64(b):
        return _nan_choice_f64(st, a, b)
    return a if _key_f64(a) < _key_f64(b) else b


def f64_max(st: FloatStatus, a: i64, b: i64) -> i64:
    """maximumNumber: a NaN loses to a number, -0 is less than +0, a signaling NaN raises NV."""
    if is_nan_f64(a) or is_nan_f64(b):
        return _nan_choice_f64(st, a, b)
    return b if _key_f64(a) < _key_f64(b) else a


def f64_class(a: i64) -> i64:
    """FCLASS.D's mask with one of ten bits set: 0 is -inf, 4 is +0, 7 is +inf, 8 sNaN, 9 qNaN."""
    exp = (a >> 52) & EXP64
    if exp == EXP64:
        if a & FRAC64 == 0:
            return 1 << 0 if a < 0 else 1 << 7
        return 1 << 8 if is_snan_f64(a) else 1 << 9
    if exp != 0:
        return 1 << 1 if a < 0 else 1 << 6
    if a & FRAC64 != 0:
        return 1 << 2 if a < 0 else 1 << 5
    return 1 << 3 if a < 0 else 1 << 4


def _key_f64(a: i64) -> i64:
    """A number that orders as the patterns do in totalOrder: -0 just below +0."""
    return a if a >= 0 else ~(a ^ (i64(0x80000000) << 32))


def _nan_choice_f64(st: FloatStatus, a: i64, b: i64) -> i64:
    """What minimum and maximum return when an operand is a NaN."""
    if is_snan_f64(a) or is_snan_f64(b):
        st.flags |= NV
    if not is_nan_f64(a):
        return a
    if not is_nan_f64(b):
        return b
    return i64(0x3FFC000000000000) << 1


def f32_eq(st: FloatStatus, a: i64, b: i64) -> i64:
    """1 if ``a == b``, else 0; quiet: only a signaling NaN raises NV."""
    if is_nan_f32(a) or is_nan_f32(b):
        if is_snan_f32(a) or is_snan_f32(b):
            st.flags |= NV
        return 0
    if a == b or (a | b) & ABS32 == 0:
        return 1
    return 0


def f32_lt(st: FloatStatus, a: i64, b: i64) -> i64:
    """1 if ``a < b``, else 0; signaling: any NaN raises NV."""
    if is_nan_f32(a) or is_nan_f32(b):
        st.flags |= NV
        return 0
    if _key_f32(a) < _key_f32(b) and (a | b) & ABS32 != 0:
        return 1
    return 0


def f32_le(st: FloatStatus, a: i64, b: i64) -> i64:
    """1 if ``a <= b``, else 0; signaling: any NaN raises NV."""
    if is_nan_f32(a) or is_nan_f32(b):
        st.flags |= NV
        return 0
    if _key_f32(a) <= _key_f32(b) or (a | b) & ABS32 == 0:
        return 1
    return 0


def f32_min(st: FloatStatus, a: i64, b: i64) -> i64:
    """minimumNumber: a NaN loses to a number, -0 is less than +0, a signaling NaN raises NV."""
    if is_nan_f32(a) or is_nan_f32(b):
        return _nan_choice_f32(st, a, b)
    return a if _key_f32(a) < _key_f32(b) else b


def f32_max(st: FloatStatus, a: i64, b: i64) -> i64:
    """maximumNumber: a NaN loses to a number, -0 is less than +0, a signaling NaN raises NV."""
    if is_nan_f32(a) or is_nan_f32(b):
        return _nan_choice_f32(st, a, b)
    return b if _key_f32(a) < _key_f32(b) else a


def f32_class(a: i64) -> i64:
    """FCLASS.S's mask with one of ten bits set: 0 is -inf, 4 is +0, 7 is +inf, 8 sNaN, 9 qNaN."""
    negative = a & SIGN32 != 0
    magnitude = a & ABS32
    if magnitude > INF32:
        return 1 << 8 if is_snan_f32(a) else 1 << 9
    if magnitude == INF32:
        return 1 << 0 if negative else 1 << 7
    if magnitude >= HIDDEN32:
        return 1 << 1 if negative else 1 << 6
    if magnitude != 0:
        return 1 << 2 if negative else 1 << 5
    return 1 << 3 if negative else 1 << 4


def _key_f32(a: i64) -> i64:
    """A number that orders as the patterns do in totalOrder: -0 just below +0."""
    return a if a & SIGN32 == 0 else ~(a & ABS32)


def _nan_choice_f32(st: FloatStatus, a: i64, b: i64) -> i64:
    """What minimum and maximum return when an operand is a NaN."""
    if is_snan_f32(a) or is_snan_f32(b):
        st.flags |= NV
    if not is_nan_f32(a):
        return a
    if not is_nan_f32(b):
        return b
    return NAN32
