"""IEEE 754 binary32 and binary64 for the RISC-V F and D extensions: the names in one place.

Operands and results are patterns in an i64: binary32 zero-extended, binary64 as two's complement.
``rm`` is 0..4 (RNE, RTZ, RDN, RUP, RMM), already resolved; exceptions are ORed into ``st.flags``.
NaN results are canonical; tininess is detected after rounding. NaN boxing and sign injection
belong to the instructions. Compiled callers of these names are bound early, as if they imported
from the modules themselves.
"""

from __future__ import annotations

from asyncvmm.isa.softfloat_add import f32_add, f32_sub, f64_add, f64_sub
from asyncvmm.isa.softfloat_compare import (
    f32_class,
    f32_eq,
    f32_le,
    f32_lt,
    f32_max,
    f32_min,
    f64_class,
    f64_eq,
    f64_le,
    f64_lt,
    f64_max,
    f64_min,
)
from asyncvmm.isa.softfloat_convert import (
    f32_to_f64,
    f64_to_f32,
    i32_to_f32,
    i32_to_f64,
    i64_to_f32,
    i64_to_f64,
    u32_to_f32,
    u32_to_f64,
    u64_to_f32,
    u64_to_f64,
)
from asyncvmm.isa.softfloat_div import f32_div, f32_sqrt, f64_div, f64_sqrt
from asyncvmm.isa.softfloat_fma import f32_fma, f64_fma
from asyncvmm.isa.softfloat_mul import f32_mul, f64_mul
from asyncvmm.isa.softfloat_to_int import (
    f32_to_i32,
    f32_to_i64,
    f32_to_u32,
    f32_to_u64,
    f64_to_i32,
    f64_to_i64,
    f64_to_u32,
    f64_to_u64,
)

__all__ = [
    "f32_add",
    "f32_class",
    "f32_div",
    "f32_eq",
    "f32_fma",
    "f32_le",
    "f32_lt",
    "f32_max",
    "f32_min",
    "f32_mul",
    "f32_sqrt",
    "f32_sub",
    "f32_to_f64",
    "f32_to_i32",
    "f32_to_i64",
    "f32_to_u32",
    "f32_to_u64",
    "f64_add",
    "f64_class",
    "f64_div",
    "f64_eq",
    "f64_fma",
    "f64_le",
    "f64_lt",
    "f64_max",
    "f64_min",
    "f64_mul",
    "f64_sqrt",
    "f64_sub",
    "f64_to_f32",
    "f64_to_i32",
    "f64_to_i64",
    "f64_to_u32",
    "f64_to_u64",
    "i32_to_f32",
    "i32_to_f64",
    "i64_to_f32",
    "i64_to_f64",
    "u32_to_f32",
    "u32_to_f64",
    "u64_to_f32",
    "u64_to_f64",
]
