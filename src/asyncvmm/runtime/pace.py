"""Virtual time beside the wall's, for hosts with guests that keep step with it.

The two go on at one rate: ``Pace`` knows how far they are apart. A host that cannot keep up is let off
what it is too late for; one that begins to keep step begins where it is.
"""

from __future__ import annotations

from typing import Final

import trio

from asyncvmm.base.units import MS
from asyncvmm.runtime.task_turns import TaskTurns
from asyncvmm.runtime.wall import TrioWallClock, WallClock

LAG_NS: Final = 100 * MS  # a realtime host that is later than this gives up catching up


class Pace:
    """``idle`` is whether virtual time goes on with the wall, as nobody has anything to do."""

    def __init__(self, wall: WallClock, tasks: TaskTurns) -> None:
        self.idle = False
        self._wall = wall
        self._tasks = tasks
        self._offset_ns: int | None = None  # wall time of virtual time 0

    def begin(self, now_ns: int) -> None:
        """The first guest is there: virtual time is ``now_ns`` at this moment of the wall's."""
        if self._offset_ns is None:
            self._offset_ns = self._wall.now_ns() - now_ns

    def target_ns(self) -> int:
        """The virtual time at which a realtime host should be now."""
        assert self._offset_ns is not None
        return self._wall.now_ns() - self._offset_ns

    def ahead_ns(self, now_ns: int) -> int:
        """How far virtual time is ahead of the wall's, or behind it (negative)."""
        assert self._offset_ns is not None
        ahead = now_ns - self.target_ns()
        if -ahead > LAG_NS:  # too late to catch up
            self._offset_ns += -ahead - LAG_NS
        elif ahead > LAG_NS:  # it was not realtime before
            self._offset_ns -= ahead
            ahead = 0
        return ahead

    async def sleep(self, ns: int, kick: trio.Event) -> None:
        """Wait for ``kick``, at most ``ns``."""
        if isinstance(self._wall, TrioWallClock):  # without a task for it: every input waits here
            with trio.CancelScope(deadline=trio.current_time() + ns / 1e9):
                await kick.wait()
            self._tasks.had_turn()
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sleep_then_wake, ns, kick)
            await kick.wait()
            nursery.cancel_scope.cancel()

    async def _sleep_then_wake(self, ns: int, kick: trio.Event) -> None:
        await self._wall.sleep_ns(ns)
        kick.set()
