"""What ``asyncvmm up`` says of a step."""

from __future__ import annotations

import pytest

from asyncvmm.api.scenarios import StepResult
from asyncvmm.cli.up import step_line
from asyncvmm.runtime.scenario import Step


@pytest.mark.parametrize(
    ("show", "output", "line"),
    [
        (False, "hello\n", "ok      step 3  a: greet  [0.001000 - 1.000000 s]"),
        (True, "", "ok      step 3  a: greet  [0.001000 - 1.000000 s]"),
        (
            True,
            "  hello\nworld\n",
            "ok      step 3  a: greet  [0.001000 - 1.000000 s]\n"
            "                 hello\n"
            "               world",
        ),
    ],
)
def test_a_step_that_shows_what_it_said_is_longer(show: bool, output: str, line: str) -> None:
    step = Step(3, "greet", "a", run=("echo", "hello"), show=show)
    result = StepResult(step, "ok", began_ns=1_000_000, ended_ns=10**9, status=0, output=output)
    assert step_line(result) == line
