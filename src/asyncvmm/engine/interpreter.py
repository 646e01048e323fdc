"""The interpreter engine: always there, and what every other engine must agree with."""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64, mypyc_attr

from asyncvmm.arch.hart import Hart
from asyncvmm.engine.interpreter_loop import run as run_loop

# An access to a device costs a microsecond or more.
PAUSE_STEPS: Final = 30_000


@mypyc_attr(allow_interpreted_subclasses=True)
class Engine:
    """Runs a hart for a budget of steps (instructions retired and traps taken).

    With ``pauses`` it may come back before the budget is used up, so that a call does not take long
    (about 20 ms of wall time) whatever the guest does.
    """

    pauses: bool = False
    # A debugger's: the scheduler comes back after this run, and clears it.
    halted: bool = False

    def run(self, hart: Hart, budget: i64) -> i64:
        """Run for exactly ``budget`` steps unless the hart waits (EXIT_WFI) or stops (EXIT_STOP).

        ``hart.end_slice_at`` may shorten the budget while it runs: EXIT_BUDGET then comes earlier.
        """
        raise NotImplementedError

    def statistics(self) -> dict[str, int]:
        """Counters since the engine was made, by name; never visible to a guest."""
        return {}


class Interpreter(Engine):
    """Decodes once, then dispatches word by word."""

    def __init__(self) -> None:
        self.steps: i64 = 0

    def statistics(self) -> dict[str, int]:
        """See Engine."""
        return {"steps": self.steps}

    def run(self, hart: Hart, budget: i64) -> i64:
        """See Engine.run."""
        if self.pauses and budget > PAUSE_STEPS:
            budget = PAUSE_STEPS
        before = hart.steps
        result = run_loop(hart, budget)
        self.steps += hart.steps - before
        return result
