"""A compiled hart with nothing but RAM, and the reference, both loaded with a generated program."""

from __future__ import annotations

from dataclasses import dataclass, field

from asyncvmm.arch.cause_numbers import CAUSE_BREAKPOINT
from asyncvmm.arch.code import CodeCache
from asyncvmm.arch.coherence import Coherence
from asyncvmm.arch.hart import EXIT_BUDGET, Hart
from asyncvmm.arch.mmu import update_context
from asyncvmm.arch.status import FS
from asyncvmm.base.bits import to_signed, to_unsigned
from asyncvmm.bus.address_map import Bus
from asyncvmm.engine.interpreter import Engine
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


class DifferenceError(AssertionError):
    """An engine and the reference do not agree; the text has the program and what differs."""


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


def compare(engine: Engine, program: GeneratedProgram, split: int = 0) -> int:
    """Run the program on ``engine`` and on the reference and compare; the number of steps.

    With ``split`` the states are compared after that many steps too. DifferenceError otherwise.
    """
    steps, wanted = run_reference(program)
    hart = make_hart(program)
    if 0 < split < steps:
        _advance(engine, hart, split, run_reference(program, split)[1], program)
    _advance(engine, hart, steps, wanted, program)
    engine.run(hart, 1)
    if (hart.traps, hart.mcause) != (1, CAUSE_BREAKPOINT):
        raise DifferenceError(f"{hart.traps} traps, mcause {hart.mcause} at the end: {program!r}")
    return steps


def _advance(
    engine: Engine, hart: Hart, steps: int, wanted: State, program: GeneratedProgram
) -> None:
    """Run until ``steps`` steps in all and compare."""
    answer = engine.run(hart, steps - hart.steps)
    differing = wanted.difference(state_of(hart, program))
    if answer != EXIT_BUDGET or hart.steps != steps or hart.traps:
        differing.append(f"exit {answer} after {hart.steps} steps of {steps}, {hart.traps} traps")
    if differing:
        raise DifferenceError(f"reference, engine: {differing}\n{program!r}")
