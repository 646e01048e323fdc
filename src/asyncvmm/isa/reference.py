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

# The most specific mask first: the first row that matches is the one.
_ORDERED = sorted(ENCODINGS, key=lambda encoding: -encoding.mask.bit_count())
_ROWS = {opcode: [e for e in _ORDERED if e.match & 3 == opcode] for opcode in range(4)}


def find_encoding(word: int) -> Encoding | None:
    """The encoding that the fetched bits are, or None when they are illegal."""
    if word & 3 != 3:
        word &= 0xFFFF
    for encoding in _ROWS[word & 3]:
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
