"""An engine that keeps an eye on break- and watchpoints, and on single steps."""

from __future__ import annotations

from mypy_extensions import i64

from asyncvmm.arch.guard import NO_HIT, Guard
from asyncvmm.arch.hart import EXIT_BUDGET, Hart
from asyncvmm.engine.interpreter import PAUSE_STEPS, Engine
from asyncvmm.engine.interpreter_loop import run as run_loop


class GuardedEngine(Engine):
    """Runs harts by another engine, or by the interpreter while their guard is active.

    ``halted`` says that a hart came to a point or has done its step: what the slice has left over is
    continued later as if nothing had happened, so the guest cannot tell.
    """

    def __init__(self, inner: Engine, guard: Guard) -> None:
        """``guard`` is that of all harts that are run."""
        self.inner: Engine = inner
        self.guard: Guard = guard
        self.halted = False

    def run(self, hart: Hart, budget: i64) -> i64:
        """See Engine.run; EXIT_BUDGET comes early where the guard stops the hart."""
        guard = self.guard
        if not guard.active:
            return self.inner.run(hart, budget)
        if self.inner.pauses and budget > PAUSE_STEPS:
            budget = PAUSE_STEPS
        if guard.step_hart != hart.hart_id:
            result = run_loop(hart, budget)
            self.halted = guard.hit != NO_HIT
            return result
        return self._step(hart, budget)

    def _step(self, hart: Hart, budget: i64) -> i64:
        """Run the hart that is stepped: to its mark, and then one by one out of the range."""
        guard = self.guard
        end = hart.steps + budget
        pointed = guard.breaking or guard.watching
        guard.pass_by(hart.hart_id, hart.pc, hart.steps)
        while True:
            count = guard.step_until - hart.steps
            if count < 1:
                count = 1
            if count > end - hart.steps:
                count = end - hart.steps
            before = hart.steps
            result = run_loop(hart, count) if pointed else self.inner.run(hart, count)
            if guard.hit != NO_HIT:
                self.halted = True
                return result
            if hart.steps >= guard.step_until:
                if hart.pc < guard.range_start or hart.pc >= guard.range_end:
                    self.halted = True
                    return result
            if result != EXIT_BUDGET or hart.steps >= end or hart.steps - before < count:
                return result
