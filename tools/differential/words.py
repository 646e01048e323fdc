"""Random instruction words, fast: the operand fields are random bits, then patched by role."""

from __future__ import annotations

from random import Random
from typing import Final

from asyncvmm.isa.encoding import Encoding
from asyncvmm.isa.tables import ENCODINGS

# How often each role is drawn, in proportion. "system" holds mret, sret and wfi: never drawn.
WEIGHTS: Final = {
    "alu": 34, "float": 30, "load": 14, "store": 12, "atomic": 7, "branch": 8, "jump": 3, "csr": 5,
    "fence": 1,
}  # fmt: skip

FLOAT_CSRS: Final = (0x001, 0x002, 0x003)
EBREAK: Final = 0x00100073
C_EBREAK: Final = 0x9002
ECALL: Final = 0x00000073

_EDGES: Final = (
    0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
    0x100000000, 0x7FFFFFFFFFFFFFFF, 0x8000000000000000, 0xFFFFFFFF80000000, 0xFFFFFFFF7FFFFFFF,
    0xFFFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFE,
)  # fmt: skip

# Exponent and fraction corners of binary32 and binary64, without the sign.
_SINGLES: Final = (
    0, 1, 0x7FFFFF, 0x800000, 0x800001, 0x3F800000, 0x3F800001, 0x3FC00000, 0x40000000, 0x3F000000,
    0x4B000000, 0x4EFFFFFF, 0x4F000000, 0x4F7FFFFF, 0x5EFFFFFF, 0x5F000000, 0x5F7FFFFF, 0x7F7FFFFF,
    0x7F800000, 0x7F800001, 0x7FBFFFFF, 0x7FC00000, 0x7FC00001, 0x7FFFFFFF, 0x0C000000, 0x33800000,
)  # fmt: skip
_DOUBLES: Final = (
    0, 1, 0xFFFFFFFFFFFFF, 0x10000000000000, 0x3FF0000000000000, 0x3FF0000000000001,
    0x3FF8000000000000, 0x3FE0000000000000, 0x4000000000000000, 0x36A0000000000000,
    0x3690000000000000, 0x3810000000000000, 0x380FFFFFE0000000, 0x47EFFFFFE0000000,
    0x47EFFFFFF0000000, 0x41DFFFFFFFC00000, 0x41E0000000000000, 0x41EFFFFFFFE00000,
    0x43E0000000000000, 0x43DFFFFFFFFFFFFF, 0x43F0000000000000, 0x7FEFFFFFFFFFFFFF,
    0x7FF0000000000000, 0x7FF0000000000001, 0x7FF8000000000000, 0x7FFFFFFFFFFFFFFF,
    0x3CA0000000000000, 0x4330000000000000,
)  # fmt: skip


class Mixer:
    """Draws encodings by role, and patches what would lead nowhere useful.

    ``pointers`` are the registers that hold data addresses: most loads and stores go through them.
    Encodings named in ``avoid`` are not drawn.
    """

    def __init__(
        self,
        random: Random,
        pointers: tuple[int, ...],
        avoid: frozenset[str] = frozenset(),
    ) -> None:
        self.random = random
        self.pointers = pointers
        self.short_pointers = tuple(p - 8 for p in pointers if 8 <= p < 16)
        roles: dict[str, list[Encoding]] = {}
        for encoding in ENCODINGS:
            if encoding.role in WEIGHTS and encoding.name not in avoid:
                roles.setdefault(encoding.role, []).append(encoding)
        self.wheel = [e for role, some in roles.items() for e in _spread(some, WEIGHTS[role])]

    def word(self, reach: int) -> tuple[int, Encoding]:
        """A word and what it was drawn as; direct branches and jumps stay within ``reach`` bytes.

        It may be reserved, or a special case that has an encoding of its own.
        """
        random = self.random
        encoding = random.choice(self.wheel)
        bits = random.getrandbits(32)
        if bits & 15 == 0:
            bits = _edge(random, bits)
        word = encoding.match | (bits & ~encoding.mask)
        if encoding.length == 2:
            return self._short(encoding, word & 0xFFFF, reach), encoding
        role = encoding.role
        if role == "load" or role == "store" or role == "atomic":
            if random.random() < 0.9:
                word = word & ~(31 << 15) | random.choice(self.pointers) << 15
                if role != "atomic" and random.random() < 0.7:
                    word &= 0xC3FFFFFF if role == "load" else 0xC1FFFFFF  # a small offset
        elif role == "branch" or encoding.name == "jal":
            word = aim(encoding, word, _offset(random, reach))
        elif role == "csr":
            word = word & 0xFFFFF | random.choice(FLOAT_CSRS) << 20
        elif role == "float" and word >> 12 & 7 in (5, 6) and random.random() < 0.7:
            if encoding.mask >> 12 & 7 == 0:
                word |= 7 << 12  # rather a dynamic rounding mode than a reserved one
        return word, encoding

    def _short(self, encoding: Encoding, word: int, reach: int) -> int:
        role = encoding.role
        if role == "branch" or encoding.name == "c.j":
            return aim(encoding, word, _offset(self.random, reach))
        if role == "load" or role == "store":
            for operand in encoding.operands:
                if operand.name == "rs1" and operand.width == 3 and self.short_pointers:
                    return word & ~(7 << 7) | self.random.choice(self.short_pointers) << 7
        return word


def _edge(random: Random, bits: int) -> int:
    """Ones or zeros where immediates are, with an end of their own; rd, and perhaps rs1, stay."""
    keep = random.choice((0xF80, 0xFFF80))
    return random.choice((0, 0x80000000, 0x7FFFFFFF, 0xFFFFFFFF)) & ~keep | bits & keep


def _spread(encodings: list[Encoding], weight: int) -> list[Encoding]:
    """About ``weight`` * 20 entries, each encoding equally often."""
    times = max(1, round(weight * 20 / len(encodings)))
    return encodings * times


def _offset(random: Random, reach: int) -> int:
    """An even distance, forward three times of four."""
    distance = 2 * random.randrange(1, reach // 2)
    return distance if random.random() < 0.75 else -distance


def aim(encoding: Encoding, word: int, offset: int) -> int:
    """The word of a direct branch or jump with its immediate set to ``offset``."""
    key = (encoding.name, offset)
    if key not in _AIMS:
        operand = next(o for o in encoding.operands if o.name == "imm")
        _AIMS[key] = (~operand.insert(-operand.step), operand.insert(offset))
    keep, field = _AIMS[key]
    return word & keep | field


_AIMS: Final[dict[tuple[str, int], tuple[int, int]]] = {}


def random_word(random: Random) -> int:
    """A 64-bit register value, often an edge."""
    kind = random.randrange(8)
    if kind < 3:
        return random.choice(_EDGES)
    if kind < 5:
        return random.getrandbits(64)
    if kind == 5:
        return random.getrandbits(random.randrange(1, 64))
    if kind == 6:
        return -random.getrandbits(random.randrange(1, 32)) & 0xFFFFFFFFFFFFFFFF
    return 1 << random.randrange(64)


def random_float(random: Random) -> int:
    """64 bits of a floating-point register: boxed singles, doubles, near corners, anything."""
    kind = random.randrange(10)
    if kind < 3:
        return 0xFFFFFFFF00000000 | random.choice(_SINGLES) | random.getrandbits(1) << 31
    if kind < 6:
        return random.choice(_DOUBLES) | random.getrandbits(1) << 63
    if kind == 6:
        return 0xFFFFFFFF00000000 | random.getrandbits(32)
    if kind == 7:  # exponents near one: sums and products that round
        exponent = random.randrange(0x3FF - 60, 0x3FF + 60)
        return random.getrandbits(1) << 63 | exponent << 52 | random.getrandbits(52)
    if kind == 8:
        exponent = random.randrange(127 - 30, 127 + 30)
        low = random.getrandbits(1) << 31 | exponent << 23 | random.getrandbits(23)
        return 0xFFFFFFFF00000000 | low
    return random.getrandbits(64)
