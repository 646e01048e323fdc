"""Single instructions that may trap: interpreter and reference agree on cause, value and state."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from asyncvmm.base.bits import to_unsigned
from asyncvmm.engine.interpreter import Interpreter
from asyncvmm.isa.encoding import Encoding
from asyncvmm.isa.reference import ReferenceHart, ReferenceRam, ReferenceTrap, find_encoding
from asyncvmm.isa.tables import ENCODINGS
from asyncvmm.testing.bare_hart import RAM_SIZE, State, make_hart, state_of
from asyncvmm.testing.generated import BASE, SCRATCH, SCRATCH_SIZE, GeneratedProgram, build_program

END = BASE + RAM_SIZE
HANDLER = BASE + 0x8000
ADDRESSES = (0, 1, BASE - 1, BASE - 4, END - 8, END - 4, END - 1, END, SCRATCH + 1, SCRATCH + 4092)
SKIPPED = {"csr", "system"}
"""The reference has few CSRs and one mode: tests/conformance has these."""


def reference_step(program: GeneratedProgram) -> tuple[tuple[int, int] | None, State]:
    """Cause and value of the trap (None: no trap), and the state after one step."""
    ram = ReferenceRam(BASE, RAM_SIZE)
    ram.data[: len(program.code)] = program.code
    start = SCRATCH - BASE
    ram.data[start : start + SCRATCH_SIZE] = program.data
    hart = ReferenceHart(ram, BASE)
    hart.x[:], hart.f[:], hart.fcsr = program.x, program.f, program.fcsr
    trap = None
    try:
        hart.step()
    except ReferenceTrap as caught:
        trap = caught.cause, caught.tval
    memory = bytes(ram.data[start : start + SCRATCH_SIZE])
    return trap, State(hart.pc, tuple(hart.x), tuple(hart.f), hart.fcsr, 0, memory)


def hart_step(program: GeneratedProgram) -> tuple[tuple[int, int] | None, State]:
    """The same of the interpreter; pc is mepc when it trapped."""
    hart = make_hart(program)
    hart.mtvec = HANDLER
    Interpreter().run(hart, 1)
    assert hart.steps == 1
    if hart.traps == 0:
        return None, state_of(hart, program)
    assert to_unsigned(hart.pc) == HANDLER
    hart.pc = hart.mepc
    return (hart.mcause, to_unsigned(hart.mtval)), state_of(hart, program)


def check(word: int, random: Random) -> tuple[int, int] | None:
    """Compare one instruction with random registers."""
    program = build_program([], random.getrandbits(32))
    x = list(program.x)
    for n in random.sample(range(1, 32), 20):
        x[n] = random.choice(ADDRESSES) + random.randrange(-4, 4) & (1 << 64) - 1
    code = word.to_bytes(4, "little") + bytes(16)
    fcsr = random.choice((*range(8), 0, 0)) << 5
    program = GeneratedProgram(BASE, code, SCRATCH, program.data, tuple(x), program.f, fcsr)
    wanted, state = reference_step(program)
    found, other = hart_step(program)
    if wanted is not None and found is not None and wanted[0] in (5, 7) and wanted[1] % 8:
        # Misaligned or not there: the order of the two is the implementation's (II table 15).
        # The address is that of the access, or of its first byte that is not there.
        found = found[0] | 1, found[1]
        if wanted[1] < found[1] < wanted[1] + 8:
            found = found[0], wanted[1]
    assert found == wanted, f"trap {found} instead of {wanted}: {program!r}"
    assert not state.difference(other), f"{state.difference(other)}: {program!r}"
    return wanted


@pytest.mark.parametrize(
    "encoding", [e for e in ENCODINGS if e.role not in SKIPPED], ids=lambda e: e.name
)
def test_one_instruction_with_wild_addresses(encoding: Encoding) -> None:
    random = Random(encoding.name)
    for _ in range(60):
        word = (encoding.match | random.getrandbits(32) & ~encoding.mask) & (
            (1 << 8 * encoding.length) - 1
        )
        found = find_encoding(word)
        if found is None or found.role not in SKIPPED:
            check(word, random)


def test_random_words() -> None:
    """Mostly illegal ones; the causes that come up are those that there are."""
    random = Random(11)
    causes: Counter[int] = Counter()
    for _ in range(2000):
        word = random.getrandbits(32)
        found = find_encoding(word)
        if found is None or found.role not in SKIPPED:
            trap = check(word, random)
            causes[trap[0] if trap else -1] += 1
    assert set(causes) >= {-1, 2, 5, 7}
