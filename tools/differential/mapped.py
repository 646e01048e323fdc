"""Wild sequences in S-mode under Sv39: pages at each other's places, twice, read-only, or missing.

The reference's memory translates by itself, with a table of five pages, so that everything between an
address and its byte in the interpreter is compared: TLB, aliases of code, faults in the middle.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Final

from asyncvmm.arch.hart import SUPERVISOR
from asyncvmm.arch.mmu import update_context
from asyncvmm.engine.interpreter import Engine
from asyncvmm.isa.reference_state import ReferenceTrap
from asyncvmm.isa.reference_words import MASK, signed
from tools.differential.lockstep import Lockstep, Pair, load_hart
from tools.differential.machine_reference import STORE, MachineReference
from tools.differential.wild import RAM_BASE, RAM_END, RAM_SIZE, Sequence, WildSequences

PAGES: Final = RAM_SIZE // 4096
SUPERVISOR_CSRS: Final = (0x140, 0x141, 0x142, 0x143)
V, R, W, X, A, D = 1, 2, 4, 8, 64, 128
_FLAGS: Final = (R | W | X,) * 8 + (R | X, R | W, R, X, 0)
_DELEGATED: Final = 0xB3FF


@dataclass
class MappedMemory:
    """Physical bytes in ``data``; page n from RAM_BASE is page ``pages[n][0]``, with rights [1]."""

    data: bytearray
    pages: list[tuple[int, int]]

    def place(self, address: int, need: int) -> int:
        """The offset in ``data`` of the byte at ``address``; LookupError without all rights."""
        number = (address - RAM_BASE) >> 12
        if not 0 <= number < PAGES:
            raise LookupError(address)
        page, rights = self.pages[number]
        if rights & need != need or not rights:
            raise LookupError(address)
        return page << 12 | address & 4095

    def read(self, address: int, size: int, need: int = R) -> int:
        """A little-endian number; all bytes need the right ``need``."""
        value = 0
        for index in range(size):
            value |= self.data[self.place(address + index & MASK, need)] << 8 * index
        return value

    def write(self, address: int, size: int, value: int) -> None:
        """Store the low bytes of ``value``; none of them when one may not be written."""
        places = [self.place(address + index & MASK, W) for index in range(size)]
        for index, place in enumerate(places):
            self.data[place] = value >> 8 * index & 0xFF


class SupervisorReference(MachineReference):
    """The reference in S-mode: page faults, ECALL from S, and the S-level trap registers."""

    first_csr = SUPERVISOR_CSRS[0]
    causes: Mapping[int, int] = {1: 12, 5: 13, 7: 15, 11: 9}

    def __init__(self, memory: MappedMemory) -> None:
        super().__init__(memory)
        self.mapped = memory

    def fetch(self) -> int:
        """Halfword by halfword, with the right to execute."""
        address = self.pc
        try:
            word = self.mapped.read(address, 2, X)
            if word & 3 == 3:
                address = address + 2 & MASK
                word |= self.mapped.read(address, 2, X) << 16
        except LookupError:
            raise ReferenceTrap(1, address) from None
        return word

    def amo_load(self, address: int, size: int) -> int:
        """An AMO needs the right to write before it reads."""
        if address % size == 0:
            try:
                self.mapped.place(address, W)
            except LookupError:
                raise ReferenceTrap(7, address) from None
        return super().amo_load(address, size)

    def outside(self, address: int, size: int, need: int = 0) -> int:
        """The first byte that may not be accessed."""
        for byte in range(address, address + size):
            try:
                self.mapped.place(byte & MASK, W if need == STORE else R)
            except LookupError:
                return byte & MASK
        raise AssertionError("all bytes are accessible")


class MappedPair(Pair):
    """A Pair whose hart translates by tables behind the sequences' memory."""

    def __init__(self, memory: bytes, random: Random, engine: Engine | None = None) -> None:
        self.pages = [(random.randrange(PAGES), random.choice(_FLAGS)) for _ in range(PAGES)]
        super().__init__(memory + _tables(self.pages), engine)
        self.data = bytearray(memory)
        self.reference = SupervisorReference(MappedMemory(self.data, self.pages))
        hart = self.hart
        hart.pmpaddr[0] = 0x3FFFFFFFFFFFFF
        hart.pmpcfg[0] = 0x1F
        hart.pmp_active = True
        hart.medeleg = _DELEGATED
        hart.satp = signed(8 << 60 | 7 << 44 | RAM_END >> 12)

    def load(self, sequence: Sequence) -> None:
        """Code goes to where it will be found, as far as anything is there."""
        for index, byte in enumerate(sequence.code):
            number = (sequence.start + index - RAM_BASE) >> 12
            if number < PAGES:
                offset = self.pages[number][0] << 12 | sequence.start + index & 4095
                self.data[offset] = byte
                self.hart.ram.store(RAM_BASE + offset, 1, byte)
        self.load_reference(sequence)
        load_hart(self.hart, sequence)
        self.hart.stvec = sequence.handler
        self.hart.priv = SUPERVISOR
        update_context(self.hart)

    def trap_registers(self) -> tuple[int, int, int, int]:
        """The S-level ones."""
        hart = self.hart
        return hart.sscratch, hart.sepc, hart.scause, hart.stval


def _tables(pages: list[tuple[int, int]]) -> bytes:
    """Root, middle and last table, at RAM_END."""
    root, middle, last = [0] * 512, [0] * 512, [0] * 512
    root[RAM_BASE >> 30 & 511] = RAM_END + 4096 >> 2 | V
    middle[RAM_BASE >> 21 & 511] = RAM_END + 8192 >> 2 | V
    for number, (page, rights) in enumerate(pages):
        if rights:
            entry = RAM_BASE + 4096 * page >> 2 | V | A | D | rights
            last[(RAM_BASE >> 12 & 511) + number] = entry
    return struct.pack("<1536Q", *root, *middle, *last)


class MappedLockstep(Lockstep):
    """Lockstep in S-mode; sessions draw their own mappings."""

    csrs = SUPERVISOR_CSRS

    def _pair(self, supply: WildSequences, choice: Random) -> Pair:
        return MappedPair(supply.memory(), choice, self.engine)
