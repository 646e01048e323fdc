"""An engine and the reference executor side by side on the same sequences."""

from __future__ import annotations

import struct
from collections import Counter
from random import Random
from typing import Final

from asyncvmm.arch.code import CodeCache
from asyncvmm.arch.coherence import Coherence
from asyncvmm.arch.hart import Hart
from asyncvmm.arch.mmu import update_context
from asyncvmm.bus.address_map import Bus
from asyncvmm.engine.interpreter import Engine, Interpreter
from asyncvmm.isa.disasm import disassemble
from asyncvmm.isa.reference_state import ReferenceRam
from asyncvmm.isa.reference_words import MASK, signed
from asyncvmm.memory.pages import Ram
from tools.differential.machine_reference import MachineReference
from tools.differential.wild import (
    CODE_BYTES,
    MACHINE_CSRS,
    RAM_BASE,
    RAM_SIZE,
    Sequence,
    WildSequences,
)

_FS_SHIFT: Final = 13
_STATE: Final = struct.Struct("<32Q")


class Mismatch(AssertionError):
    """Ours and the reference differ; the message says in what, and how to run it again."""


class Pair:
    """One machine of ours and one reference machine with the same memory."""

    def __init__(self, memory: bytes, engine: Engine | None = None) -> None:
        self.hart = new_hart(memory)
        self.ram = self.hart.ram
        self.engine = engine or Interpreter()
        mirror = ReferenceRam(RAM_BASE, RAM_SIZE)
        mirror.data[:] = memory
        self.data = mirror.data
        self.reference = MachineReference(mirror)

    def load(self, sequence: Sequence) -> None:
        """Put code and registers into both."""
        at = sequence.start - RAM_BASE
        code = sequence.code[: RAM_SIZE - at]
        self.data[at : at + len(code)] = code
        self.hart.ram.write(sequence.start, code)
        self.load_reference(sequence)
        load_hart(self.hart, sequence)

    def load_reference(self, sequence: Sequence) -> None:
        """Put the registers into the reference."""
        reference = self.reference
        reference.x = list(sequence.x)
        reference.f = list(sequence.f)
        reference.fcsr = sequence.fcsr
        reference.float_on = sequence.float_state != 0
        reference.pc = sequence.pc
        reference.mtvec = sequence.handler
        reference.reservation = None
        reference.stuck = False

    def trap_registers(self) -> tuple[int, int, int, int]:
        """Our hart's mscratch, mepc, mcause and mtval."""
        hart = self.hart
        return hart.mscratch, hart.mepc, hart.mcause, hart.mtval

    def difference(self) -> str:
        """What differs now, or ""."""
        hart, reference = self.hart, self.reference
        found = []
        x, f = read_registers(hart)
        found += _unequal("x", x, reference.x) + _unequal("f", f, reference.f)
        scratch, epc, cause, value = self.trap_registers()
        for name, ours, theirs in (
            ("pc", hart.pc, reference.pc),
            ("fcsr", hart.fp.frm << 5 | hart.fp.flags, reference.fcsr),
            ("scratch", scratch, reference.mscratch),
            ("epc", epc, reference.mepc),
            ("cause", cause, reference.mcause),
            ("tval", value, reference.mtval),
        ):
            if ours & MASK != theirs:
                found.append(f"{name}: ours {ours & MASK:#x}, reference {theirs:#x}")
        ours_ram = self.ram.read(RAM_BASE, RAM_SIZE)
        if ours_ram != self.data:
            at = next(i for i in range(RAM_SIZE) if ours_ram[i] != self.data[i])
            found.append(
                f"memory at {RAM_BASE + at:#x}: ours {ours_ram[at : at + 8].hex()}, "
                f"reference {self.data[at : at + 8].hex()}"
            )
        return "\n".join(found)


def _unequal(name: str, ours: tuple[int, ...], theirs: list[int]) -> list[str]:
    if ours == tuple(theirs):
        return []
    return [
        f"{name}{n}: ours {a:#x}, reference {b:#x}"
        for n, (a, b) in enumerate(zip(ours, theirs, strict=True))
        if a != b
    ]


def new_hart(memory: bytes) -> Hart:
    """A hart with the sequences' RAM, as much as ``memory`` fills, and nothing else."""
    ram = Ram(RAM_BASE, len(memory))
    code = CodeCache()
    hart = Hart(0, ram, Bus(), code)
    Coherence(ram, code).add(hart)
    ram.write(RAM_BASE, memory)
    return hart


def load_hart(hart: Hart, sequence: Sequence) -> None:
    """The registers of ``sequence``, in M-mode; the rest of the hart stays as it was."""
    for n in range(32):
        hart.x[n] = signed(sequence.x[n])
        hart.f[n] = signed(sequence.f[n])
    hart.fp.flags = sequence.fcsr & 31
    hart.fp.frm = sequence.fcsr >> 5
    hart.mstatus = sequence.float_state << _FS_SHIFT
    hart.mtvec = sequence.handler
    hart.pc = sequence.pc
    hart.reservation = -1
    update_context(hart)


def read_registers(hart: Hart) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """x0..x31 and f0..f31 as unsigned patterns."""
    x = bytes(memoryview(hart.x))[:256]
    f = bytes(memoryview(hart.f))
    return _STATE.unpack(x), _STATE.unpack(f)


class Lockstep:
    """Sessions of sequences from one seed, compared as they go.

    ``steps`` counts what was compared, ``sequences`` how many; ``stepped`` of them after each
    single step. A session keeps its machines for several sequences, so that stale state shows.
    """

    csrs = MACHINE_CSRS

    def __init__(
        self, seed: int, sequences: int = 16, steps: int = 40, engine: Engine | None = None
    ) -> None:
        self.seed = seed
        self.engine = engine  # the interpreter unless said
        self.per_session = sequences
        self.length = steps
        self.steps = 0
        self.sequences = 0
        self.stepped = 0
        self.traps = 0
        self.seen: Counter[str] = Counter()

    def session(self, number: int) -> None:
        """Run session ``number``; raises Mismatch."""
        seed = self.seed * 1_000_003 + number
        supply = WildSequences(seed)
        supply.csrs = self.csrs
        choice = Random(seed ^ 0x5EED)
        pair = self._pair(supply, choice)
        for index in range(self.per_session):
            sequence = supply.sequence(self.length)
            pair.load(sequence)
            single = choice.randrange(8) == 0
            parts = [1] * self.length if single else _parts(choice, self.length)
            self.sequences += 1
            self.stepped += single
            before = pair.reference.traps
            for part in parts:
                start = pair.reference.pc
                taken = pair.reference.run(part)
                if taken:
                    pair.engine.run(pair.hart, taken)
                self.steps += taken
                found = pair.difference()
                if found:
                    raise Mismatch(self._message(number, index, sequence, start, found))
                if taken < part or pair.reference.stuck:
                    break
            self.traps += pair.reference.traps - before
        self.seen += pair.reference.seen

    def _pair(self, supply: WildSequences, choice: Random) -> Pair:
        return Pair(supply.memory(), self.engine)

    def _message(self, number: int, index: int, sequence: Sequence, start: int, found: str) -> str:
        return (
            f"seed {self.seed}, session {number}, sequence {index}, part from {start:#x}\n{found}\n"
            f"handler {sequence.handler:#x}, pc {sequence.pc:#x}\n{listing(sequence)}"
        )


def _parts(choice: Random, steps: int) -> list[int]:
    """Split a budget into one to four positive parts."""
    parts = []
    for _ in range(choice.randrange(4)):
        if steps > 1:
            part = choice.randrange(1, steps)
            parts.append(part)
            steps -= part
    return [*parts, steps]


def listing(sequence: Sequence) -> str:
    """The code as it was loaded, disassembled."""
    lines = []
    at = sequence.pc - sequence.start
    while at < CODE_BYTES:
        word = int.from_bytes(sequence.code[at : at + 4], "little")
        lines.append(f"{sequence.start + at:#x}: {disassemble(word, sequence.start + at)}")
        at += 4 if word & 3 == 3 else 2
    return "\n".join(lines)
