"""The host's one loop: lets every guest live through the same stretch of virtual time, in turn.

At each decision instant the policy grants physical CPUs to harts (``books``); then all guests run up to
the next instant: the end of a grant, an event, a refill, the quantum (``runner``), those with translated
code side by side in worker threads. Guests meet only through links whose latency is a quantum or more,
and what they have to say waits in their outboxes for the end of the stretch, where the books are kept in
a fixed order; so the order inside a stretch changes nothing, and neither does the order of trio's tasks:
whoever waits for a guest's output has had its turn before the next quantum begins (``task_turns``).

Where somebody waits for a CPU, a stretch is cut where a hart that has one falls asleep. Guests that
ran beyond the cut already keep their CPUs until the others have caught up.

In real time (``pace``) a stretch ends where all sleep who had something to do and one of them has said
something: the answer leaves, and what comes back enters, without waiting for the wall.

A stretch that takes long in wall time (a slow guest) lets trio go on in between, for cancellations
and deadlines. What tasks do to guests, and what guests tell tasks, waits until the stretch is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import trio

from asyncvmm.base.units import MS
from asyncvmm.hypervisor import Cpus, HostMemory, Ledger, Vcpu
from asyncvmm.runtime.books import Books
from asyncvmm.runtime.goal import Goal
from asyncvmm.runtime.host_saved import ConductorState
from asyncvmm.runtime.inputs import Inputs, Script
from asyncvmm.runtime.journal_file import ANSWER, CUT
from asyncvmm.runtime.outcomes import Outcomes
from asyncvmm.runtime.pace import Pace
from asyncvmm.runtime.places import Place, Places
from asyncvmm.runtime.residents import Exchange, NoExchange, Resident
from asyncvmm.runtime.runner import Runner
from asyncvmm.runtime.sharing import Sharing
from asyncvmm.runtime.task_turns import TaskTurns
from asyncvmm.runtime.wall import WallClock
from asyncvmm.runtime.watchdog import Watchdog
from asyncvmm.runtime.workers import Workers
from asyncvmm.timeline.events import FOREVER

PACE_NS: Final = 5 * MS  # how finely a realtime host follows the wall


class Conductor:
    """Owns virtual time. ``task`` runs for as long as the host does.

    ``turns`` counts the stretches that ended at ``now_ns`` already: the two name a place in the run.
    """

    def __init__(
        self,
        cpus: Cpus,
        memory: HostMemory,
        ledger: Ledger,
        workers: Workers,
        wall: WallClock,
        *,
        realtime: Callable[[], bool],
    ) -> None:
        self.cpus: Final = cpus
        self.memory: Final = memory
        self.ledger: Final = ledger
        self.workers: Final = workers
        self.watchdog: Final = Watchdog()
        self.sharing: Final = Sharing()
        self.exchange: Exchange = NoExchange()
        self.inputs: Inputs = Inputs()
        self.script: Script = Script()
        self.now_ns = 0
        self.turns = 0
        self.in_stretch = False  # also after one that was cancelled
        self._realtime = realtime
        places = self._places = Places()
        books = self._books = Books(cpus, memory, self.sharing, places)
        tasks = self._tasks = TaskTurns(wall)
        self._pace = Pace(wall, tasks)
        self._runner = Runner(workers, tasks, places, books, lambda g: self.exchange.has_sent(g))
        self._outcomes = Outcomes(ledger, self.watchdog, places)
        self._touched = True  # something outside may have changed any guest
        self._kick = trio.Event()
        self._quiet = trio.Event()
        self._grid_ns = cpus.spec.quantum_ns
        self._goal = Goal(places, self._grid_ns)

    def record(self, inputs: Inputs) -> None:
        """Tell ``inputs`` what enters, from the beginning on."""
        self.inputs = inputs
        self._tasks.shielded = inputs.recording

    # -- guests come and go, between two stretches

    def add(self, guest: Resident, vcpus: list[Vcpu], since_ns: int) -> None:
        """Let ``guest`` live from now on; its own time was 0 at ``since_ns`` of the host's.

        One whose own time is ahead of that stands still until the host has come there.
        """
        self._joined(self._places.join(guest, vcpus, since_ns, self.now_ns))
        self.kick()

    def since_ns(self, name: str) -> int:
        """The host's time at which that of a guest was 0."""
        return self._places.by_name[name].since_ns

    def guest_ns(self, name: str) -> int:
        """Where the host's clock is in a guest's time."""
        return self.now_ns - self.since_ns(name)

    def _joined(self, place: Place) -> None:
        self._goal.guest_came(self.now_ns)
        self.watchdog.enter(place.name, place.guest.machine.bus)
        self._pace.begin(self.now_ns)

    def remove(self, guest: Resident, cause: str) -> None:
        """``guest`` has ended; its CPUs and memory are free."""
        place = self._places.by_name.get(guest.name)
        if place is None:
            return
        self.watchdog.leave(guest.name)
        self._books.leave(place, self.now_ns, cause)
        self._places.leave(place)
        self.kick()

    def state(self) -> ConductorState:
        """Where everybody is, as a value: between two stretches, as tasks have their turn."""
        places = tuple(place.state() for place in self._places.by_name.values())
        return ConductorState(self.now_ns, self._books.roomy, self._books.contended, places)

    def restore(
        self,
        state: ConductorState,
        guests: Mapping[str, Resident],
        vcpus: Mapping[str, list[Vcpu]],
    ) -> None:
        """Go on where ``state`` was taken, before ``task`` has begun: with these guests, which are as
        they were then, and their vCPUs, as the restored books have them. ConfigError when ``state``
        contradicts those.
        """
        self.now_ns = state.now_ns
        self._books.roomy, self._books.contended = state.roomy, state.contended
        for saved in state.places:
            name = saved.guest
            self._joined(self._places.join_again(guests[name], vcpus[name], saved, self.now_ns))
        self.kick()

    # -- tasks

    def kick(self) -> None:
        """Something came from outside: look at it now, at the time that the wall shows."""
        self._idled()
        self._touched = True
        if self._quiet.is_set():
            self._quiet = trio.Event()
        self._kick.set()

    def later(self, call: Callable[[], object]) -> None:
        """See TaskTurns."""
        self._tasks.later(call)

    def at_turn(self, call: Callable[[], object]) -> None:
        """See TaskTurns."""
        self._tasks.at_turn(call)

    async def turn(self) -> None:
        """See TaskTurns."""
        await self._tasks.turn()

    @property
    def between(self) -> bool:
        """Tasks have their turn: no guest is in the middle of a stretch."""
        return self._tasks.between

    # -- time

    @contextmanager
    def held(self) -> Iterator[None]:
        """Time stands still in this context: what takes wall time takes no virtual time."""
        self.hold()
        try:
            yield
        finally:
            self.let_go()

    def hold(self) -> None:
        """Time stands still from the end of this stretch on, until as many calls of ``let_go``."""
        self._goal.held += 1

    def let_go(self) -> None:
        """See ``hold``."""
        self._goal.held -= 1
        self.kick()

    @property
    def paused(self) -> bool:
        """Whether time moves to a goal only."""
        return self._goal.time_ns != FOREVER

    def set_goal(self, time_ns: int, exact: bool = False) -> None:
        """Run to ``time_ns`` and stand still there; see Goal for where ``exact`` matters."""
        self._goal.set(time_ns, self.now_ns, exact=exact)
        self.kick()

    async def wait_goal(self) -> None:
        """Return when the goal is reached."""
        await self._goal.wait()

    async def wait_quiet(self) -> None:
        """Return when every hart waits and no event is due: only the outside can go on from here."""
        while not self._quiet.is_set():
            await self._quiet.wait()

    @trio.lowlevel.enable_ki_protection  # it goes to a task that is not in the middle of the books
    async def task(self) -> None:
        """The loop."""
        trio.lowlevel.add_instrument(self._tasks.woken)
        try:
            await self._loop()
        finally:
            trio.lowlevel.remove_instrument(self._tasks.woken)
            self._tasks.tell()

    async def _loop(self) -> None:
        while True:
            if self._kick.is_set():
                self._kick = trio.Event()
            self.inputs.look()
            if self.script.due(self.now_ns, self.turns):
                await self._follow()
                continue
            if self.now_ns >= self._goal.time_ns:
                if self._goal.reach() and self.now_ns % self._grid_ns:
                    self.inputs.note(CUT)
                await self._wait_kick()
                continue
            if self._goal.held:
                await self._wait_kick()
                continue
            realtime = self._realtime()
            if realtime and self._due_while_idle():
                self._pass_idle(self.now_ns)
            if realtime and await self._paced():
                continue
            runnable = self._places.anyone_runnable()
            if runnable or self._tasks.talked:
                self._books.wake_runnable(self.now_ns)
                self._books.decide(self.now_ns)
            busy = bool(self._places.busy)
            until = self._horizon(busy, runnable)
            if self.script.next_ns() <= self.now_ns < until:
                await self._follow()  # what else ended here when it was noted does not here
                continue
            if until == FOREVER:
                self._quiet.set()
                await self._wait_kick()
                continue
            early = runnable and self._books.roomy and not self._books.isolates
            early = early and (realtime or self.script.answer_ns() < until)
            await self._live(until, early=early)
            answered = early and self.now_ns < until
            if realtime and answered and not self._places.anyone_runnable():
                self._pace.idle = True  # time goes on with the wall while tasks have their turn
            if answered or self.now_ns % self._grid_ns == 0 or not (busy or self._tasks.talked):
                await (self._tasks.attend() if realtime else self._tasks.settle())
                self._idled()

    async def _follow(self) -> None:
        """Something enters that the script has here."""
        self._tasks.tell()
        self._touched = True
        await self.script.enter()

    async def _wait_kick(self) -> None:
        self._tasks.tell()
        self._tasks.others_ran()
        await self._kick.wait()
        await self._tasks.settle()

    # -- real time

    async def _paced(self) -> bool:
        """Keep step with the wall: sleep when ahead, or when nothing is to do; whether it slept."""
        pace = self._pace
        ahead = pace.ahead_ns(self.now_ns)
        if self._places.anyone_runnable():
            # Stretches end on the grid, so after one that an input began time is ahead of the wall by
            # less than a quantum: whoever has another input need not wait for that.
            if ahead < self._grid_ns:
                return False
            self._tasks.tell()
            await pace.sleep(PACE_NS, self._kick)
            return True
        due = min(self._idle_end_ns() - pace.target_ns(), 1000 * MS)
        if due <= 0:
            return False
        self._tasks.tell()
        pace.idle = True
        await pace.sleep(due, self._kick)
        self._idled()
        return True

    def _due_while_idle(self) -> bool:
        """Whether something is due now, such as what has just entered, and no hart has a CPU."""
        idle = not (self._places.busy or self._places.anyone_runnable())
        return idle and self._next_event_ns() <= self.now_ns

    def _idled(self) -> None:
        """While the host waited as nobody had anything to do, virtual time went on with the wall."""
        if self._pace.idle:
            self._pace.idle = False
            until_ns = min(self._pace.target_ns(), self._idle_end_ns())
            if until_ns > self.now_ns:
                self._pass_idle(until_ns)

    # -- one stretch

    def _next_event_ns(self) -> int:
        """The first event of any guest or between them, in host time."""
        first = min(int(self.exchange.next_ns()), int(self._places.roster.next_event_ns()))
        return max(first, self.now_ns)

    def _idle_end_ns(self) -> int:
        """How far time goes on by itself while no hart has anything to do."""
        return min(self._goal.time_ns, int(self.cpus.next_ns(self.now_ns)), self._next_event_ns())

    def _horizon(self, busy: bool, runnable: bool) -> int:
        """Where the stretch ends: the first instant at which anything may be decided anew.

        Tasks have their turn at multiples of the quantum only. A guest sees to its own events, so
        those of others end a stretch only where somebody may want a CPU that another one has.
        """
        books = self._books
        until = min(self._goal.time_ns, books.next_ns(self.now_ns))
        until = min(until, max(self.script.next_ns(), self.now_ns))
        if busy or self._tasks.talked or (runnable and books.isolates):
            until = min(until, (self.now_ns // self._grid_ns + 1) * self._grid_ns)
        if not busy or not (books.roomy or books.isolates):
            until = min(until, self._next_event_ns())
        return max(until, self.now_ns + 1) if busy else until

    async def _live(self, until_ns: int, *, early: bool = False) -> None:
        """Every guest lives to ``until_ns``, or to where a CPU that somebody waits for falls free;
        then the books are closed. ``early``: see ``Runner.run_to_answer``.

        Time just passes for those who have nothing to do. After something came from outside all
        are looked at.
        """
        self._tasks.between = False
        self.in_stretch = True
        busy = self._places.with_cpu()
        ran = [place for place in busy if place.lived_ns <= until_ns]
        end_ns = planned_ns = until_ns
        try:
            if early:
                until_ns = await self._runner.run_to_answer(ran, until_ns)
            else:
                await self._runner.run(ran, until_ns)
            end_ns = min([until_ns, *(place.lived_ns for place in ran if place.slices)])
            others = self._others(end_ns)
            ran += others
            await self._runner.run(others, end_ns)
        finally:
            for place in ran:
                place.guest.outbox.open()
        for place in ran:
            self._outcomes.see_to(place, self.now_ns)
        self._came_to(end_ns)
        if until_ns < planned_ns:  # harts of one guest share a quantum, and see where it was to end
            self.inputs.note(ANSWER, until_ns=planned_ns)
        self._books.close(busy, end_ns, cut=end_ns < until_ns)
        self._books.account(ran, self.now_ns)
        self.in_stretch = False

    def _others(self, until_ns: int) -> list[Place]:
        """Those without a CPU that have something to do up to ``until_ns``; it passes for the rest."""
        if self._touched:
            self._touched = False
            return self._places.without_cpu()
        return self._places.pass_by(until_ns)

    def _pass_idle(self, until_ns: int) -> None:
        """Time passes in which no hart has anything to do."""
        places = [*self._places.busy.values(), *self._others(until_ns)]
        for place in places:
            self._runner.run_guest(place, until_ns)
            place.guest.outbox.open()
        for place in places:
            self._outcomes.see_to(place, self.now_ns)
        self._came_to(until_ns)
        self._books.account(places, self.now_ns)

    def _came_to(self, now_ns: int) -> None:
        """A stretch has ended here."""
        self.turns = 0 if now_ns > self.now_ns else self.turns + 1
        self.now_ns = now_ns
        self.exchange.advance(now_ns)
