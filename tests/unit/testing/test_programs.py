"""Generated programs are legal, stay in their memory, and end."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given, settings

from asyncvmm.arch.cause_numbers import CAUSE_BREAKPOINT
from asyncvmm.isa.reference import ReferenceHart, ReferenceRam, ReferenceTrap, find_encoding
from asyncvmm.isa.tables import ENCODINGS
from asyncvmm.testing.generated import BASE, SCRATCH, SCRATCH_SIZE, GeneratedProgram, build_program
from asyncvmm.testing.programs import instructions, programs


class Memory:
    """The program's code, which may only be read, and its scratch memory."""

    def __init__(self, program: GeneratedProgram) -> None:
        self.code = ReferenceRam(program.base, len(program.code))
        self.code.data[:] = program.code
        self.scratch = ReferenceRam(program.scratch, SCRATCH_SIZE)
        self.scratch.data[:] = program.data

    def read(self, address: int, size: int) -> int:
        """From the code or the scratch memory."""
        return (self.code if address < SCRATCH else self.scratch).read(address, size)

    def write(self, address: int, size: int, value: int) -> None:
        """To the scratch memory only."""
        self.scratch.write(address, size, value)


def run(program: GeneratedProgram) -> tuple[ReferenceHart, ReferenceTrap, list[str]]:
    """Run on the reference until it traps."""
    hart = ReferenceHart(Memory(program), program.base)
    hart.x[:], hart.f[:], hart.fcsr = program.x, program.f, program.fcsr
    names = []
    for _ in range(2000):
        try:
            names.append(hart.step().name)
        except ReferenceTrap as trap:
            return hart, trap, names
    raise AssertionError(f"does not end: {program!r}")


@settings(derandomize=True, max_examples=200, deadline=None)
@given(programs())
def test_programs_end_at_their_ebreak(program: GeneratedProgram) -> None:
    hart, trap, _ = run(program)
    assert trap.cause == CAUSE_BREAKPOINT, f"{trap} at {hart.pc:#x} of {program!r}"
    assert hart.pc == program.base + len(program.code) - 4


def test_programs_use_every_instruction_that_they_may() -> None:
    random = Random(5)
    seen: Counter[str] = Counter()
    for _ in range(300):
        pieces = [random.getrandbits(32) for _ in range(40)]
        seen.update(run(build_program(pieces, random.getrandbits(32)))[2])
    absent = {encoding.name for encoding in ENCODINGS} - set(seen)
    assert absent == {
        "ecall", "ebreak", "c.ebreak", "mret", "sret", "wfi", "sfence.vma", "c.jr", "c.jalr",
        "c.addi16sp",
    }  # fmt: skip


def test_an_extension_left_out_stays_out() -> None:
    allowed = frozenset({"i", "m", "c"})
    for state in range(50):
        program = build_program(range(100, 140), state, base=BASE, extensions=allowed)
        names = set(run(program)[2])
        extensions = {e.extension for e in ENCODINGS if e.name in names}
        assert extensions <= allowed
        assert not names & {"c.fld", "c.fsd", "c.fldsp", "c.fsdsp"}


def test_the_same_numbers_make_the_same_program() -> None:
    assert build_program([1, 2, 3], 4) == build_program([1, 2, 3], 4)
    assert build_program([1, 2, 3], 4) != build_program([1, 2, 3], 5)


@settings(derandomize=True)
@given(instructions())
def test_instructions_are_legal(word: int) -> None:
    encoding = find_encoding(word)
    assert encoding is not None
    assert encoding.encode(encoding.values(word)) == word
