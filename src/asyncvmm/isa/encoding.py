"""Encodings as data: what the disassembler, assembler, program generator and reference read.

The rows stand in the generated ``table_*.py``; the compiled decoder is generated apart from them,
so that the two can be compared.
"""

from __future__ import annotations

from typing import NamedTuple


class Operand:
    """One operand: its place in the word and what its value is.

    ``kind`` is "x" or "f" for a register's number and else the operand's name. ``pieces`` are
    (lowest bit in the word, width, lowest bit in the value); ``bias`` is added to the value (8 for
    x8..x15). Values run from ``low`` to ``high`` in steps of ``step``, in ``width`` bits.
    """

    __slots__ = ("bias", "high", "kind", "low", "name", "pieces", "signed", "step", "width")

    def __init__(
        self,
        name: str,
        kind: str,
        pieces: tuple[tuple[int, int, int], ...],
        signed: bool = False,
        bias: int = 0,
    ) -> None:
        self.name = name
        self.kind = kind
        self.pieces = pieces
        self.signed = signed
        self.bias = bias
        self.width = max(low + width for _, width, low in pieces)
        self.step = 1 << min(low for _, _, low in pieces)
        self.low = -(1 << (self.width - 1)) if signed else bias
        self.high = bias + (1 << (self.width - signed)) - self.step

    def extract(self, word: int) -> int:
        """The operand's value in ``word``."""
        value = 0
        for place, width, low in self.pieces:
            value |= (word >> place & ((1 << width) - 1)) << low
        if self.signed and value >> (self.width - 1):
            value -= 1 << self.width
        return value + self.bias

    def insert(self, value: int) -> int:
        """The bits of the word that say ``value``; ValueError when none do."""
        if not self.low <= value <= self.high or (value - self.bias) % self.step:
            steps = f" in steps of {self.step}" if self.step > 1 else ""
            raise ValueError(f"{self.name} is {value}, not in {self.low}..{self.high}{steps}")
        word = 0
        for place, width, low in self.pieces:
            word |= ((value - self.bias) >> low & ((1 << width) - 1)) << place
        return word


class Encoding(NamedTuple):
    """One row: an instruction, or a compressed spelling of one.

    ``role`` is what it does: "alu", "float", "load", "store", "atomic", "branch", "jump", "csr",
    "fence" or "system"; ``size`` the bytes of its memory access or 0. ``base`` is the instruction
    that it expands to ("" when it is one itself), ``base_operands`` that one's operands as numbers
    or own operands' names. ``reserved`` is an operand and the value that makes it illegal.
    """

    name: str
    extension: str
    length: int
    mask: int
    match: int
    operands: tuple[Operand, ...]
    assembly: str
    role: str
    size: int = 0
    base: str = ""
    base_operands: tuple[tuple[str, str | int], ...] = ()
    reserved: tuple[str, int] | None = None

    def values(self, word: int) -> dict[str, int]:
        """All operands' values in ``word``."""
        return {operand.name: operand.extract(word) for operand in self.operands}

    def is_reserved(self, values: dict[str, int]) -> bool:
        """Whether these operands make the word an illegal one."""
        if values.get("rm") in (5, 6):
            return True
        return self.reserved is not None and values[self.reserved[0]] == self.reserved[1]

    def encode(self, values: dict[str, int]) -> int:
        """The word with these operands; ValueError when one does not fit or it is reserved."""
        if self.is_reserved(values):
            raise ValueError(f"{self.name} with these operands is reserved")
        word = self.match
        for operand in self.operands:
            word |= operand.insert(values[operand.name])
        return word

    def expand(self, values: dict[str, int]) -> tuple[str, dict[str, int]]:
        """The base instruction's name and operands."""
        if not self.base:
            return self.name, values
        given = {
            name: values[value] if isinstance(value, str) else value
            for name, value in self.base_operands
        }
        return self.base, given
