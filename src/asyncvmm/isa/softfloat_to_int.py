"""Conversions from binary32 and binary64 to integers, saturating as RISC-V does.

IEEE 754-2019 5.8 and the table "Domains of float-to-integer conversions" of the RISC-V F extension:
a result out of range is the nearest integer of the type and raises NV alone; a NaN counts as a
large positive number. 32-bit results, unsigned ones too, are sign-extended to 64 bits.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

from asyncvmm.arch.float_status import FloatStatus
from asyncvmm.isa.softfloat_core import (
    EXP32,
    EXP64,
    FRAC32,
    FRAC64,
    HIDDEN32,
    HIDDEN64,
    NV,
    NX,
    SIGN32,
    round_right,
)

I32: Final = 0
U32: Final = 1
I64: Final = 2
U64: Final = 3


def f32_to_i32(st: FloatStatus, a: i64, rm: i64) -> i64:
    """Binary32 to a signed 32-bit integer, sign-extended."""
    return _from_f32(st, a, rm, I32)


def f32_to_u32(st: FloatStatus, a: i64, rm: i64) -> i64:
    """Binary32 to an unsigned 32-bit integer, sign-extended from bit 31."""
    return _from_f32(st, a, rm, U32)


def f32_to_i64(st: FloatStatus, a: i64, rm: i64) -> i64:
    """Binary32 to a signed 64-bit integer."""
    return _from_f32(st, a, rm, I64)


def f32_to_u64(st: FloatStatus, a: i64, rm: i64) -> i64:
    """Binary32 to an unsigned 64-bit integer, as a word."""
    return _from_f32(st, a, rm, U64)


def f64_to_i32(st: FloatStatus, a: i64, rm: i64) -> i64:
    """Binary64 to a signed 32-bit integer, sign-extended."""
    return _from_f64(st, a, rm, I32)


def f64_to_u32(st: FloatStatus, a: i64, rm: i64) -> i64:
    """Binary64 to an unsigned 32-bit integer, sign-extended from bit 31."""
    return _from_f64(st, a, rm, U32)


def f64_to_i64(st: FloatStatus, a: i64, rm: i64) -> i64:
    """Binary64 to a signed 64-bit integer."""
    return _from_f64(st, a, rm, I64)


def f64_to_u64(st: FloatStatus, a: i64, rm: i64) -> i64:
    """Binary64 to an unsigned 64-bit integer, as a word."""
    return _from_f64(st, a, rm, U64)


def _from_f32(st: FloatStatus, a: i64, rm: i64, kind: i64) -> i64:
    exp = (a >> 23) & EXP32
    sig = a & FRAC32
    if exp == EXP32:
        return _out_of_range(st, a & SIGN32 if sig == 0 else 0, kind)
    if exp != 0:
        sig |= HIDDEN32
    return _to_int(st, a & SIGN32, exp - 127, sig << 38, rm, kind)


def _from_f64(st: FloatStatus, a: i64, rm: i64, kind: i64) -> i64:
    exp = (a >> 52) & EXP64
    sig = a & FRAC64
    if exp == EXP64:
        return _out_of_range(st, a >> 63 if sig == 0 else 0, kind)
    if exp != 0:
        sig |= HIDDEN64
    return _to_int(st, a >> 63, exp - 1023, sig << 9, rm, kind)


def _to_int(st: FloatStatus, sign: i64, exp: i64, sig: i64, rm: i64, kind: i64) -> i64:
    """``sig * 2**(exp - 61)``, negative if ``sign`` is not 0, as an integer of the given kind."""
    inexact = False
    if exp >= 64:
        return _out_of_range(st, sign, kind)
    if exp > 61:
        magnitude = sig << (exp - 61)  # an unsigned word
    else:
        drop = 61 - exp
        if drop > 62:  # below a quarter: any such value rounds as the smallest does
            sig = 1 if sig != 0 else 0
            drop = 62
        magnitude = sig
        if drop != 0:
            magnitude = round_right(sign, sig, drop, rm)
            inexact = magnitude << drop != sig

    if kind == I32:
        if magnitude < 0 or magnitude > 0x80000000 or (sign == 0 and magnitude == 0x80000000):
            return _out_of_range(st, sign, kind)
    elif kind == U32:
        if magnitude < 0 or magnitude > 0xFFFFFFFF or (sign != 0 and magnitude != 0):
            return _out_of_range(st, sign, kind)
        magnitude = ((magnitude & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000
    elif kind == I64:
        if magnitude < 0 and (sign == 0 or magnitude << 1 != 0):
            return _out_of_range(st, sign, kind)
    elif sign != 0 and magnitude != 0:
        return _out_of_range(st, sign, kind)
    if inexact:
        st.flags |= NX
    return magnitude if sign == 0 else -magnitude


def _out_of_range(st: FloatStatus, sign: i64, kind: i64) -> i64:
    """Raise NV and return the kind's end on the side of ``sign``."""
    st.flags |= NV
    if kind == I32:
        return 0x7FFFFFFF if sign == 0 else -0x80000000
    if kind == I64:
        return ~(i64(0x80000000) << 32) if sign == 0 else i64(0x80000000) << 32
    return -1 if sign == 0 else 0
