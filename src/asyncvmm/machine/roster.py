"""The guests of a host, as its loop looks at them at every decision: natively, however many wait.

What costs a call of Python per guest elsewhere costs some nanoseconds here, so that a guest that has
nothing to do costs nothing that could be noticed.
"""

from __future__ import annotations

from typing import Final

from librt.vecs import vec
from mypy_extensions import i64

from asyncvmm.arch.hart import STARTED
from asyncvmm.machine.scheduler import Scheduler
from asyncvmm.timeline.events import FOREVER

# What a seat's harts are to the CPU policy.
ASLEEP: Final = 0
AWAKE: Final = 1  # it competes for a CPU
GRANTED: Final = 2  # it has one


class Seat:
    """One guest: its scheduler, the host's time at which its own began, and its harts' standing."""

    def __init__(self, number: int, scheduler: Scheduler, since_ns: i64) -> None:
        self.number: int = number
        self.scheduler: Scheduler = scheduler
        self.since_ns: i64 = since_ns
        # In its own time: until then it waits for the host, and nothing passes for it.
        self.begin_ns: i64 = scheduler.timeline.now_ns
        self.standing: vec[i64] = vec[i64]([ASLEEP] * len(scheduler.harts))
        self.granted: i64 = 0

    def set_standing(self, hart: i64, standing: i64) -> None:
        """``hart`` is ASLEEP, AWAKE or GRANTED from now on."""
        if self.standing[hart] == GRANTED:
            self.granted -= 1
        if standing == GRANTED:
            self.granted += 1
        self.standing[hart] = standing
        self.scheduler.granted[hart] = 1 if standing == GRANTED else 0


class Roster:
    """All seats, in the order in which their guests came."""

    def __init__(self) -> None:
        self._seats: list[Seat] = []
        self._next: int = 0

    def join(self, scheduler: Scheduler, since_ns: i64) -> Seat:
        """A guest came; its harts are asleep."""
        seat = Seat(self._next, scheduler, since_ns)
        self._next += 1
        self._seats.append(seat)
        i: i64 = 0
        while i < len(scheduler.harts):
            scheduler.granted[i] = 0
            i += 1
        return seat

    def leave(self, seat: Seat) -> None:
        """A guest has gone."""
        self._seats.remove(seat)

    def anyone_runnable(self) -> bool:
        """Whether any hart of any guest has something to do."""
        for seat in self._seats:
            scheduler = seat.scheduler
            i: i64 = 0
            while i < len(scheduler.harts):
                if scheduler.runnable(i):
                    return True
                i += 1
        return False

    def waking(self) -> list[tuple[int, int]]:
        """(number of the seat, hart) of those that have something to do and are ASLEEP still."""
        found: list[tuple[int, int]] = []
        for seat in self._seats:
            i: i64 = 0
            while i < len(seat.standing):
                if seat.standing[i] == ASLEEP and seat.scheduler.runnable(i):
                    found.append((seat.number, int(i)))
                i += 1
        return found

    def idle_started(self, most: int) -> list[tuple[int, int]]:
        """(number of the seat, hart) of the first harts that are started and have no CPU: ``most`` or
        some more when there are so many.
        """
        found: list[tuple[int, int]] = []
        for seat in self._seats:
            if len(found) >= most:
                break
            i: i64 = 0
            while i < len(seat.standing):
                if seat.standing[i] != GRANTED and seat.scheduler.harts[i].state == STARTED:
                    found.append((seat.number, int(i)))
                i += 1
        return found

    def awake(self) -> list[tuple[int, int]]:
        """(number of the seat, hart) of those that compete for a CPU."""
        found: list[tuple[int, int]] = []
        for seat in self._seats:
            i: i64 = 0
            while i < len(seat.standing):
                if seat.standing[i] == AWAKE:
                    found.append((seat.number, int(i)))
                i += 1
        return found

    def next_event_ns(self) -> i64:
        """The first event of any guest in host time, or FOREVER."""
        first: i64 = FOREVER
        for seat in self._seats:
            due = seat.scheduler.timeline.next_time_ns()
            if due != FOREVER and due + seat.since_ns < first:
                first = due + seat.since_ns
        return first

    def pass_by(self, until_ns: i64) -> list[int]:
        """Let time pass to ``until_ns`` for all who have no CPU and no event until then; the numbers
        of the seats of the others without a CPU, which must run.
        """
        busy: list[int] = []
        for seat in self._seats:
            if seat.granted != 0 or until_ns - seat.since_ns <= seat.begin_ns:
                continue
            if not seat.scheduler.pass_by(until_ns - seat.since_ns):
                busy.append(seat.number)
        return busy
