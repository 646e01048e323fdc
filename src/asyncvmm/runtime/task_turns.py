"""When trio's other tasks have their turn, and what they hear then.

Trio shuffles its tasks, and a guest must not notice: tasks have their turn between two quanta only
(``between``). What guests tell them, and what they want to do to guests, waits for that; and the conductor
goes on when all of them are blocked again (``settle``), so that all that comes of a guest's output is done
at the instant at which it was said.

In the middle of a stretch that takes long trio may go on (``breathe``), for cancellations and deadlines:
that is no turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import trio

# What trio.testing exports under this name; that module loads pytest where it is installed.
from trio._core import wait_all_tasks_blocked  # type: ignore[attr-defined]

from asyncvmm.base.units import MS
from asyncvmm.runtime.wall import WallClock

SETTLE_S: Final = 2.0  # wall time: tasks that never block are not waited for longer
IMPATIENT_S: Final = 0.001  # ... once that happened
TURN_NS: Final = 5 * MS  # wall time after which the event loop has its turn whatever happens
BREATH_NS: Final = 10 * MS  # wall time after which trio has its turn in the middle of a stretch


class Woken(trio.abc.Instrument):
    """Counts how often any task was woken: cheaper to ask than trio's statistics."""

    def __init__(self) -> None:
        self.count = 0

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """See Instrument."""
        self.count += 1


class TaskTurns:
    """The turns of all tasks but the conductor's.

    ``between`` is whether they have it: not in a stretch, nor between two in the same quantum.
    ``talked`` is whether a guest did something since the last turn that tasks wait for. With
    ``shielded`` a breath is no place to end at.
    """

    def __init__(self, wall: WallClock) -> None:
        self.between = True
        self.talked = False
        self.shielded = False
        self.woken: Final = Woken()
        self._wall = wall
        self._later: dict[Callable[[], object], None] = {}
        self._waiting = trio.lowlevel.ParkingLot()
        self._patience_s = SETTLE_S
        self._breath_ns = wall.now_ns()
        self._alone = False  # every other task was blocked when this one went on
        self._turn_ns = 0  # wall time of that
        self._woken_then = 0  # its count then

    # -- for tasks and guests

    def later(self, call: Callable[[], object]) -> None:
        """A guest did something that tasks wait for: ``call`` wakes them, once, when tasks have their
        turn, which is before time goes on.
        """
        self.talked = True
        if self.between:
            call()
        else:
            self._later[call] = None

    def at_turn(self, call: Callable[[], object]) -> None:
        """Call it now, or as soon as tasks have their turn."""
        if self.between:
            call()
        else:
            self.later(call)

    async def turn(self) -> None:
        """Return when tasks have their turn: not in the middle of a quantum."""
        await trio.lowlevel.checkpoint()
        while not self.between:
            self.talked = True
            await self._waiting.park()

    # -- for the conductor

    def tell(self) -> None:
        """It is their turn: wake whoever waits for something that a guest did, or for a turn."""
        self.talked = False
        self.between = True
        calls, self._later = self._later, {}
        for call in calls:
            call()
        self._waiting.unpark_all()

    async def settle(self) -> None:
        """Every other task has had its turn: whatever a guest's output led to has been done.

        Nothing is to be waited for when all were blocked at the last turn and nobody has been woken
        since. A task that never blocks is not waited for long; such a program is not repeatable
        anyway.
        """
        self.tell()
        if (
            self._alone
            and time.monotonic_ns() - self._turn_ns < TURN_NS
            and self.woken.count == self._woken_then
        ):
            return
        with trio.move_on_after(self._patience_s) as scope:
            await wait_all_tasks_blocked()
        if scope.cancelled_caught:
            self._patience_s = IMPATIENT_S
        self._alone = not scope.cancelled_caught
        self._woken_then = self.woken.count
        self.had_turn()

    async def attend(self) -> None:
        """``settle`` in real time: whoever a guest's output has woken has its turn, and everybody in
        good time. What comes of it is in no order that would have to be repeated without a journal.
        """
        woken = self.woken.count
        self.tell()
        if self.woken.count > woken or time.monotonic_ns() - self._turn_ns >= TURN_NS:
            await self.settle()

    def had_turn(self) -> None:
        """The event loop has just gone on in any case."""
        self._turn_ns = time.monotonic_ns()
        self._breath_ns = self._wall.now_ns()

    def others_ran(self) -> None:
        """Other tasks may have gone on, and wait for something now."""
        self._alone = False

    def breath_due(self) -> bool:
        """Whether the wall clock stands still for too long."""
        return self._wall.now_ns() - self._breath_ns > BREATH_NS

    async def breathe(self) -> None:
        """Let trio go on, which is due: the wall clock never stands still for long.

        A host with a journal ends at a place that a replay can come to: not here.
        """
        self._alone = False
        with trio.CancelScope(shield=self.shielded):
            await trio.lowlevel.checkpoint()
        self._breath_ns = self._wall.now_ns()
