"""Going back and forth in a guest's past, with its break- and watchpoints."""

from __future__ import annotations

from typing import Final

import attrs
import trio

from asyncvmm.gdb import MachineTarget, Resume, Stop
from asyncvmm.runtime.history import (
    NEAR_STEPS,
    Checkpoint,
    History,
    Visit,
    total_steps,
)

BEGIN: Final = "replaylog"
WATCHES: Final = ("watch", "rwatch", "awatch")


@attrs.frozen
class _Hit:
    steps: int
    stop: Stop


class Past:
    """Where a debugger is in the history of a guest that stands still: at first in the present.

    ``target`` shows the machine of that instant. Nothing in the past can be changed.
    """

    def __init__(self, history: History, target: MachineTarget) -> None:
        self.history: Final = history
        self.target: Final = target
        self.end: Final = total_steps(history.machine)
        self._visit: Visit | None = None

    @property
    def present(self) -> bool:
        """Whether this is where the guest itself is."""
        return self._visit is None

    @property
    def steps(self) -> int:
        """The instant."""
        return total_steps(self.target.machine)

    def close(self) -> None:
        """Go back to the present for good."""
        self._show(None)

    def mark(self) -> None:
        """Remember this instant."""
        if self._visit is not None:
            visit = self._visit
            mark = self.history.mark(visit.machine, visit.run, arrived=visit.arrived)
            self.history.keep_near(mark)

    # -- back

    async def go_back(self, resume: Resume) -> Stop:
        """One step of a hart, or to the last break- or watchpoint; to the beginning if there is none."""
        if resume.step is not None:
            return await self._step_back(resume.step)
        return await self._run_back()

    async def _step_back(self, hart: int) -> Stop:
        wanted = int(self.target.machine.harts[hart].steps) - 1
        now = self.steps
        begin = self.history.before(lambda c: c.steps < now and c.hart_steps[hart] <= wanted)
        if begin is None:
            return Stop(hart, reason=BEGIN)
        visit = self._enter(begin)
        done = int(visit.machine.harts[hart].steps)
        if wanted - done > 2 * NEAR_STEPS:
            await self._step_to(visit, hart, wanted - NEAR_STEPS)
            self.mark()
            done = int(visit.machine.harts[hart].steps)
        if done < wanted:
            await self._step_to(visit, hart, wanted)
        self.target.set_points(True)
        return Stop(hart)

    async def _step_to(self, visit: Visit, hart: int, steps: int) -> None:
        """Let a hart come to ``steps`` of its own."""
        guard = visit.machine.guard
        guard.step(hart, steps, 0, 0)
        for over in visit.advance(self.end):
            if over:
                break
            await trio.lowlevel.checkpoint()
        guard.forget_hit()
        guard.forget_step()

    async def _run_back(self) -> Stop:
        end = self.steps
        hart = self.target.current_hart()
        while True:
            limit = end
            begin = self.history.before(lambda c, limit=limit: c.steps < limit)  # type: ignore[misc]
            if begin is None:
                break
            hit = await self._last_hit(begin, end)
            if hit is not None:
                await self.go_to(hit.steps)
                return hit.stop
            end = begin.steps
        first = self.history.checkpoints[0]
        self._enter(first)
        self.target.set_points(True)
        return Stop(hart, reason=BEGIN)

    async def _last_hit(self, begin: Checkpoint, end: int) -> _Hit | None:
        """The last break- or watchpoint between a checkpoint and ``end``.

        Of a watchpoint it is the instant before the access: going back, gdb wants to see it undone.
        """
        visit = self._enter(begin)
        self.target.set_points(True)
        last: _Hit | None = None
        while visit.steps < end:
            halted = False
            for halted in visit.advance(end):
                if halted:
                    break
                await trio.lowlevel.checkpoint()
            if not halted:
                break
            stop = self.target.take_stop()
            steps = visit.steps - (stop.reason in WATCHES)
            if steps < end:
                last = _Hit(steps, stop)
            await trio.lowlevel.checkpoint()
        return last

    async def go_to(self, steps: int) -> None:
        """Be at an instant; the nearest that there is where it lies before the history or after it."""
        if steps >= self.end:
            self._show(None)
            return
        begin = self.history.before(lambda c: c.steps <= steps) or self.history.checkpoints[0]
        visit = self._enter(begin)
        if steps - begin.steps > 2 * NEAR_STEPS:
            await self._advance(visit, steps - NEAR_STEPS)
            self.mark()
        await self._advance(visit, steps)
        self.target.set_points(True)

    async def go_to_time(self, time_ns: int) -> None:
        """Be at the first instant at which all harts have come to a virtual time."""
        if time_ns >= int(self.history.machine.scheduler.now_ns()):
            self._show(None)
            return
        begin = self.history.before(lambda c: c.now_ns <= time_ns) or self.history.checkpoints[0]
        for _ in self._enter(begin).advance_to(time_ns):
            await trio.lowlevel.checkpoint()
        self.target.set_points(True)

    async def _advance(self, visit: Visit, steps: int) -> bool:
        """Whether it came that far; no points are there."""
        for _ in visit.advance(steps):
            await trio.lowlevel.checkpoint()
        return visit.steps >= steps

    # -- and forth

    async def go_on(self, resume: Resume) -> Stop | None:
        """Go on from an instant of the past; None when the present is reached on the way."""
        while (visit := self._visit) is not None:
            self.target.prepare(resume)
            for halted in visit.advance(self.end):
                if halted:
                    stop = self.target.take_stop()
                    if visit.steps >= self.end:
                        self._show(None)
                    return stop
                await trio.lowlevel.checkpoint()
            if visit.next is not None:
                self._enter(visit.next)
                self.target.set_points(True)
            else:
                self._show(None)
        return None

    # -- which machine is shown

    def _enter(self, checkpoint: Checkpoint) -> Visit:
        """Show the machine of a checkpoint, with no points in its way."""
        visit = self.history.visit(checkpoint)
        self._show(visit)
        self.target.set_points(False)
        return visit

    def _show(self, visit: Visit | None) -> None:
        before, self._visit = self._visit, visit
        self.target.frozen = visit is not None
        self.target.move(self.history.machine if visit is None else visit.machine)
        if before is not None:
            before.close()
