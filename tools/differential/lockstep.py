"""Interpreter and reference executor side by side on the same sequences."""

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
from asyncvmm.isa.encoding import Encoding
from asyncvmm.isa.reference import ReferenceHart, find_encoding
from asyncvmm.isa.reference_operations import OPERATIONS
from asyncvmm.isa.reference_state import ReferenceRam, ReferenceTrap
from asyncvmm.isa.reference_words import MASK, signed
from asyncvmm.memory.pages import Ram
from tools.differential.wild import (
    CODE_BYTES,
    MACHINE_CSRS,
    RAM_BASE,
    RAM_SIZE,
    Sequence,
    WildSequences,
)

_FS_SHIFT: Final = 13
_MEPC, _MCAUSE, _MTVAL = 0x341, 0x342, 0x343
_STATE: Final = struct.Struct("<32Q")
_CSR_ROLE: Final = "csr"
_KNOWN_CSRS: Final = frozenset((1, 2, 3, *MACHINE_CSRS))


class Mismatch(AssertionError):
    """Interpreter and reference differ; the message says in what, and how to run it again."""


class MachineReference(ReferenceHart):
    """The reference with M-mode traps. ``run`` stops before what it does not model.

    That is mret, sret, wfi, sfence.vma and CSRs other than its own: ``run`` then answers fewer
    steps. A misaligned access that reaches past the end of memory names its first byte there, as
    the interpreter does (the portion of the access that caused the fault: privileged 3.1.16).
    """

    def __init__(self, memory: ReferenceRam) -> None:
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
        if csr == _MEPC:
            return self.mepc
        if csr == _MCAUSE:
            return self.mcause
        if csr == _MTVAL:
            return self.mtval
        return super().csr_read(csr)

    def csr_write(self, csr: int, value: int) -> None:
        """Also mepc, mcause and mtval."""
        if csr == _MEPC:
            self.mepc = value & ~1
        elif csr == _MCAUSE:
            self.mcause = value
        elif csr == _MTVAL:
            self.mtval = value
        else:
            super().csr_write(csr, value)

    def load(self, address: int, size: int) -> int:
        """Names the first byte outside memory in its trap."""
        try:
            return super().load(address, size)
        except ReferenceTrap as trap:
            trap.tval = self._outside(address, size)
            raise

    def store(self, address: int, size: int, value: int) -> None:
        """Names the first byte outside memory in its trap."""
        try:
            super().store(address, size, value)
        except ReferenceTrap as trap:
            trap.tval = self._outside(address, size)
            raise

    def _outside(self, address: int, size: int) -> int:
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
                if name in _UNMODELLED or values.get("csr", 1) not in _KNOWN_CSRS:
                    return taken
                self.npc = self.next_pc = (self.pc + length) & MASK
                self.seen[name] += 1
                OPERATIONS[name](self, **values)
                self.pc = self.next_pc
            except ReferenceTrap as trap:
                self.mepc = self.pc
                self.mcause = trap.cause
                self.mtval = trap.tval
                self.reservation = None
                self.traps += 1
                self.seen[f"cause {trap.cause}"] += 1
                if self.pc == self.mtvec:
                    self.stuck = True  # a handler that traps at once would do so for ever
                    return taken + 1
                self.pc = self.mtvec
        return steps

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


class Pair:
    """One interpreter machine and one reference machine with the same memory."""

    def __init__(self, memory: bytes, engine: Engine | None = None) -> None:
        self.hart = new_hart(memory)
        self.ram = self.hart.ram
        self.engine = engine or Interpreter()
        self.mirror = ReferenceRam(RAM_BASE, RAM_SIZE)
        self.mirror.data[:] = memory
        self.reference = MachineReference(self.mirror)

    def load(self, sequence: Sequence) -> None:
        """Put code and registers into both."""
        at = sequence.start - RAM_BASE
        code = sequence.code[: RAM_SIZE - at]
        self.mirror.data[at : at + len(code)] = code
        reference = self.reference
        reference.x = list(sequence.x)
        reference.f = list(sequence.f)
        reference.fcsr = sequence.fcsr
        reference.float_on = sequence.float_state != 0
        reference.pc = sequence.pc
        reference.mtvec = sequence.handler
        reference.reservation = None
        reference.stuck = False
        load_hart(self.hart, sequence)

    def difference(self) -> str:
        """What differs now, or ""."""
        hart, reference = self.hart, self.reference
        found = []
        x, f = read_registers(hart)
        found += _unequal("x", x, reference.x) + _unequal("f", f, reference.f)
        for name, ours, theirs in (
            ("pc", hart.pc, reference.pc),
            ("fcsr", hart.fp.frm << 5 | hart.fp.flags, reference.fcsr),
            ("mepc", hart.mepc, reference.mepc),
            ("mcause", hart.mcause, reference.mcause),
            ("mtval", hart.mtval, reference.mtval),
            ("mscratch", hart.mscratch, reference.mscratch),
        ):
            if ours & MASK != theirs:
                found.append(f"{name}: interpreter {ours & MASK:#x}, reference {theirs:#x}")
        ours_ram = self.ram.read(RAM_BASE, RAM_SIZE)
        if ours_ram != self.mirror.data:
            at = next(i for i in range(RAM_SIZE) if ours_ram[i] != self.mirror.data[i])
            found.append(
                f"memory at {RAM_BASE + at:#x}: interpreter {ours_ram[at : at + 8].hex()}, "
                f"reference {self.mirror.data[at : at + 8].hex()}"
            )
        return "\n".join(found)


def _unequal(name: str, ours: tuple[int, ...], theirs: list[int]) -> list[str]:
    if ours == tuple(theirs):
        return []
    return [
        f"{name}{n}: interpreter {a:#x}, reference {b:#x}"
        for n, (a, b) in enumerate(zip(ours, theirs, strict=True))
        if a != b
    ]


def new_hart(memory: bytes) -> Hart:
    """A hart with the sequences' RAM, which holds ``memory``, and nothing else."""
    ram = Ram(RAM_BASE, RAM_SIZE)
    code = CodeCache()
    hart = Hart(0, ram, Bus(), code)
    Coherence(ram, code).add(hart)
    ram.write(RAM_BASE, memory)
    return hart


def load_hart(hart: Hart, sequence: Sequence) -> None:
    """Code and registers of ``sequence``, in M-mode; the rest of the hart stays as it was."""
    at = sequence.start - RAM_BASE
    hart.ram.write(sequence.start, sequence.code[: RAM_SIZE - at])
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

    def __init__(self, seed: int, sequences: int = 16, steps: int = 40) -> None:
        self.seed = seed
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
        choice = Random(seed ^ 0x5EED)
        pair = Pair(supply.memory())
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
