"""The ``bits`` of an instruction: the manual's table row, as fixed bits and operand fields.

``"imm[12|10:5] rs2 rs1 000 imm[4:1|11] 1100011"`` reads from the highest bit down. A run of 0 and 1
is fixed; a name is an operand; ranges say which bits of the operand's value stand there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

WIDTHS = {
    "rd": 5, "rs1": 5, "rs2": 5, "rs3": 5, "rd'": 3, "rs1'": 3, "rs2'": 3, "rm": 3, "csr": 12,
    "aq": 1, "rl": 1, "fm": 4, "pred": 4, "succ": 4,
}  # fmt: skip
"""Fields that stand in one piece, and their widths in bits."""

SPLIT = ("imm", "uimm", "shamt")
"""Fields that carry the ranges of their value's bits; only ``imm`` is signed."""

REGISTERS = ("rd", "rs1", "rs2", "rs3")

_TOKEN = re.compile(r"(?P<fixed>[01]+)|(?P<name>[a-z][a-z0-9]*'?)(?:\[(?P<ranges>[0-9:|]+)\])?")


class EncodingError(ValueError):
    """The bits of an instruction do not read; the text says which token."""


@dataclass(frozen=True)
class Piece:
    """``width`` bits of the word from ``word_low`` up are the value's from ``value_low`` up."""

    word_low: int
    width: int
    value_low: int


@dataclass(frozen=True)
class Field:
    """One operand of an instruction word.

    ``bias`` is added to what the bits say: 8 for compressed instructions' three-bit registers.
    """

    name: str
    pieces: tuple[Piece, ...]
    signed: bool
    bias: int

    @property
    def width(self) -> int:
        """How many bits the value has, its implied low zeros included."""
        return max(piece.value_low + piece.width for piece in self.pieces)

    @property
    def step(self) -> int:
        """The values are multiples of this power of two."""
        return 1 << min(piece.value_low for piece in self.pieces)

    @property
    def mask(self) -> int:
        """The bits of the word that belong to this field."""
        return sum(((1 << piece.width) - 1) << piece.word_low for piece in self.pieces)

    @property
    def range(self) -> tuple[int, int]:
        """The smallest and the largest value."""
        if self.signed:
            return -(1 << (self.width - 1)), (1 << (self.width - 1)) - self.step
        return self.bias, self.bias + (1 << self.width) - self.step

    def extract(self, word: int) -> int:
        """The operand's value in ``word``."""
        value = 0
        for piece in self.pieces:
            value |= (word >> piece.word_low & ((1 << piece.width) - 1)) << piece.value_low
        if self.signed and value >> (self.width - 1):
            value -= 1 << self.width
        return value + self.bias

    def insert(self, value: int) -> int:
        """The word's bits that say ``value``; ValueError when it does not fit."""
        low, high = self.range
        if not low <= value <= high or (value - self.bias) % self.step:
            rule = f"{low}..{high}" + (f" in steps of {self.step}" if self.step > 1 else "")
            raise ValueError(f"{self.name} is {value}, but must be {rule}")
        value -= self.bias
        word = 0
        for piece in self.pieces:
            word |= (value >> piece.value_low & ((1 << piece.width) - 1)) << piece.word_low
        return word


@dataclass(frozen=True)
class Encoding:
    """A parsed ``bits``: length in bytes, what is fixed, operand fields in word order."""

    length: int
    match: int
    mask: int
    fields: tuple[Field, ...]
    layout: str


def parse_bits(bits: str) -> Encoding:
    """Parse one ``bits`` string; EncodingError when it does not give exactly 16 or 32 bits."""
    pieces: dict[str, list[tuple[int, int, int]]] = {}
    top = 0
    fixed: list[tuple[int, int, int]] = []
    layout: list[str] = []
    for token in bits.split():
        found = _TOKEN.fullmatch(token)
        if found is None:
            raise EncodingError(f"{token!r} is neither bits nor an operand")
        if (run := found["fixed"]) is not None:
            fixed.append((top, len(run), int(run, 2)))
            top += len(run)
            if layout[-1:] != ["-"]:
                layout.append("-")
            continue
        layout.append(token)
        for width, value_low in _ranges(token, found["name"], found["ranges"]):
            pieces.setdefault(found["name"], []).append((top, width, value_low))
            top += width
    if top not in (16, 32):
        raise EncodingError(f"{top} bits, but an instruction has 16 or 32")
    match = mask = 0
    for start, width, value in fixed:
        match |= value << (top - start - width)
        mask |= ((1 << width) - 1) << (top - start - width)
    fields = tuple(_field(name, parts, top) for name, parts in pieces.items())
    return Encoding(top // 8, match, mask, fields, " ".join(layout))


def _ranges(token: str, name: str, ranges: str | None) -> list[tuple[int, int]]:
    """The (width, lowest bit of the value) pairs of one token."""
    if name in WIDTHS and ranges is None:
        return [(WIDTHS[name], 0)]
    if name not in SPLIT or ranges is None:
        raise EncodingError(f"{token!r} is not a known operand, or lacks its bits")
    pairs = []
    for part in ranges.split("|"):
        high, _, low = part.partition(":")
        width = int(high) - int(low or high) + 1
        if width < 1:
            raise EncodingError(f"{token!r}: {part} runs upwards")
        pairs.append((width, int(low or high)))
    return pairs


def _field(name: str, parts: list[tuple[int, int, int]], top: int) -> Field:
    """Make the field and check that its value has no bit twice and no hole above its lowest bit."""
    pieces = tuple(Piece(top - start - width, width, low) for start, width, low in parts)
    bits = sorted(bit for p in pieces for bit in range(p.value_low, p.value_low + p.width))
    if bits != list(range(bits[0], bits[-1] + 1)):
        raise EncodingError(f"{name}: its bits are {bits}, with one twice or one missing")
    plain = name.removesuffix("'")
    return Field(plain, pieces, plain == "imm", 8 if name.endswith("'") else 0)
