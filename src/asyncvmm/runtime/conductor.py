"""The host's one loop: lets every guest live through the same stretch of virtual time, in turn.

At each decision instant the policy grants physical CPUs to harts; then all guests run up to the next
instant (the end of a grant, an event, a refill, the quantum), those with translated code side by side
in worker threads. Guests meet only through links whose latency is a quantum or more, and what they
have to say waits in their outboxes for the end of the stretch, where the books are kept in a fixed
order; so the order inside a stretch changes nothing, and neither does the order of trio's tasks:
whoever waits for a guest's output has had its turn before the next stretch begins.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from asyncvmm.base.errors import AsyncvmmError, InternalError
from asyncvmm.base.units import MS
from asyncvmm.hypervisor import Cpus, HostMemory, Ledger, Vcpu
from asyncvmm.hypervisor.ledger import BLOCKED, FAILED
from asyncvmm.machine import (
    ASLEEP,
    AWAKE,
    GRANTED,
    RAN_STEPS,
    RAN_STOP,
    RAN_TIME,
    UNLIMITED,
    Machine,
    Roster,
    Seat,
)
from asyncvmm.runtime.outbox import Outbox
from asyncvmm.runtime.sharing import Sharing
from asyncvmm.runtime.watchdog import Watchdog
from asyncvmm.runtime.workers import Workers
from asyncvmm.timeline.events import FOREVER

PACE_NS: Final = 5 * MS  # how finely a realtime host follows the wall
LAG_NS: Final = 100 * MS  # a realtime host that is later than this gives up catching up
SETTLE_S: Final = 2.0  # wall time: tasks that never block are not waited for longer
IMPATIENT_S: Final = 0.001  # ... once that happened
TURN_NS: Final = 5 * MS  # wall time after which the event loop has its turn whatever happens


class WallClock(Protocol):
    """Where realtime hosts take the time from; injected, so that tests need not wait."""

    def now_ns(self) -> int:
        """Monotonic wall time."""
        ...

    async def sleep_ns(self, ns: int) -> None:
        """Return after ``ns``."""
        ...


class TrioWallClock:
    """The event loop's own clock."""

    def now_ns(self) -> int:
        """See WallClock."""
        return int(trio.current_time() * 1e9)

    async def sleep_ns(self, ns: int) -> None:
        """See WallClock."""
        await trio.sleep(ns / 1e9)


class Resident(Protocol):
    """A guest as the conductor sees it."""

    max_steps: int | None
    busy_ns: int

    @property
    def name(self) -> str:
        """Unique on the host."""
        ...

    @property
    def machine(self) -> Machine:
        """What runs."""
        ...

    @property
    def outbox(self) -> Outbox:
        """What its devices have to tell."""
        ...

    def machine_stopped(self) -> bool:
        """The machine stopped itself: False when it goes on after a reset."""
        ...

    def machine_failed(self, error: AsyncvmmError) -> None:
        """The machine cannot go on."""
        ...

    def limit_reached(self) -> None:
        """``max_steps`` have run."""
        ...

    def raise_tap_error(self) -> None:
        """Raise what a console's tap raised: it is its owner's error, not the machine's."""
        ...


@attrs.define(eq=False)
class _Place:
    """A guest on the host: its vCPUs, when it came, and what its harts may do in this stretch."""

    guest: Resident
    vcpus: list[Vcpu]
    since_ns: int
    budgets: dict[int, int]
    seat: Seat
    why: int = RAN_TIME
    error: Exception | None = None


class Conductor:
    """Owns virtual time. ``task`` runs for as long as the host does."""

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
        self.now_ns = 0
        self._wall = wall
        self._realtime = realtime
        self._places: dict[str, _Place] = {}
        self._roster = Roster()
        self._seated: dict[int, _Place] = {}  # by the number of the seat
        self._touched = True  # something outside may have changed any guest
        self._kick = trio.Event()
        self._quiet = trio.Event()
        self._talked = False
        self._offset_ns: int | None = None  # wall time of virtual time 0, for a realtime host
        self._idle_wait = False
        self._goal_ns: int = FOREVER
        self._reached = trio.Event()
        self._held = 0
        self._patience_s = SETTLE_S
        self._grid_ns = cpus.spec.quantum_ns
        self._roomy = True
        self._alone = False  # every other task was blocked when this one went on
        self._turn_ns = 0  # wall time of that

    # -- guests come and go, between two stretches

    def add(self, guest: Resident, vcpus: list[Vcpu]) -> None:
        """Let ``guest`` live from now on; its own time begins at 0."""
        scheduler = guest.machine.scheduler
        scheduler.hosted = True
        seat = self._roster.join(scheduler, self.now_ns)
        place = _Place(guest, vcpus, self.now_ns, {}, seat)
        self._places[guest.name] = self._seated[seat.number] = place
        self.watchdog.enter(guest.name, guest.machine.bus)
        if self._offset_ns is None:
            self._offset_ns = self._wall.now_ns() - self.now_ns
        self.kick()

    def remove(self, guest: Resident, cause: str) -> None:
        """``guest`` has ended; its CPUs and memory are free."""
        place = self._places.pop(guest.name, None)
        if place is None:
            return
        self.watchdog.leave(guest.name)
        for number in list(place.budgets):
            self._release(place, number)
        self._roster.leave(place.seat)
        del self._seated[place.seat.number]
        self.cpus.remove(guest.name, self.now_ns, cause)
        self.memory.remove(guest.name)
        self.sharing.leave(guest.name)
        self.kick()

    def kick(self) -> None:
        """Something came from outside: look at it now, at the time that the wall shows."""
        if self._idle_wait and self._offset_ns is not None:
            self._idle_wait = False
            self._run_stretch(min(self._target_ns(), self._next_event_ns()), [])
        self._touched = True
        self._wake()

    def _wake(self) -> None:
        """Let the loop go on."""
        if self._quiet.is_set():
            self._quiet = trio.Event()
        self._kick.set()

    def talked(self) -> None:
        """A guest said something that a task waits for: that task has its turn before time goes on."""
        self._talked = True

    # -- time

    @contextmanager
    def held(self) -> Iterator[None]:
        """Time stands still in this context: what takes wall time takes no virtual time."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            self.kick()

    def set_goal(self, time_ns: int) -> None:
        """Run to ``time_ns`` and stand still there (FOREVER: never)."""
        self._goal_ns = time_ns
        self._reached = trio.Event()
        self._wake()

    async def wait_goal(self) -> None:
        """Return when the goal is reached."""
        await self._reached.wait()

    async def wait_quiet(self) -> None:
        """Return when every hart waits and no event is due: only the outside can go on from here."""
        while not self._quiet.is_set():
            await self._quiet.wait()

    async def task(self) -> None:
        """The loop."""
        while True:
            self._kick = trio.Event()
            if self.now_ns >= self._goal_ns:
                self._reached.set()
                await self._wait_kick()
                continue
            if self._held or not self._places:
                await self._wait_kick()
                continue
            realtime = self._realtime()
            if realtime and await self._paced():
                continue
            granted: list[tuple[_Place, int, int]] = []
            if self._anyone_runnable() or self._talked:
                self._wake_runnable()
                granted = self._decide()
            until = self._horizon(granted)
            if realtime:
                until = min(until, max(self._target_ns(), self.now_ns + 1))
            if until == FOREVER:
                self._quiet.set()
                await self._wait_kick()
                continue
            self._run_stretch(until, granted)
            if until % self._grid_ns == 0 or not (granted or self._talked):
                await self._settle()

    async def _settle(self) -> None:
        """Every other task has had its turn: whatever a guest's output led to has been done.

        Nothing is to be waited for when all were blocked at the last turn and nobody has been woken
        since. A task that never blocks is not waited for long; such a program is not repeatable
        anyway.
        """
        self._talked = False
        if (
            self._alone
            and time.monotonic_ns() - self._turn_ns < TURN_NS
            and not trio.lowlevel.current_statistics().tasks_runnable
        ):
            return
        with trio.move_on_after(self._patience_s) as scope:
            await wait_all_tasks_blocked()
        if scope.cancelled_caught:
            self._patience_s = IMPATIENT_S
        self._alone = not scope.cancelled_caught
        self._turn_ns = time.monotonic_ns()

    async def _wait_kick(self) -> None:
        self._alone = False
        await self._kick.wait()
        await self._settle()

    def _target_ns(self) -> int:
        """The virtual time at which a realtime host should be now."""
        assert self._offset_ns is not None
        return self._wall.now_ns() - self._offset_ns

    async def _paced(self) -> bool:
        """Keep step with the wall: sleep when ahead, or when nothing is to do; whether it slept."""
        assert self._offset_ns is not None
        ahead = self.now_ns - self._target_ns()
        if -ahead > LAG_NS:  # too late to catch up
            self._offset_ns += -ahead - LAG_NS
        elif ahead > LAG_NS:  # it was not realtime before
            self._offset_ns -= ahead
            ahead = 0
        if self._anyone_runnable():
            if ahead < 0:
                return False
            await self._sleep(PACE_NS)
            return True
        due = min(self._next_event_ns() - self._target_ns(), 1000 * MS)
        if due <= 0:
            return False
        self._idle_wait = True
        await self._sleep(due)
        if self._idle_wait:
            self._idle_wait = False
            self._run_stretch(min(self._target_ns(), self._next_event_ns()), [])
        return True

    async def _sleep(self, ns: int) -> None:
        """Wait for outside input, at most ``ns``."""
        self._alone = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sleep_then_wake, ns, self._kick)
            await self._kick.wait()
            nursery.cancel_scope.cancel()

    async def _sleep_then_wake(self, ns: int, kick: trio.Event) -> None:
        await self._wall.sleep_ns(ns)
        kick.set()

    # -- one stretch

    def _anyone_runnable(self) -> bool:
        return bool(self._roster.anyone_runnable())

    def _wake_runnable(self) -> None:
        for seat, number in self._roster.waking():
            self._wake_hart(self._seated[seat], number)

    def _wake_hart(self, place: _Place, number: int) -> None:
        self.cpus.wake(place.vcpus[number], self.now_ns)
        place.seat.set_standing(number, AWAKE)

    def _decide(self) -> list[tuple[_Place, int, int]]:
        """Grant CPUs: (place, hart, longest slice). CPUs left over stand by for harts that may wake
        up in the stretch; when there is one for everybody, no guest can notice another.
        """
        granted = self._grants()
        room = self.cpus.spec.cpus - len(granted)
        self._roomy = True
        for seat, number in self._roster.idle_started(room + 1):  # the one too many is enough
            place = self._seated[seat]
            if number in place.budgets:
                continue
            if len(granted) < self.cpus.spec.cpus:
                self._wake_hart(place, number)
                granted += self._grants()
            if number not in place.budgets:
                self._roomy = False
                break
        return granted

    def _grants(self) -> list[tuple[_Place, int, int]]:
        out = []
        for grant in self.cpus.decide(self.now_ns):
            place = self._places[grant.vcpu.guest.name]
            place.budgets[grant.vcpu.number] = grant.steps
            place.seat.set_standing(grant.vcpu.number, GRANTED)
            out.append((place, grant.vcpu.number, grant.slice_ns))
        return out

    def _next_event_ns(self) -> int:
        """The first event of any guest, in host time."""
        return max(int(self._roster.next_event_ns()), self.now_ns)

    def _horizon(self, granted: list[tuple[_Place, int, int]]) -> int:
        """Where the stretch ends: the first instant at which anything may be decided anew.

        Tasks have their turn at multiples of the quantum only. A guest sees to its own events, so
        those of others end a stretch only where somebody may want a CPU that another one has.
        """
        until = min(self._goal_ns, int(self.cpus.next_ns(self.now_ns)))
        if granted or self._talked:
            until = min(until, (self.now_ns // self._grid_ns + 1) * self._grid_ns)
        for _, _, slice_ns in granted:
            until = min(until, self.now_ns + slice_ns)
        if not granted or not self._roomy:
            until = min(until, self._next_event_ns())
        return max(until, self.now_ns + 1) if granted else until

    def _run_stretch(self, until_ns: int, granted: list[tuple[_Place, int, int]]) -> None:
        """Every guest lives to ``until_ns``; then the books are closed.

        Time just passes for those who have nothing to do. After something came from outside all
        are looked at.
        """
        for place, _, _ in granted:
            self._show_steal(place)
        before = {
            (place.guest.name, number): int(place.guest.machine.harts[number].steps)
            for place, number, _ in granted
        }
        awake = self._roster.pass_by(until_ns)
        places = list(self._places.values()) if self._touched else [self._seated[n] for n in awake]
        self._touched = False
        self._live(places, until_ns)
        for place in places:
            self._lived(place, until_ns)
        self.now_ns = until_ns
        for place, number, _ in granted:
            if number in place.budgets:
                steps = int(place.guest.machine.harts[number].steps)
                self._release(place, number, steps - before[place.guest.name, number])
        self._account(places)

    def _live(self, places: list[_Place], until_ns: int) -> None:
        """Run all guests up to ``until_ns``: in threads what gains from it, here the others."""
        aside: list[_Place] = []
        if self.workers.count > 1:
            aside = [p for p in places if p.budgets and p.guest.machine.runs_unlocked]
        if len(aside) > 1:
            self.workers.run([functools.partial(self._run_guest, p, until_ns) for p in aside])
            places = [place for place in places if place not in aside]
        for place in places:
            self._run_guest(place, until_ns)

    def _run_guest(self, place: _Place, until_ns: int) -> None:
        """One guest's stretch, in whatever thread: touches nothing that another guest has."""
        guest = place.guest
        machine = guest.machine
        limit = UNLIMITED
        if guest.max_steps is not None:
            counted = machine.stats()
            limit = max(0, guest.max_steps - counted.instructions - counted.traps)
        started = time.perf_counter_ns()  # for statistics only
        place.error = None
        guest.outbox.close()
        try:
            place.why = machine.run(until_ns - place.since_ns, limit)
        except Exception as error:  # whatever it is: the neighbours go on
            place.error = error
        finally:
            guest.busy_ns += time.perf_counter_ns() - started

    def _lived(self, place: _Place, until_ns: int) -> None:
        """A guest has had its stretch: what it said is told, and what became of it is seen to."""
        guest = place.guest
        guest.outbox.open()
        for device, text in self.watchdog.reports(guest.name):
            self.ledger.record(self.now_ns, BLOCKED, guest.name, f"{device} {text}")
        for failure in guest.machine.containment.take_news():
            cause = f"{failure.device}: {failure.cause}"
            self.ledger.record(self.now_ns, FAILED, guest.name, cause)
        if place.error is not None:
            self._fail(guest, place.error)
            return
        guest.raise_tap_error()
        self._ran(place, place.why, until_ns)

    def _fail(self, guest: Resident, error: Exception) -> None:
        known = error if isinstance(error, AsyncvmmError) else InternalError(repr(error))
        if isinstance(known, InternalError):
            self.ledger.record(self.now_ns, FAILED, guest.name, str(known))
        guest.machine_failed(known)

    def _ran(self, place: _Place, why: int, until_ns: int) -> None:
        """The guest has come back: is it over, or does it begin again?"""
        guest, machine = place.guest, place.guest.machine
        if why == RAN_STEPS:
            guest.limit_reached()
            return
        if why != RAN_STOP:
            return
        try:
            over = guest.machine_stopped()
        except Exception as error:
            self._fail(guest, error)
            return
        if not over:
            # It was reset: what is left of the stretch passes before it begins again.
            machine.timeline.now_ns = max(int(machine.timeline.now_ns), until_ns - place.since_ns)

    def _release(self, place: _Place, number: int, steps: int = 0) -> None:
        budget = place.budgets.pop(number)
        runnable = place.guest.machine.scheduler.runnable(number)
        place.seat.set_standing(number, AWAKE if runnable else ASLEEP)
        self.cpus.stop(place.vcpus[number], self.now_ns, min(steps, budget), asleep=not runnable)

    def _show_steal(self, place: _Place) -> None:
        """A guest that asked for it finds its steal time up to date whenever it gets a CPU."""
        sbi = place.guest.machine.sbi
        if sbi is not None and sbi.reports_steal():
            for number, vcpu in enumerate(place.vcpus):
                sbi.set_steal(number, self.cpus.steal_ns(vcpu, self.now_ns))

    def _account(self, places: list[_Place]) -> None:
        """Resident pages of those who ran, against the limits."""
        for place in places:
            if place.seat.number in self._seated:
                ram = place.guest.machine.ram
                self.memory.set_private(place.guest.name, int(ram.resident - ram.shared))
        self.sharing.serve(self.now_ns, self.memory)
        for error in self.memory.enforce(self.now_ns):
            place_of = self._places.get(error.guest)
            if place_of is not None:
                place_of.guest.machine_failed(error)
