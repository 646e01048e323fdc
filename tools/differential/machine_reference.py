"""The reference executor with traps: what the interpreter's sequences are compared with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from asyncvmm.isa.encoding import Encoding
from asyncvmm.isa.reference import ReferenceHart, ReferenceMemory, find_encoding
from asyncvmm.isa.reference_operations import OPERATIONS
from asyncvmm.isa.reference_state import ReferenceTrap
from asyncvmm.isa.reference_words import MASK
from tools.differential.wild import RAM_BASE, RAM_SIZE

LOAD: Final = 0
STORE: Final = 1


class MachineReference(ReferenceHart):
    """The reference with M-mode traps. ``run`` stops before what it does not model.

    That is mret, sret, wfi, sfence.vma and CSRs other than its own: ``run`` then answers fewer
    steps. A misaligned access that reaches past the end of memory names its first byte there, as
    the interpreter does (the portion of the access that caused the fault: privileged 3.1.16).
    """

    first_csr = 0x340
    """mscratch; mepc, mcause and mtval follow it."""
    causes: Mapping[int, int] = {}
    """Other codes for causes of the reference, which thinks that it is in M-mode."""

    def __init__(self, memory: ReferenceMemory) -> None:
        super().__init__(memory)
        self.mepc = 0
        self.mcause = 0
        self.mtval = 0
        self.mtvec = 0
        self.traps = 0
        self.seen: Counter[str] = Counter()  # names executed and "cause N", for the tests
        self.stuck = False
        self._decoded: dict[int, tuple[str, dict[str, int], int] | None] = {}

    def csr_read(self, csr: int) -> int:
        """Also mepc, mcause and mtval."""
        match csr - self.first_csr:
            case 0:
                return self.mscratch
            case 1:
                return self.mepc
            case 2:
                return self.mcause
            case 3:
                return self.mtval
        return super().csr_read(csr)

    def csr_write(self, csr: int, value: int) -> None:
        """Also mepc, mcause and mtval."""
        match csr - self.first_csr:
            case 0:
                self.mscratch = value
            case 1:
                self.mepc = value & ~1
            case 2:
                self.mcause = value
            case 3:
                self.mtval = value
            case _:
                super().csr_write(csr, value)

    def load(self, address: int, size: int) -> int:
        """Names the first byte outside memory in its trap."""
        try:
            return super().load(address, size)
        except ReferenceTrap as trap:
            trap.tval = self.outside(address, size)
            raise

    def store(self, address: int, size: int, value: int) -> None:
        """Names the first byte outside memory in its trap."""
        try:
            super().store(address, size, value)
        except ReferenceTrap as trap:
            trap.tval = self.outside(address, size, STORE)
            raise

    def outside(self, address: int, size: int, need: int = 0) -> int:
        """The first of the bytes that is not there."""
        for byte in range(address, address + size):
            if not RAM_BASE <= byte & MASK < RAM_BASE + RAM_SIZE:
                return byte & MASK
        raise AssertionError("no byte is outside")

    def run(self, steps: int) -> int:
        """Take up to ``steps`` steps (instructions and traps); how many it took."""
        for taken in range(steps):
            try:
                word = self.fetch()
                decoded = self._decode(word)
                self.word = word if word & 3 == 3 else word & 0xFFFF
                if decoded is None:
                    raise self.illegal()
                name, values, length = decoded
                if name in _UNMODELLED or not self.knows(values.get("csr", 1)):
                    return taken
                self.npc = self.next_pc = (self.pc + length) & MASK
                self.seen[name] += 1
                OPERATIONS[name](self, **values)
                self.pc = self.next_pc
            except ReferenceTrap as trap:
                self.mepc = self.pc
                self.mcause = self.causes.get(trap.cause, trap.cause)
                self.mtval = trap.tval
                self.reservation = None
                self.traps += 1
                self.seen[f"cause {self.mcause}"] += 1
                if self.pc == self.mtvec:
                    self.stuck = True  # a handler that traps at once would do so for ever
                    return taken + 1
                self.pc = self.mtvec
        return steps

    def knows(self, csr: int) -> bool:
        """Whether the reference has this CSR."""
        return csr in (1, 2, 3) or 0 <= csr - self.first_csr <= 3

    def _decode(self, word: int) -> tuple[str, dict[str, int], int] | None:
        if word & 3 != 3:
            word &= 0xFFFF
        if word not in self._decoded:
            encoding = find_encoding(word)
            self._decoded[word] = None if encoding is None else _expanded(encoding, word)
        return self._decoded[word]


_UNMODELLED: Final = frozenset(("mret", "sret", "wfi", "sfence.vma"))


def _expanded(encoding: Encoding, word: int) -> tuple[str, dict[str, int], int]:
    name, values = encoding.expand(encoding.values(word))
    return name, values, encoding.length
