"""The reference executor: slow, plain, explicit, and independent of everything that is compiled.

It exists to be compared with: it decodes from the match and mask of the encodings' tables, executes
the generated ``reference_*.py`` on unsigned integers, and does floating point from the definition.
"""

from __future__ import annotations

from asyncvmm.arch.cause_numbers import CAUSE_INSTRUCTION_ACCESS_FAULT
from asyncvmm.isa.encoding import Encoding
from asyncvmm.isa.reference_operations import OPERATIONS
from asyncvmm.isa.reference_state import (
    ReferenceMemory,
    ReferenceRam,
    ReferenceState,
    ReferenceTrap,
)
from asyncvmm.isa.tables import ENCODINGS

__all__ = ["ReferenceHart", "ReferenceMemory", "ReferenceRam", "ReferenceTrap", "find_encoding"]


def _row(word: int) -> int:
    """Where to look for a word: opcode and funct3, which nearly every encoding fixes."""
    return word & 0x707F if word & 3 == 3 else word & 0xE003


def _index() -> dict[int, list[Encoding]]:
    """Encodings by row, the most specific mask first: the first that matches is the one."""
    rows: dict[int, list[Encoding]] = {}
    for encoding in sorted(ENCODINGS, key=lambda encoding: -encoding.mask.bit_count()):
        seen = 0x707F if encoding.length == 4 else 0xE003
        for funct3 in range(8):
            row = encoding.match & (0x7F if encoding.length == 4 else 3)
            row |= funct3 << (12 if encoding.length == 4 else 13)
            if not (row ^ encoding.match) & encoding.mask & seen:
                rows.setdefault(row, []).append(encoding)
    return rows


_ROWS = _index()


def find_encoding(word: int) -> Encoding | None:
    """The encoding that the fetched bits are, or None when they are illegal."""
    if word & 3 != 3:
        word &= 0xFFFF
    for encoding in _ROWS.get(_row(word), ()):
        if word & encoding.mask == encoding.match:
            return None if encoding.is_reserved(encoding.values(word)) else encoding
    return None


class ReferenceHart(ReferenceState):
    """One hart in M-mode. ``step()`` executes one instruction, or raises ReferenceTrap."""

    def fetch(self) -> int:
        """The 16 or 32 bits at pc."""
        address = self.pc
        try:
            word = self.memory.read(address, 2)
            if word & 3 == 3:
                address += 2
                word |= self.memory.read(address, 2) << 16
        except LookupError:
            raise ReferenceTrap(CAUSE_INSTRUCTION_ACCESS_FAULT, address) from None
        return word

    def step(self) -> Encoding:
        """Execute the instruction at pc and return its encoding."""
        self.word = self.fetch()
        encoding = find_encoding(self.word)
        if encoding is None:
            raise self.illegal()
        name, values = encoding.expand(encoding.values(self.word))
        self.npc = self.next_pc = (self.pc + encoding.length) & 0xFFFFFFFFFFFFFFFF
        OPERATIONS[name](self, **values)
        self.pc = self.next_pc
        return encoding
