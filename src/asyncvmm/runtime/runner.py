"""Lets guests run up to one instant: in worker threads what gains from it, one after the other the rest.

Guests meet nowhere on the way, so neither the order nor the threads change anything: ``run_guest`` touches
nothing that another guest has, and what a guest has to say waits in its outbox. A run that takes long in
wall time is left in between, for trio.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Final

from asyncvmm.machine import RAN_ASLEEP, RAN_PAUSE, RAN_TIME, UNLIMITED
from asyncvmm.runtime.books import Books
from asyncvmm.runtime.places import Place, Places
from asyncvmm.runtime.task_turns import BREATH_NS, TaskTurns
from asyncvmm.runtime.workers import FEW_LOOKS, LOOKS, Workers

LONG_CHUNK: Final = 3  # so many guests in a row are a long job for a worker


class Runner:
    """``has_sent`` is whether a guest (by its name, from its thread) has frames on their way out."""

    def __init__(
        self,
        workers: Workers,
        tasks: TaskTurns,
        places: Places,
        books: Books,
        has_sent: Callable[[str], bool],
    ) -> None:
        self._workers = workers
        self._tasks = tasks
        self._places = places
        self._books = books
        self._has_sent = has_sent

    async def run(self, places: Sequence[Place], until_ns: int, *, to_answer: bool = False) -> None:
        """Run guests up to ``until_ns``. With ``to_answer`` each comes back where all of its harts sleep
        and it has said something.
        """
        aside: list[Place] = []
        if self._workers.count > 1:
            aside = [place for place in places if place.wants_thread]
        if len(aside) > 1:
            places = [place for place in places if place not in aside]
            await self._run_aside(aside, until_ns, to_answer)
        tasks, lives = self._tasks, self._places.lives
        for place in places:
            while lives(place):
                over = self.run_guest(place, until_ns, to_answer)
                if not over and place.halted:
                    await place.guest.halted()
                    tasks.others_ran()
                if tasks.breath_due():
                    await tasks.breathe()
                if over:
                    break

    async def run_to_answer(self, places: Sequence[Place], until_ns: int) -> int:
        """Run guests up to ``until_ns``, or to where nobody has anything to do any more of those that
        had, and one of them has said something: where they are. In real time the answer need not
        wait for the quantum's end, nor what comes back for the wall to get there.
        """
        awake = [place for place in places if place.awake]
        await self.run(awake, until_ns, to_answer=True)
        if awake and all(place.why == RAN_ASLEEP and place.error is None for place in awake):
            until_ns = max(place.lived_ns for place in awake)
        behind = [place for place in awake if place.why == RAN_ASLEEP and place.lived_ns < until_ns]
        rest = [place for place in places if place not in awake or place in behind]
        await self.run(rest, until_ns)
        return until_ns

    async def _run_aside(self, places: list[Place], until_ns: int, to_answer: bool) -> None:
        """Side by side, in as many threads as there are."""
        while places:
            breath_ns = time.perf_counter_ns() + BREATH_NS
            count = min(self._workers.count, len(places))
            self._workers.run(
                [
                    functools.partial(
                        self._run_in_time, places[i::count], until_ns, to_answer, breath_ns
                    )
                    for i in range(count)
                ],
                LOOKS if len(places) < LONG_CHUNK * count else FEW_LOOKS,
            )
            if self._tasks.breath_due():
                await self._tasks.breathe()
            for place in places:
                if place.halted and self._places.lives(place):
                    await place.guest.halted()
                    self._tasks.others_ran()
            places = [place for place in places if place.unfinished and self._places.lives(place)]

    def _run_in_time(
        self, places: Sequence[Place], until_ns: int, to_answer: bool, breath_ns: int
    ) -> None:
        """Run them until it is time for a breath: the turn of the rest then comes after that."""
        for place in places:
            if time.perf_counter_ns() > breath_ns:
                place.why, place.error = RAN_PAUSE, None
            else:
                self.run_guest(place, until_ns, to_answer)

    def run_guest(self, place: Place, until_ns: int, to_answer: bool = False) -> bool:
        """One guest's stretch, in whatever thread; False when it came back early and is to be called
        again.
        """
        guest = place.guest
        machine = guest.machine
        scheduler = machine.scheduler
        limit = UNLIMITED
        if guest.max_steps is not None:
            limit = max(0, guest.max_steps - sum([int(hart.steps) for hart in machine.harts]))
        answers = to_answer and limit == UNLIMITED
        scheduler.yields = (self._books.contended or answers) and bool(place.slices)
        started = time.perf_counter_ns()  # for what no guest can see
        place.error = None
        guest.outbox.close()
        try:
            place.why = machine.run(until_ns - place.since_ns, limit)
            while place.why == RAN_PAUSE and limit == UNLIMITED:
                if time.perf_counter_ns() - started > BREATH_NS:
                    break
                place.why = machine.run(until_ns - place.since_ns, limit)
            if answers and place.why == RAN_ASLEEP:
                self._sleep_until_said(place, until_ns - place.since_ns)
        except Exception as error:  # whatever it is: the neighbours go on
            place.error = error
        finally:
            guest.busy_ns += time.perf_counter_ns() - started
        if place.unfinished:
            return False
        lived_ns = until_ns
        if place.why == RAN_ASLEEP:
            lived_ns = min(until_ns, place.since_ns + int(machine.timeline.now_ns))
        place.lived_ns = max(place.lived_ns, lived_ns)
        return True

    def _sleep_until_said(self, place: Place, until_ns: int) -> None:
        """A hart fell asleep: go on unless all have and something was said."""
        machine, outbox = place.guest.machine, place.guest.outbox
        scheduler, timeline = machine.scheduler, machine.timeline
        while place.why == RAN_ASLEEP:
            if not any(map(scheduler.runnable, place.slices)):
                if outbox.waiting or self._has_sent(place.name):
                    return
                scheduler.yields = False
                place.why = machine.run(min(int(timeline.next_time_ns()), until_ns), UNLIMITED)
                scheduler.yields = True
                if place.why != RAN_TIME or int(timeline.now_ns) >= until_ns:
                    return
            place.why = machine.run(until_ns, UNLIMITED)
