"""Binary32 and binary64 arithmetic from the definition: the oracle that softfloat is compared with.

Interpreted, slow, and another algorithm on purpose. A finite number is the integer count of its
format's smallest subnormal ("unit"), which Python holds exactly whatever its size; an operation
computes the exact result as a ratio of integers and rounds it once. Patterns are unsigned Python
ints (integer operands and results too: 64-bit register values). Every function returns
``(result, flags)`` with NX=1, UF=2, OF=4, DZ=8, NV=16; ``rm`` 0..4 is RNE, RTZ, RDN, RUP, RMM.
``f32_add(a, b, rm)`` is ``add(F32, a, b, rm)``, and so on; FUNCTIONS holds all of them by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

RNE, RTZ, RDN, RUP, RMM = range(5)
NX, UF, OF, DZ, NV = 1, 2, 4, 8, 16

Result = tuple[int, int]


class Format(NamedTuple):
    """An IEEE 754 binary interchange format (IEEE 754-2019, 3.4)."""

    exponent_bits: int
    fraction_bits: int

    @property
    def sign_bit(self) -> int:
        """The pattern of -0."""
        return 1 << (self.exponent_bits + self.fraction_bits)

    @property
    def infinity(self) -> int:
        """The pattern of +infinity."""
        return ((1 << self.exponent_bits) - 1) << self.fraction_bits

    @property
    def quiet_bit(self) -> int:
        """The fraction's top bit, which tells quiet from signaling NaNs."""
        return 1 << (self.fraction_bits - 1)

    @property
    def nan(self) -> int:
        """The canonical NaN."""
        return self.infinity | self.quiet_bit

    @property
    def unit_places(self) -> int:
        """k, where the smallest subnormal is 2**-k."""
        return (1 << (self.exponent_bits - 1)) - 2 + self.fraction_bits

    def is_nan(self, a: int) -> bool:
        """Whether the pattern is a NaN."""
        return a & ~self.sign_bit > self.infinity

    def is_snan(self, a: int) -> bool:
        """Whether the pattern is a signaling NaN."""
        return self.is_nan(a) and not a & self.quiet_bit

    def is_inf(self, a: int) -> bool:
        """Whether the pattern is an infinity."""
        return a & ~self.sign_bit == self.infinity

    def sign(self, a: int) -> int:
        """1 if the pattern's sign bit is set, else 0."""
        return a // self.sign_bit

    def units(self, a: int) -> int:
        """A finite pattern's value, signed, in units of the smallest subnormal."""
        exponent = (a & ~self.sign_bit) >> self.fraction_bits
        fraction = a & ((1 << self.fraction_bits) - 1)
        if exponent:
            fraction = (fraction | 1 << self.fraction_bits) << (exponent - 1)
        return -fraction if self.sign(a) else fraction

    def signed(self, negative: bool | int, a: int) -> int:
        """A positive pattern with the sign put on."""
        return a | self.sign_bit if negative else a


F32: Final = Format(8, 23)
F64: Final = Format(11, 52)


def _nearest(rm: int, negative: bool, below: int, remainder: int, divisor: int) -> int:
    """Round ``below + remainder / divisor`` (remainder < divisor), a magnitude, to an integer."""
    if rm == RNE:
        up = 2 * remainder > divisor or (2 * remainder == divisor and below % 2 == 1)
    elif rm == RMM:
        up = 2 * remainder >= divisor
    elif rm == RDN:
        up = negative and remainder > 0
    elif rm == RUP:
        up = not negative and remainder > 0
    else:
        up = False
    return below + up


def _round(fmt: Format, negative: bool, num: int, den: int, rm: int) -> Result:
    """The rounded pattern of the magnitude ``num / den`` units (both > 0), and the flags."""
    precision = fmt.fraction_bits + 1
    scale = num.bit_length() - den.bit_length() - precision
    if num << max(-scale - precision, 0) >= den << max(scale + precision, 0):
        scale += 1  # now 2**(precision - 1) <= num / den / 2**scale < 2**precision

    def at(exponent: int) -> tuple[int, bool]:
        """The value rounded to a multiple of 2**exponent, over 2**exponent; whether inexact."""
        divisor = den << max(exponent, 0)
        below, remainder = divmod(num << max(-exponent, 0), divisor)
        return _nearest(rm, negative, below, remainder, divisor), remainder > 0

    last_place = max(scale, 0)  # subnormals are multiples of one unit
    rounded, inexact = at(last_place)
    value = rounded << last_place
    flags = NX if inexact else 0
    if inexact and scale < 0:
        # Tininess after rounding (IEEE 754 7.5): as if the exponent were unbounded.
        unbounded, _ = at(scale)
        if unbounded < 1 << (fmt.fraction_bits - scale):
            flags |= UF
    # In units, the numbers below the second binade are their own patterns; each later one adds 1 to
    # the exponent field.
    binade = max(value.bit_length() - precision, 0)
    pattern = (binade << fmt.fraction_bits) + (value >> binade)
    if pattern >= fmt.infinity:
        flags |= OF | NX
        stays = rm == RTZ or rm == (RUP if negative else RDN)
        pattern = fmt.infinity - 1 if stays else fmt.infinity
    return fmt.signed(negative, pattern), flags


def _quiet(fmt: Format, *operands: int) -> Result:
    return fmt.nan, NV if any(fmt.is_snan(a) for a in operands) else 0


def _sum(fmt: Format, a_sign: int, b_sign: int, total: int, den: int, rm: int) -> Result:
    """A sum of numbers with the given signs; an exact zero's sign is theirs or the mode's (6.3)."""
    if total == 0:
        return fmt.signed(a_sign if a_sign == b_sign else rm == RDN, 0), 0
    return _round(fmt, total < 0, abs(total), den, rm)


def add(fmt: Format, a: int, b: int, rm: int) -> Result:
    """a + b."""
    if fmt.is_nan(a) or fmt.is_nan(b):
        return _quiet(fmt, a, b)
    if fmt.is_inf(a) or fmt.is_inf(b):
        if fmt.is_inf(a) and fmt.is_inf(b) and a != b:
            return fmt.nan, NV
        return (a if fmt.is_inf(a) else b), 0
    return _sum(fmt, fmt.sign(a), fmt.sign(b), fmt.units(a) + fmt.units(b), 1, rm)


def sub(fmt: Format, a: int, b: int, rm: int) -> Result:
    """a - b."""
    return add(fmt, a, b ^ fmt.sign_bit, rm)


def mul(fmt: Format, a: int, b: int, rm: int) -> Result:
    """a * b."""
    if fmt.is_nan(a) or fmt.is_nan(b):
        return _quiet(fmt, a, b)
    negative = fmt.sign(a) != fmt.sign(b)
    if fmt.is_inf(a) or fmt.is_inf(b):
        other = b if fmt.is_inf(a) else a
        if not fmt.is_inf(other) and fmt.units(other) == 0:
            return fmt.nan, NV
        return fmt.signed(negative, fmt.infinity), 0
    product = abs(fmt.units(a) * fmt.units(b))
    if product == 0:
        return fmt.signed(negative, 0), 0
    return _round(fmt, negative, product, 1 << fmt.unit_places, rm)


def div(fmt: Format, a: int, b: int, rm: int) -> Result:
    """a / b."""
    if fmt.is_nan(a) or fmt.is_nan(b):
        return _quiet(fmt, a, b)
    negative = fmt.sign(a) != fmt.sign(b)
    if fmt.is_inf(a):
        return (fmt.nan, NV) if fmt.is_inf(b) else (fmt.signed(negative, fmt.infinity), 0)
    if fmt.is_inf(b):
        return fmt.signed(negative, 0), 0
    dividend, divisor = abs(fmt.units(a)), abs(fmt.units(b))
    if divisor == 0:
        return (fmt.nan, NV) if dividend == 0 else (fmt.signed(negative, fmt.infinity), DZ)
    if dividend == 0:
        return fmt.signed(negative, 0), 0
    return _round(fmt, negative, dividend << fmt.unit_places, divisor, rm)


def sqrt(fmt: Format, a: int, rm: int) -> Result:
    """The square root of a."""
    if fmt.is_nan(a):
        return _quiet(fmt, a)
    if a in (0, fmt.sign_bit, fmt.infinity):
        return a, 0
    if fmt.sign(a):
        return fmt.nan, NV
    # sqrt(n units) is sqrt(n * 2**k) units. It is normal and not near the format's ends, so that
    # two bits below the last place and one for "there is more" stand for all of an irrational.
    square = fmt.units(a) << fmt.unit_places
    spare = max(math.isqrt(square).bit_length() - fmt.fraction_bits - 3, 0)
    root = math.isqrt(square) >> spare
    more = (root << spare) ** 2 != square
    return _round(fmt, False, (root << 1 | more) << spare, 2, rm)


def fma(fmt: Format, a: int, b: int, c: int, rm: int) -> Result:
    """a * b + c, rounded once; infinity times zero is invalid whatever c is (RISC-V)."""
    infinite = fmt.is_inf(a) or fmt.is_inf(b)
    zero = 0 in (a & ~fmt.sign_bit, b & ~fmt.sign_bit)
    if infinite and zero:
        return fmt.nan, NV
    if fmt.is_nan(a) or fmt.is_nan(b) or fmt.is_nan(c):
        return _quiet(fmt, a, b, c)
    sign = fmt.sign(a) ^ fmt.sign(b)
    if infinite:
        return add(fmt, fmt.signed(sign, fmt.infinity), c, rm)
    if fmt.is_inf(c):
        return c, 0
    total = fmt.units(a) * fmt.units(b) + (fmt.units(c) << fmt.unit_places)
    return _sum(fmt, sign, fmt.sign(c), total, 1 << fmt.unit_places, rm)


def _order(fmt: Format, a: int, b: int) -> tuple[float, float]:
    """Two numbers, infinities included, as things that compare as the numbers do."""
    beyond = 1 << (fmt.unit_places * 4)
    left, right = (
        (-beyond if fmt.sign(x) else beyond) if fmt.is_inf(x) else fmt.units(x) for x in (a, b)
    )
    return left, right


def eq(fmt: Format, a: int, b: int) -> Result:
    """1 if a == b, quiet."""
    if fmt.is_nan(a) or fmt.is_nan(b):
        return 0, _quiet(fmt, a, b)[1]
    left, right = _order(fmt, a, b)
    return int(left == right), 0


def lt(fmt: Format, a: int, b: int) -> Result:
    """1 if a < b, signaling."""
    if fmt.is_nan(a) or fmt.is_nan(b):
        return 0, NV
    left, right = _order(fmt, a, b)
    return int(left < right), 0


def le(fmt: Format, a: int, b: int) -> Result:
    """1 if a <= b, signaling."""
    if fmt.is_nan(a) or fmt.is_nan(b):
        return 0, NV
    left, right = _order(fmt, a, b)
    return int(left <= right), 0


def minimum(fmt: Format, a: int, b: int) -> Result:
    """IEEE 754-2019 9.6 minimumNumber."""
    flags = _quiet(fmt, a, b)[1]
    numbers = [x for x in (a, b) if not fmt.is_nan(x)]
    if len(numbers) < 2:
        return (numbers or [fmt.nan])[0], flags
    left, right = _order(fmt, a, b)
    if left == right:
        return (a if fmt.sign(a) else b), flags
    return (a if left < right else b), flags


def maximum(fmt: Format, a: int, b: int) -> Result:
    """IEEE 754-2019 9.6 maximumNumber."""
    flags = _quiet(fmt, a, b)[1]
    numbers = [x for x in (a, b) if not fmt.is_nan(x)]
    if len(numbers) < 2:
        return (numbers or [fmt.nan])[0], flags
    left, right = _order(fmt, a, b)
    if left == right:
        return (b if fmt.sign(a) else a), flags
    return (a if left > right else b), flags


def classify(fmt: Format, a: int) -> Result:
    """FCLASS: 0 -inf, 1 -normal, 2 -subnormal, 3 -0, 4 +0, 5, 6, 7 the same, 8 sNaN, 9 qNaN."""
    if fmt.is_nan(a):
        return 1 << (8 if fmt.is_snan(a) else 9), 0
    if fmt.is_inf(a):
        size = 3
    elif abs(fmt.units(a)) >= 1 << fmt.fraction_bits:
        size = 2
    else:
        size = 1 if fmt.units(a) else 0
    return 1 << (3 - size if fmt.sign(a) else 4 + size), 0


def _to_int(fmt: Format, bits: int, is_signed: bool, a: int, rm: int) -> Result:
    lowest = -(1 << (bits - 1)) if is_signed else 0
    highest = (1 << (bits - is_signed)) - 1
    flags = 0
    if fmt.is_nan(a) or fmt.is_inf(a):
        value = lowest if fmt.is_inf(a) and fmt.sign(a) else highest
        flags = NV
    else:
        units, one = fmt.units(a), 1 << fmt.unit_places
        below, remainder = divmod(abs(units), one)
        value = _nearest(rm, units < 0, below, remainder, one) * (-1 if units < 0 else 1)
        if lowest <= value <= highest:
            flags = NX if remainder else 0
        else:
            value = lowest if value < lowest else highest
            flags = NV
    # A 32-bit result is sign-extended from bit 31, an unsigned one too.
    value &= (1 << bits) - 1
    if value >> (bits - 1):
        value -= 1 << bits
    return value & 0xFFFFFFFFFFFFFFFF, flags


def _from_int(fmt: Format, bits: int, is_signed: bool, v: int, rm: int) -> Result:
    v &= (1 << bits) - 1
    if is_signed and v >> (bits - 1):
        v -= 1 << bits
    if v == 0:
        return 0, 0
    return _round(fmt, v < 0, abs(v) << fmt.unit_places, 1, rm)


def _convert(source: Format, target: Format, a: int, rm: int) -> Result:
    """Between formats."""
    if source.is_nan(a):
        return target.nan, _quiet(source, a)[1]
    negative = source.sign(a) == 1
    if source.is_inf(a):
        return target.signed(negative, target.infinity), 0
    units = abs(source.units(a))
    if units == 0:
        return target.signed(negative, 0), 0
    return _round(target, negative, units << target.unit_places, 1 << source.unit_places, rm)


def f32_to_f64(a: int) -> Result:
    """Binary32 to binary64: exact, so without a rounding mode."""
    return _convert(F32, F64, a, RNE)


f64_to_f32: Final = partial(_convert, F64, F32)

f32_add: Final = partial(add, F32)
f32_sub: Final = partial(sub, F32)
f32_mul: Final = partial(mul, F32)
f32_div: Final = partial(div, F32)
f32_sqrt: Final = partial(sqrt, F32)
f32_fma: Final = partial(fma, F32)
f32_eq: Final = partial(eq, F32)
f32_lt: Final = partial(lt, F32)
f32_le: Final = partial(le, F32)
f32_min: Final = partial(minimum, F32)
f32_max: Final = partial(maximum, F32)
f32_class: Final = partial(classify, F32)
f32_to_i32: Final = partial(_to_int, F32, 32, True)
f32_to_u32: Final = partial(_to_int, F32, 32, False)
f32_to_i64: Final = partial(_to_int, F32, 64, True)
f32_to_u64: Final = partial(_to_int, F32, 64, False)
i32_to_f32: Final = partial(_from_int, F32, 32, True)
u32_to_f32: Final = partial(_from_int, F32, 32, False)
i64_to_f32: Final = partial(_from_int, F32, 64, True)
u64_to_f32: Final = partial(_from_int, F32, 64, False)

f64_add: Final = partial(add, F64)
f64_sub: Final = partial(sub, F64)
f64_mul: Final = partial(mul, F64)
f64_div: Final = partial(div, F64)
f64_sqrt: Final = partial(sqrt, F64)
f64_fma: Final = partial(fma, F64)
f64_eq: Final = partial(eq, F64)
f64_lt: Final = partial(lt, F64)
f64_le: Final = partial(le, F64)
f64_min: Final = partial(minimum, F64)
f64_max: Final = partial(maximum, F64)
f64_class: Final = partial(classify, F64)
f64_to_i32: Final = partial(_to_int, F64, 32, True)
f64_to_u32: Final = partial(_to_int, F64, 32, False)
f64_to_i64: Final = partial(_to_int, F64, 64, True)
f64_to_u64: Final = partial(_to_int, F64, 64, False)
i32_to_f64: Final = partial(_from_int, F64, 32, True)
u32_to_f64: Final = partial(_from_int, F64, 32, False)
i64_to_f64: Final = partial(_from_int, F64, 64, True)
u64_to_f64: Final = partial(_from_int, F64, 64, False)

FUNCTIONS: Final[dict[str, Callable[..., Result]]] = {
    name: value
    for name, value in globals().items()
    if name[:4] in ("f32_", "f64_", "i32_", "u32_", "i64_", "u64_")
}
"""Every operation by its name in softfloat."""
