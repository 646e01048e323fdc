"""The compiled interpreter against the reference executor, state by state."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings

from asyncvmm.engine.interpreter import Interpreter
from asyncvmm.isa.tables import ENCODINGS
from asyncvmm.testing.bare_hart import DifferenceError, compare, make_hart, run_reference, state_of
from asyncvmm.testing.generated import GeneratedProgram, build_program, with_state
from asyncvmm.testing.programs import programs

EXTENSIONS = sorted({encoding.extension for encoding in ENCODINGS} - {"privileged"})


@settings(derandomize=True, max_examples=300, deadline=None)
@given(programs(max_size=30))
def test_equal_at_the_end(program: GeneratedProgram) -> None:
    compare(Interpreter(), program)


@pytest.mark.parametrize("seed", range(40))
def test_long_programs_are_equal_at_any_budget(seed: int) -> None:
    random = Random(seed)
    program = build_program([random.getrandbits(32) for _ in range(120)], seed)
    for state in range(10):
        compare(Interpreter(), with_state(program, state), random.randrange(1, 150))


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_each_extension_alone(extension: str) -> None:
    """So that the values of one extension's instructions meet each other."""
    random = Random(extension)
    extensions = frozenset({extension, "i", "d"} if extension == "c" else {extension})
    for state in range(40):
        pieces = [random.getrandbits(32) for _ in range(60)]
        compare(Interpreter(), build_program(pieces, state, extensions=extensions))


def test_a_difference_is_found_and_named() -> None:
    """The comparison can fail: any one bit of the state that is wrong shows."""
    program = build_program([1, 2, 3], 4)
    wanted = run_reference(program, 0)[1]
    hart = make_hart(program)
    assert wanted.difference(state_of(hart, program)) == []
    hart.x[5] ^= 1 << 40
    hart.f[31] ^= 1
    hart.fp.flags ^= 16
    hart.ram.write(program.scratch + 77, bytes([program.data[77] ^ 1]))
    found = [text.split(":")[0] for text in wanted.difference(state_of(hart, program))]
    assert found == ["fcsr", "x5", "f31", "memory at 0x4d"]


def test_a_program_without_its_end_is_refused() -> None:
    program = build_program([], 4)
    wrong = GeneratedProgram(
        program.base, b"\0\0" + program.code, program.scratch, program.data, program.x, program.f, 0
    )
    with pytest.raises(DifferenceError, match="mcause 2"):
        compare(Interpreter(), wrong)
