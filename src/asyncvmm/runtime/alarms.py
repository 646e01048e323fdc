"""Waiting for virtual time on a host: many tasks at once, and instants at which all stands still."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import trio

from asyncvmm.runtime.host import Host


class Alarms:
    """Moves a paused host on, from one instant that somebody waits for to the next.

    Alarms are rounded up to the host's grid, so that they change no decision of its policy.
    ``instants`` (ns, in order) are where the host stands still while ``visit(time_ns)`` looks at it;
    it pauses for nothing at every multiple of ``pause_ns``, too: neither can be noticed by a guest.
    """

    def __init__(
        self,
        host: Host,
        *,
        instants: Sequence[int] = (),
        visit: Callable[[int], None] = lambda time_ns: None,
        pause_ns: int = 0,
    ) -> None:
        self._host: Final = host
        self._instants = sorted(instants)
        self._visit = visit
        self._pause_ns = pause_ns
        self._alarms: list[tuple[int, trio.Event]] = []
        self._changed = trio.Event()
        self._scope = trio.CancelScope()
        self._over = trio.Event()

    async def wait_until(self, time_ns: int) -> None:
        """Return at the first instant of the grid at or after ``time_ns``."""
        grid_ns = self._host.quantum_ns
        due_ns = -(-time_ns // grid_ns) * grid_ns
        if due_ns <= self._host.now_ns:
            return
        alarm = (due_ns, trio.Event())
        self._alarms.append(alarm)
        self._changed.set()
        try:
            await alarm[1].wait()
        finally:
            if alarm in self._alarms:
                self._alarms.remove(alarm)

    async def task(self) -> None:
        """Moves the host until ``stand_still``."""
        with self._scope:
            await self._move()
        self._over.set()

    async def stand_still(self) -> None:
        """Stop the host at this very instant, for good."""
        self._scope.cancel()
        await self._over.wait()  # or else the task could set a goal of its own after ours
        await self._host.run_until(self._host.now_ns)

    async def _move(self) -> None:
        while True:
            self._changed = trio.Event()
            goal_ns = self._goal_ns()
            if goal_ns is None:
                self._host.resume()
                await self._changed.wait()
                continue
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._reach, goal_ns)
                await self._changed.wait()
                nursery.cancel_scope.cancel()
            self._ring()

    async def _reach(self, goal_ns: int) -> None:
        await self._host.run_until(goal_ns)
        self._changed.set()

    def _goal_ns(self) -> int | None:
        """The next instant that matters."""
        goals = [due_ns for due_ns, _ in self._alarms] + self._instants[:1]
        if self._pause_ns:
            goals.append((self._host.now_ns // self._pause_ns + 1) * self._pause_ns)
        return min(goals) if goals else None

    def _ring(self) -> None:
        now_ns = self._host.now_ns
        while self._instants and self._instants[0] <= now_ns:
            self._visit(self._instants.pop(0))
        for alarm in [alarm for alarm in self._alarms if alarm[0] <= now_ns]:
            self._alarms.remove(alarm)
            alarm[1].set()
