"""Softfloat, compiled, against the exact reference, the host's FPU and the standards' examples."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.arch.float_status import FloatStatus
from asyncvmm.base.bits import to_signed, to_unsigned
from asyncvmm.isa import reference_float as reference
from asyncvmm.isa import softfloat

RNE, RTZ, RDN, RUP, RMM = MODES = range(5)
NX, UF, OF, DZ, NV = 1, 2, 4, 8, 16
FORMATS = {"f32": reference.F32, "f64": reference.F64}
UNROUNDED = {"min", "max", "eq", "lt", "le", "class"}


def run(name: str, *operands: int) -> tuple[int, int]:
    """Call the compiled function on unsigned patterns; return (unsigned result, flags)."""
    status = FloatStatus()
    function: Callable[..., int] = getattr(softfloat, name)
    signed = [to_signed(operand) for operand in operands]
    result = function(*signed) if name.endswith("_class") else function(status, *signed)
    return to_unsigned(result), status.flags


def is_rounded(name: str) -> bool:
    return name.split("_", 1)[1] not in UNROUNDED and name != "f32_to_f64"


# -- operands ------------------------------------------------------------------------------------


def fields(fmt: reference.Format) -> st.SearchStrategy[int]:
    """Patterns with exponents and fractions near every edge as often as in the middle."""
    bits, top = fmt.fraction_bits, (1 << fmt.exponent_bits) - 1
    bias = top // 2
    exponents = st.one_of(
        st.sampled_from([0, 1, 2, top - 2, top - 1, top, bias, bias + bits, bias + 31, bias + 63]),
        st.integers(bias - 70, bias + 70),
        st.integers(0, top),
    )
    ones = st.integers(0, bits).map(lambda n: (1 << n) - 1)
    fractions = st.one_of(
        st.sampled_from([0, 1, 2, (1 << bits) - 1, (1 << bits) - 2, 1 << (bits - 1)]),
        st.integers(0, bits - 1).map(lambda n: 1 << n),
        ones,
        ones.map(lambda mask: mask ^ ((1 << bits) - 1)),
        st.integers(0, (1 << bits) - 1),
    )
    special = st.sampled_from([0, 1, fmt.infinity, fmt.infinity | 1, fmt.nan])
    any_fields = st.builds(
        lambda exponent, fraction: exponent << bits | fraction, exponents, fractions
    )
    positive = st.one_of(any_fields, any_fields, any_fields, special)
    return st.builds(fmt.signed, st.booleans(), positive)


@st.composite
def pairs(draw: st.DrawFn, fmt: reference.Format) -> tuple[int, int]:
    """Two patterns, half of them related: neighbours, cancelling, results at the format's ends."""
    a, b = draw(fields(fmt)), draw(fields(fmt))
    bits, top = fmt.fraction_bits, (1 << fmt.exponent_bits) - 1
    relation = draw(st.integers(0, 5))
    mask = 2 * fmt.sign_bit - 1
    if relation == 0:  # nearly equal, either sign: cancellation
        b = (a + draw(st.integers(-3, 3)) ^ draw(st.sampled_from([0, fmt.sign_bit]))) & mask
    elif relation == 1:  # exponents a few bits to a whole fraction apart
        exponent = min(max((a >> bits & top) + draw(st.integers(-bits - 4, bits + 4)), 0), top)
        b = (b & ~(top << bits)) | exponent << bits
    elif relation == 2:  # a product at the edge of underflow or overflow
        total = draw(st.sampled_from([top // 2, top // 2 + top])) + draw(st.integers(-bits, 3))
        b = (b & ~(top << bits)) | min(max(total - (a >> bits & top), 0), top) << bits
    elif relation == 3:  # a quotient at the edge of underflow or overflow
        gap = draw(st.sampled_from([-(top // 2), top // 2])) + draw(st.integers(-3, bits))
        b = (b & ~(top << bits)) | min(max((a >> bits & top) - gap, 0), top) << bits
    return a, b


@st.composite
def triples(draw: st.DrawFn, fmt: reference.Format) -> tuple[int, int, int]:
    """Three patterns; often the third nearly cancels the product, or is far from it."""
    a, b = draw(pairs(fmt))
    if draw(st.booleans()):
        return a, b, draw(fields(fmt))
    bits, top = fmt.fraction_bits, (1 << fmt.exponent_bits) - 1
    c = reference.mul(fmt, a, b, draw(st.sampled_from(MODES)))[0]
    if draw(st.booleans()):
        c = max(c + draw(st.integers(-2, 2)), 0) % (2 * fmt.sign_bit)
    else:
        distance = draw(st.integers(-2 * bits - 8, 2 * bits + 8))
        exponent = min(max((c >> bits & top) + distance, 0), top)
        c = (draw(fields(fmt)) & ~(top << bits)) | exponent << bits
    return a, b, c ^ draw(st.sampled_from([0, fmt.sign_bit]))


def squares(fmt: reference.Format) -> st.SearchStrategy[int]:
    """Squares of integers and their neighbours, where roots are exact or nearly so."""
    roots = st.integers(1, 1 << ((fmt.fraction_bits + 1) // 2))
    from_int = reference.FUNCTIONS[f"i64_to_{'f64' if fmt is reference.F64 else 'f32'}"]
    return st.builds(lambda n, d: from_int(n * n, RNE)[0] + d, roots, st.integers(-2, 2))


def integers() -> st.SearchStrategy[int]:
    """64-bit register values: powers of two and their neighbours, runs of ones, any."""
    near = st.builds(
        lambda n, d: (1 << n) + d & 0xFFFFFFFFFFFFFFFF, st.integers(0, 64), st.integers(-3, 3)
    )
    runs = st.builds(
        lambda n, m: (1 << n) - (1 << min(n, m)), st.integers(0, 64), st.integers(0, 64)
    )
    negative = st.one_of(near, runs).map(lambda v: -v & 0xFFFFFFFFFFFFFFFF)
    return st.one_of(near, runs, negative, st.integers(0, 0xFFFFFFFFFFFFFFFF))


def operands_of(name: str) -> st.SearchStrategy[tuple[int, ...]]:
    """Operand tuples for the function of that name, without the rounding mode."""
    prefix, operation = name.split("_", 1)
    if prefix not in FORMATS:
        return st.tuples(integers())
    fmt = FORMATS[prefix]
    if operation == "fma":
        return triples(fmt)
    if operation == "sqrt":
        return st.one_of(st.tuples(fields(fmt)), st.tuples(squares(fmt)))
    if operation == "class" or operation.startswith("to_"):
        return st.tuples(fields(fmt))
    return pairs(fmt)


@pytest.mark.parametrize("name", sorted(reference.FUNCTIONS))
def test_equals_the_exact_reference_in_every_rounding_mode(name: str) -> None:
    function = reference.FUNCTIONS[name]

    @settings(max_examples=150, deadline=None, derandomize=True)
    @given(operands_of(name))
    def compare(operands: tuple[int, ...]) -> None:
        for rm in MODES if is_rounded(name) else (None,):
            full = operands if rm is None else (*operands, rm)
            assert run(name, *full) == function(*full), (name, [hex(x) for x in operands], rm)

    compare()


def test_the_reference_and_the_compiled_functions_have_the_same_names() -> None:
    assert sorted(reference.FUNCTIONS) == sorted(softfloat.__all__)


# -- the host's FPU, in its default mode, round to nearest even ------------------------------------


def pattern64(value: float) -> int:
    return int(struct.unpack("<Q", struct.pack("<d", value))[0])


def pattern32(value: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


OPERATORS: dict[str, Callable[[Any, Any], float]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
}


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(st.floats(allow_nan=False), st.floats(allow_nan=False), st.sampled_from(sorted(OPERATORS)))
def test_binary64_equals_the_host(a: float, b: float, operation: str) -> None:
    if operation == "div" and b == 0:
        return
    expected = OPERATORS[operation](a, b)
    bits = 0x7FF8000000000000 if math.isnan(expected) else pattern64(expected)
    assert run(f"f64_{operation}", pattern64(a), pattern64(b), RNE)[0] == bits
    if a >= 0:
        assert run("f64_sqrt", pattern64(a), RNE)[0] == pattern64(math.sqrt(a))


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(
    st.floats(-(2.0**50), 2.0**50, width=32),
    st.floats(-(2.0**50), 2.0**50, width=32),
    st.sampled_from(sorted(OPERATORS)),
)
def test_binary32_equals_the_host(a: float, b: float, operation: str) -> None:
    """Rounding binary64's result again is innocuous: 53 >= 2 * 24 + 2 bits."""
    if operation == "div" and abs(b) < 2.0**-70:
        return
    expected = OPERATORS[operation](a, b)
    assert run(f"f32_{operation}", pattern32(a), pattern32(b), RNE)[0] == pattern32(expected)


# -- what the standards say -----------------------------------------------------------------------

QNAN32, SNAN32, INF32, MAX32 = 0x7FC00001, 0x7F800001, 0x7F800000, 0x7F7FFFFF
QNAN64, SNAN64, INF64 = 0x7FF8000000000001, 0x7FF0000000000001, 0x7FF0000000000000
ONE32, NEG32, NEG64 = 0x3F800000, 0x80000000, 0x8000000000000000
ALL = 0xFFFFFFFFFFFFFFFF


def test_ieee754_7_4_overflow_goes_to_infinity_or_the_largest_number() -> None:
    results = [run("f32_add", MAX32, MAX32, rm) for rm in MODES]
    assert [bits for bits, _ in results] == [INF32, MAX32, MAX32, INF32, INF32]
    assert {flags for _, flags in results} == {OF | NX}
    negative = [run("f32_mul", MAX32 | NEG32, MAX32, rm)[0] for rm in MODES]
    assert negative == [x | NEG32 for x in (INF32, MAX32, INF32, MAX32, INF32)]


def test_ieee754_7_5_tininess_is_detected_after_rounding() -> None:
    almost = 0x3F7FFFFF  # 1 - 2**-24
    # 2**-126 * (1 - 2**-24) rounds up to the smallest normal, but as a subnormal, so it is tiny...
    assert run("f32_mul", 0x00800000, almost, RNE) == (0x00800000, UF | NX)
    # ... while 2**-126 * (1 - 2**-46) is 2**-126 already at full precision: inexact, not tiny.
    assert run("f32_mul", 0x00800001, 0x3F7FFFFE, RNE) == (0x00800000, NX)
    assert run("f32_mul", 0x00800001, 0x3F7FFFFE, RTZ) == (0x007FFFFF, UF | NX)
    # An exact subnormal raises nothing.
    assert run("f32_mul", 0x00800000, 0x3F000000, RNE) == (0x00400000, 0)


def test_ieee754_6_3_the_sign_of_an_exact_zero() -> None:
    for rm in MODES:
        assert run("f64_sub", 0x3FF0000000000000, 0x3FF0000000000000, rm) == (
            NEG64 if rm == RDN else 0,
            0,
        )
        assert run("f32_add", NEG32, NEG32, rm) == (NEG32, 0)
        assert run("f32_fma", ONE32, ONE32, ONE32 | NEG32, rm)[0] == (NEG32 if rm == RDN else 0)
    assert run("f64_sqrt", NEG64, RNE) == (NEG64, 0)


def test_ieee754_7_2_invalid_operations_give_the_canonical_nan() -> None:
    for name, *operands in [
        ("f32_sub", INF32, INF32),
        ("f32_mul", 0, INF32),
        ("f32_div", 0, NEG32),
        ("f32_div", INF32, INF32),
        ("f32_sqrt", ONE32 | NEG32),
        ("f32_add", SNAN32, ONE32),
        ("f32_fma", ONE32, ONE32, SNAN32),
    ]:
        assert run(str(name), *map(int, operands), RNE) == (0x7FC00000, NV), name
    assert run("f32_add", QNAN32 | NEG32, ONE32, RNE) == (0x7FC00000, 0)
    assert run("f64_to_f32", SNAN64, RNE) == (0x7FC00000, NV)
    assert run("f32_to_f64", QNAN32) == (0x7FF8000000000000, 0)


def test_ieee754_7_3_division_by_zero() -> None:
    assert run("f64_div", 0xBFF0000000000000, 0, RNE) == (INF64 | NEG64, DZ)
    assert run("f64_div", INF64, 0, RNE) == (INF64, 0)


def test_riscv_fma_of_infinity_and_zero_is_invalid_with_a_quiet_nan_added() -> None:
    assert run("f32_fma", INF32, 0, QNAN32, RNE) == (0x7FC00000, NV)
    assert run("f64_fma", NEG64, INF64, QNAN64, RNE) == (0x7FF8000000000000, NV)


def test_riscv_fmin_fmax() -> None:
    assert run("f64_min", 0, NEG64) == (NEG64, 0)
    assert run("f64_max", NEG64, 0) == (0, 0)
    assert run("f32_min", QNAN32, ONE32) == (ONE32, 0)
    assert run("f32_max", ONE32, SNAN32) == (ONE32, NV)
    assert run("f32_min", QNAN32, SNAN32) == (0x7FC00000, NV)


def test_riscv_comparisons_eq_is_quiet_lt_and_le_signal() -> None:
    assert run("f32_eq", QNAN32, QNAN32) == (0, 0)
    assert run("f32_eq", SNAN32, ONE32) == (0, NV)
    assert run("f32_lt", QNAN32, ONE32) == (0, NV)
    assert run("f32_le", ONE32, QNAN32) == (0, NV)
    assert run("f32_eq", 0, NEG32) == (1, 0)
    assert run("f32_lt", NEG32, 0) == (0, 0)
    assert run("f32_le", 0, NEG32) == (1, 0)
    assert run("f64_eq", NEG64, 0) == (1, 0)
    assert run("f64_lt", NEG64, 0) == (0, 0)
    assert run("f64_le", 0, NEG64) == (1, 0)


def test_riscv_domains_of_float_to_integer_conversions() -> None:
    """The table of that name: out of range, infinities and NaN."""
    ends = {
        "i32": (0xFFFFFFFF80000000, 0x7FFFFFFF),
        "u32": (0, ALL),
        "i64": (NEG64, NEG64 - 1),
        "u64": (0, ALL),
    }
    for kind, (lowest, highest) in ends.items():
        assert run(f"f32_to_{kind}", INF32 | NEG32, RNE) == (lowest, NV)
        assert run(f"f64_to_{kind}", 0xFE00000000000000, RNE) == (lowest, NV)
        for pattern in (INF64, QNAN64, QNAN64 | NEG64, SNAN64, 0x7E00000000000000):
            assert run(f"f64_to_{kind}", pattern, RNE) == (highest, NV)


def test_riscv_negative_numbers_that_round_to_zero_convert_to_unsigned() -> None:
    minus_half = 0xBF000000
    assert run("f32_to_u32", minus_half, RNE) == (0, NX)
    assert run("f32_to_u32", minus_half, RDN) == (0, NV)
    assert run("f32_to_u64", minus_half, RMM) == (0, NV)
    assert run("f64_to_u32", pattern64(4294967295.0), RNE) == (ALL, 0)
    assert run("f64_to_u32", pattern64(4294967295.5), RTZ) == (ALL, NX)


def test_riscv_fclass() -> None:
    patterns = [0xFF800000, 0xBF800000, 0x80000001, NEG32, 0, 1, ONE32, INF32, SNAN32, QNAN32]
    assert [run("f32_class", p)[0] for p in patterns] == [1 << n for n in range(10)]


def test_flags_accumulate() -> None:
    status = FloatStatus()
    softfloat.f32_div(status, ONE32, 0, RNE)
    softfloat.f32_div(status, ONE32, 0x40400000, RNE)
    softfloat.f32_add(status, ONE32, ONE32, RNE)
    assert status.flags == DZ | NX
