"""A compiled hart with nothing but RAM, and the reference, both loaded with a generated program."""

from __future__ import annotations

from dataclasses import dataclass, field

from asyncvmm.arch.code import CodeCache
from asyncvmm.arch.coherence import Coherence
from asyncvmm.arch.hart import Hart
from asyncvmm.arch.mmu import update_context
from asyncvmm.arch.status import FS
from asyncvmm.base.bits import to_signed, to_unsigned
from asyncvmm.bus.address_map import Bus
from asyncvmm.isa.reference import ReferenceHart, ReferenceRam, ReferenceTrap
from asyncvmm.memory.pages import Ram
from asyncvmm.testing.generated import SCRATCH_SIZE, GeneratedProgram

RAM_SIZE = 0x40000


@dataclass(frozen=True)
class State:
    """All that a program can change, unsigned; two states compare field by field."""

    pc: int
    x: tuple[int, ...]
    f: tuple[int, ...]
    fcsr: int
    mscratch: int
    memory: bytes = field(repr=False)

    def difference(self, other: State) -> list[str]:
        """What differs, by name, own value first."""
        pairs = [("pc", self.pc, other.pc), ("fcsr", self.fcsr, other.fcsr)]
        pairs += [(f"x{n}", a, b) for n, (a, b) in enumerate(zip(self.x, other.x, strict=True))]
        pairs += [(f"f{n}", a, b) for n, (a, b) in enumerate(zip(self.f, other.f, strict=True))]
        pairs.append(("mscratch", self.mscratch, other.mscratch))
        found = [f"{name}: {a:#x}, {b:#x}" for name, a, b in pairs if a != b]
        if self.memory != other.memory:
            at = next(
                n for n, (a, b) in enumerate(zip(self.memory, other.memory, strict=True)) if a != b
            )
            found.append(f"memory at {at:#x}: {self.memory[at]:#x}, {other.memory[at]:#x}")
        return found


def run_reference(program: GeneratedProgram, limit: int = 100_000) -> tuple[int, State]:
    """Steps up to the first trap, and the state there."""
    ram = ReferenceRam(program.base, RAM_SIZE)
    ram.data[: len(program.code)] = program.code
    start = program.scratch - program.base
    ram.data[start : start + SCRATCH_SIZE] = program.data
    hart = ReferenceHart(ram, program.base)
    hart.x[:], hart.f[:], hart.fcsr = program.x, program.f, program.fcsr
    steps = 0
    try:
        while steps < limit:
            hart.step()
            steps += 1
    except ReferenceTrap:
        pass
    memory = bytes(ram.data[start : start + SCRATCH_SIZE])
    return steps, State(hart.pc, tuple(hart.x), tuple(hart.f), hart.fcsr, hart.mscratch, memory)


def make_hart(program: GeneratedProgram) -> Hart:
    """A compiled hart in M-mode, the floating-point unit on, about to run the program."""
    ram, code = Ram(program.base, RAM_SIZE), CodeCache()
    hart = Hart(0, ram, Bus(), code)
    Coherence(ram, code).add(hart)
    ram.write(program.base, program.code)
    ram.write(program.scratch, program.data)
    hart.mstatus |= FS
    for n in range(32):
        hart.x[n] = to_signed(program.x[n])
        hart.f[n] = to_signed(program.f[n])
    hart.fp.frm, hart.fp.flags = program.fcsr >> 5, program.fcsr & 0x1F
    hart.pc = program.base
    update_context(hart)
    return hart


def state_of(hart: Hart, program: GeneratedProgram) -> State:
    """The compiled hart's state."""
    return State(
        to_unsigned(hart.pc),
        tuple(to_unsigned(hart.x[n]) for n in range(32)),
        tuple(to_unsigned(hart.f[n]) for n in range(32)),
        hart.fp.frm << 5 | hart.fp.flags,
        to_unsigned(hart.mscratch),
        hart.ram.read(program.scratch, SCRATCH_SIZE),
    )
