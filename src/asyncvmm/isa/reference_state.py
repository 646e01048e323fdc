"""The reference hart's state, memory and traps, in plain Python on unsigned integers."""

from __future__ import annotations

from typing import Final, Protocol

from asyncvmm.arch.cause_numbers import (
    CAUSE_BREAKPOINT,
    CAUSE_ECALL_FROM_M,
    CAUSE_ILLEGAL_INSTRUCTION,
    CAUSE_LOAD_ACCESS_FAULT,
    CAUSE_LOAD_ADDRESS_MISALIGNED,
    CAUSE_STORE_ACCESS_FAULT,
    CAUSE_STORE_ADDRESS_MISALIGNED,
)
from asyncvmm.isa.reference_float import FUNCTIONS
from asyncvmm.isa.reference_words import MASK

FFLAGS: Final = 0x001
FRM: Final = 0x002
FCSR: Final = 0x003
MSCRATCH: Final = 0x340
DYN: Final = 7


class ReferenceTrap(Exception):
    """The instruction trapped: the cause's code and what mtval would receive."""

    def __init__(self, cause: int, tval: int) -> None:
        super().__init__(f"cause {cause}, tval {tval:#x}")
        self.cause = cause
        self.tval = tval


class ReferenceMemory(Protocol):
    """Bytes at physical addresses; LookupError where there are none."""

    def read(self, address: int, size: int) -> int:
        """A little-endian number of ``size`` bytes."""

    def write(self, address: int, size: int, value: int) -> None:
        """Store the low ``size`` bytes of ``value``."""


class ReferenceRam:
    """One region of memory, as the simplest ReferenceMemory."""

    def __init__(self, base: int, size_bytes: int) -> None:
        self.base = base
        self.data = bytearray(size_bytes)

    def _offset(self, address: int, size: int) -> int:
        offset = address - self.base
        if not 0 <= offset <= len(self.data) - size:
            raise LookupError(address)
        return offset

    def read(self, address: int, size: int) -> int:
        """A little-endian number of ``size`` bytes."""
        offset = self._offset(address, size)
        return int.from_bytes(self.data[offset : offset + size], "little")

    def write(self, address: int, size: int, value: int) -> None:
        """Store the low ``size`` bytes of ``value``."""
        offset = self._offset(address, size)
        low = value & ((1 << 8 * size) - 1)
        self.data[offset : offset + size] = low.to_bytes(size, "little")


class ReferenceState:
    """Registers of one hart in M-mode without translation; ``next_pc`` is where it goes next.

    Misaligned loads and stores work. ``float_on`` is mstatus.FS not Off; ``float_dirty`` becomes
    true when an instruction changes floating-point state.
    """

    def __init__(self, memory: ReferenceMemory, pc: int = 0) -> None:
        self.memory = memory
        self.x = [0] * 32
        self.f = [0] * 32
        self.pc = pc
        self.npc = pc
        self.next_pc = pc
        self.word = 0
        self.fcsr = 0
        self.mscratch = 0
        self.float_on = True
        self.float_dirty = False
        self.reservation: tuple[int, int] | None = None

    # Registers

    def set_x(self, rd: int, value: int) -> None:
        """Write an integer register; x0 stays 0."""
        assert 0 <= value <= MASK
        if rd:
            self.x[rd] = value

    def set_f(self, rd: int, value: int) -> None:
        """Write a floating-point register's 64 bits."""
        assert 0 <= value <= MASK
        self.f[rd] = value
        self.float_dirty = True

    def illegal(self) -> ReferenceTrap:
        """The trap of an illegal instruction."""
        return ReferenceTrap(CAUSE_ILLEGAL_INSTRUCTION, self.word)

    # Memory

    def load(self, address: int, size: int) -> int:
        """Zero-extended."""
        try:
            return self.memory.read(address, size)
        except LookupError:
            raise ReferenceTrap(CAUSE_LOAD_ACCESS_FAULT, address) from None

    def store(self, address: int, size: int, value: int) -> None:
        """The low bytes of ``value``."""
        try:
            self.memory.write(address, size, value)
        except LookupError:
            raise ReferenceTrap(CAUSE_STORE_ACCESS_FAULT, address) from None

    def lr(self, address: int, size: int) -> int:
        """Load and reserve (I 13.2)."""
        if address % size:
            raise ReferenceTrap(CAUSE_LOAD_ADDRESS_MISALIGNED, address)
        value = self.load(address, size)
        self.reservation = (address, size)
        return value

    def sc(self, address: int, size: int, value: int) -> int:
        """Store if the reservation is for this address; 0 if stored (I 13.2).

        A reservation set may be larger than what LR read: SC.D after LR.W succeeds here.
        """
        if address % size:
            raise ReferenceTrap(CAUSE_STORE_ADDRESS_MISALIGNED, address)
        reserved = self.reservation is not None and self.reservation[0] == address
        self.reservation = None
        if not reserved:
            return 1
        self.store(address, size, value)
        return 0

    def amo_load(self, address: int, size: int) -> int:
        """An AMO's read: its faults are those of a store."""
        if address % size:
            raise ReferenceTrap(CAUSE_STORE_ADDRESS_MISALIGNED, address)
        try:
            return self.memory.read(address, size)
        except LookupError:
            raise ReferenceTrap(CAUSE_STORE_ACCESS_FAULT, address) from None

    def amo_store(self, address: int, size: int, value: int) -> None:
        """An AMO's write."""
        self.store(address, size, value)

    # Floating point

    def need_float(self) -> None:
        """Trap when the unit is off (II 3.1.6.6)."""
        if not self.float_on:
            raise self.illegal()

    def rounding_mode(self, rm: int) -> int:
        """The static mode, or frm's; trap when that is reserved (I 20.2)."""
        mode = self.fcsr >> 5 if rm == DYN else rm
        if mode > 4:
            raise self.illegal()
        return mode

    def float_operation(self, name: str, *operands: int) -> int:
        """An operation of reference_float; its flags accrue."""
        result, flags = FUNCTIONS[name](*operands)
        if flags:
            self.fcsr |= flags
            self.float_dirty = True
        return result

    # CSRs

    def csr_read(self, csr: int) -> int:
        """A register's value; trap when the reference has no such register."""
        if csr == MSCRATCH:
            return self.mscratch
        if csr not in (FFLAGS, FRM, FCSR):
            raise self.illegal()
        self.need_float()
        return {FFLAGS: self.fcsr & 0x1F, FRM: self.fcsr >> 5, FCSR: self.fcsr}[csr]

    def csr_write(self, csr: int, value: int) -> None:
        """Set a register through its write mask."""
        if csr == MSCRATCH:
            self.mscratch = value
            return
        if csr not in (FFLAGS, FRM, FCSR):
            raise self.illegal()
        self.need_float()
        self.float_dirty = True
        if csr == FFLAGS:
            self.fcsr = self.fcsr & 0xE0 | value & 0x1F
        elif csr == FRM:
            self.fcsr = self.fcsr & 0x1F | (value & 7) << 5
        else:
            self.fcsr = value & 0xFF

    def csr_swap(self, csr: int, value: int, reads: bool) -> int:
        """csrrw: the old value, or 0 without a read when rd is x0 (I 6.1)."""
        old = self.csr_read(csr) if reads else 0
        self.csr_write(csr, value)
        return old

    def csr_set(self, csr: int, value: int, writes: bool) -> int:
        """csrrs: the old value; no write when the rs1 field is 0 (I 6.1)."""
        old = self.csr_read(csr)
        if writes:
            self.csr_write(csr, old | value)
        return old

    def csr_clear(self, csr: int, value: int, writes: bool) -> int:
        """csrrc: the old value; no write when the rs1 field is 0 (I 6.1)."""
        old = self.csr_read(csr)
        if writes:
            self.csr_write(csr, old & ~value)
        return old

    # System

    def ecall(self) -> None:
        """Trap."""
        raise ReferenceTrap(CAUSE_ECALL_FROM_M, 0)

    def ebreak(self) -> None:
        """Trap."""
        raise ReferenceTrap(CAUSE_BREAKPOINT, self.pc)

    def mret(self) -> None:
        """Not in the reference: trap returns belong to the conformance tests."""
        raise NotImplementedError("mret")

    def sret(self) -> None:
        """Not in the reference: trap returns belong to the conformance tests."""
        raise NotImplementedError("sret")

    def wfi(self) -> None:
        """Wait for interrupt may always go on at once (II 3.3.3)."""

    def fence(self) -> None:
        """One hart sees its own accesses in order."""

    def fence_i(self) -> None:
        """Fetches always read memory here."""

    def sfence_vma(self, address: int, asid: int) -> None:
        """There is no translation."""
