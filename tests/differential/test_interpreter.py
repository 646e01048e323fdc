"""The compiled interpreter against the reference executor, state by state."""

from __future__ import annotations

from random import Random

import pytest
from bare_hart import make_hart, run_reference, state_of
from hypothesis import given, settings

from asyncvmm.arch.cause_numbers import CAUSE_BREAKPOINT
from asyncvmm.arch.hart import EXIT_BUDGET
from asyncvmm.engine.interpreter import Interpreter
from asyncvmm.isa.tables import ENCODINGS
from asyncvmm.testing.generated import GeneratedProgram, build_program
from asyncvmm.testing.programs import programs


def check(program: GeneratedProgram, split: int | None = None) -> int:
    """Compare at the end, and at step ``split`` on the way; the number of steps."""
    steps, wanted = run_reference(program)
    hart = make_hart(program)
    engine = Interpreter()
    if split is not None and 0 < split < steps:
        assert engine.run(hart, split) == EXIT_BUDGET
        assert hart.steps == split
        halfway = run_reference(program, split)[1]
        assert not halfway.difference(state_of(hart, program)), repr(program)
    assert engine.run(hart, steps - hart.steps) == EXIT_BUDGET
    assert hart.steps == steps and hart.traps == 0, repr(program)
    differing = wanted.difference(state_of(hart, program))
    assert not differing, f"reference, interpreter: {differing}\n{program!r}"
    engine.run(hart, 1)
    assert (hart.traps, hart.mcause) == (1, CAUSE_BREAKPOINT)
    return steps


@settings(derandomize=True, max_examples=300, deadline=None)
@given(programs(max_size=30))
def test_equal_at_the_end(program: GeneratedProgram) -> None:
    check(program)


@pytest.mark.parametrize("seed", range(40))
def test_long_programs_are_equal_at_any_budget(seed: int) -> None:
    random = Random(seed)
    program = build_program([random.getrandbits(32) for _ in range(120)], seed)
    check(program, random.randrange(1, 150))


@pytest.mark.parametrize("extension", sorted({encoding.extension for encoding in ENCODINGS}))
def test_each_extension_alone(extension: str) -> None:
    """So that the values of one extension's instructions meet each other."""
    if extension == "privileged":
        pytest.skip("nothing in it that a program may do")
    random = Random(extension)
    extensions = frozenset({extension, "i", "d"} if extension == "c" else {extension})
    for state in range(40):
        pieces = [random.getrandbits(32) for _ in range(60)]
        check(build_program(pieces, state, extensions=extensions))
