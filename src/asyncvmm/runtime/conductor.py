"""The host's one loop: lets every guest live through the same stretch of virtual time, in turn.

At each decision instant the policy grants physical CPUs to harts; then all guests run up to the next
instant (the end of a grant, an event, a refill, the quantum), those with translated code side by side
in worker threads. Guests meet only through links whose latency is a quantum or more, and what they
have to say waits in their outboxes for the end of the stretch, where the books are kept in a fixed
order; so the order inside a stretch changes nothing, and neither does the order of trio's tasks:
whoever waits for a guest's output has had its turn before the next quantum begins.

Where somebody waits for a CPU, a stretch is cut where a hart that has one falls asleep. Guests that
ran beyond the cut already keep their CPUs until the others have caught up.

In real time a stretch ends where all sleep who had something to do and one of them has said something:
the answer leaves, and what comes back enters, without waiting for the wall (see ``_run_to_answer``).

A stretch that takes long in wall time (a slow guest) lets trio go on in between, for cancellations
and deadlines. What tasks do to guests, and what guests tell tasks, waits until the stretch is over.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Protocol

import attrs
import trio

# What trio.testing exports under this name; that module loads pytest where it is installed.
from trio._core import wait_all_tasks_blocked  # type: ignore[attr-defined]

from asyncvmm.arch.hart import STARTED
from asyncvmm.base.errors import AsyncvmmError, ConfigError, InternalError
from asyncvmm.base.units import MS
from asyncvmm.hypervisor import PARKED, RUNNING, WAITING, Cpus, Grant, HostMemory, Ledger, Vcpu
from asyncvmm.hypervisor.ledger import BLOCKED, FAILED
from asyncvmm.machine import (
    ASLEEP,
    AWAKE,
    GRANTED,
    RAN_ASLEEP,
    RAN_HALT,
    RAN_PAUSE,
    RAN_STEPS,
    RAN_STOP,
    RAN_TIME,
    UNLIMITED,
    Machine,
    Roster,
    Seat,
)
from asyncvmm.runtime.host_saved import ConductorState, PlaceState
from asyncvmm.runtime.inputs import Inputs, Script
from asyncvmm.runtime.journal_file import ANSWER, CUT
from asyncvmm.runtime.outbox import Outbox
from asyncvmm.runtime.sharing import Sharing
from asyncvmm.runtime.wall import TrioWallClock, WallClock
from asyncvmm.runtime.watchdog import Watchdog
from asyncvmm.runtime.workers import FEW_LOOKS, LOOKS, Workers
from asyncvmm.timeline.events import FOREVER

PACE_NS: Final = 5 * MS  # how finely a realtime host follows the wall
LAG_NS: Final = 100 * MS  # a realtime host that is later than this gives up catching up
SETTLE_S: Final = 2.0  # wall time: tasks that never block are not waited for longer
IMPATIENT_S: Final = 0.001  # ... once that happened
TURN_NS: Final = 5 * MS  # wall time after which the event loop has its turn whatever happens
LONG_CHUNK: Final = 3  # so many guests in a row are a long job for a worker
BREATH_NS: Final = 10 * MS  # wall time after which trio has its turn in the middle of a stretch


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

    async def halted(self) -> None:
        """A debugger stopped the machine in the middle of a stretch: return when it may go on."""
        ...


class Exchange(Protocol):
    """What guests have between them: called between two stretches, when nobody runs."""

    def next_ns(self) -> int:
        """The first instant at which it has something to do, in host time; FOREVER when none."""
        ...

    def advance(self, now_ns: int) -> None:
        """Every guest has lived to ``now_ns``."""
        ...

    def has_sent(self, guest: str) -> bool:
        """Whether a guest has sent something that ``advance`` has not moved yet. For its thread."""
        ...


class NoExchange:
    """Guests that have nothing between them."""

    def next_ns(self) -> int:
        """See Exchange."""
        return FOREVER

    def advance(self, now_ns: int) -> None:
        """See Exchange."""

    def has_sent(self, guest: str) -> bool:
        """See Exchange."""
        return False


@attrs.define(eq=False)  # a frozen one takes a microsecond to make
class _Slice:
    """A grant under way: how many steps the hart had done before, may do, and until when."""

    steps_before: int
    budget: int
    end_ns: int


@attrs.define(eq=False)
class _Place:
    """A guest on the host: its vCPUs, when it came, to when it has lived, what its harts may do."""

    guest: Resident
    vcpus: list[Vcpu]
    since_ns: int
    lived_ns: int
    seat: Seat
    slices: dict[int, _Slice] = attrs.field(factory=dict)
    why: int = RAN_TIME
    error: Exception | None = None
    private: int = -1  # resident pages, as last counted
    name: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.name = self.guest.name

    @property
    def awake(self) -> bool:
        """It has a CPU and uses it; whoever only stands by does not."""
        return any(map(self.guest.machine.scheduler.runnable, self.slices))

    @property
    def wants_thread(self) -> bool:
        """It has a CPU and uses it outside Python's lock."""
        return self.guest.machine.runs_unlocked and self.awake

    @property
    def unfinished(self) -> bool:
        """It came back early from its stretch, to be called again."""
        return self.why in (RAN_PAUSE, RAN_HALT) and self.error is None

    @property
    def halted(self) -> bool:
        """A debugger stopped it on its way."""
        return self.why == RAN_HALT and self.error is None


class _Woken(trio.abc.Instrument):
    """Counts how often any task was woken: cheaper to ask than trio's statistics."""

    def __init__(self) -> None:
        self.count = 0

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """See Instrument."""
        self.count += 1


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
        self.exchange: Exchange = NoExchange()
        self.inputs: Inputs = Inputs()
        self.script: Script = Script()
        self.now_ns = 0
        self.in_stretch = False  # also after one that was cancelled
        self.turns = 0  # stretches that ended at ``now_ns`` already
        self._wall = wall
        self._realtime = realtime
        self._places: dict[str, _Place] = {}
        self._roster = Roster()
        self._seated: dict[int, _Place] = {}  # the same, by the number of the seat
        self._busy: dict[int, _Place] = {}  # those of them with a slice
        self._touched = True  # something outside may have changed any guest
        self._kick = trio.Event()
        self._quiet = trio.Event()
        self._talked = False
        self._offset_ns: int | None = None  # wall time of virtual time 0, for a realtime host
        self._idle_wait = False
        self._goal_ns: int = FOREVER
        self._exact = False
        self._reached = trio.Event()
        self._held = 0
        self._patience_s = SETTLE_S
        self._grid_ns = cpus.spec.quantum_ns
        self._isolates = cpus.policy.isolates
        self._roomy = True  # every hart has a CPU
        self._contended = False  # somebody waits for one
        self._tasks_turn = True  # not in a stretch, nor between two in the same quantum
        self._answers = False  # the stretch ends where all sleep of whom one has said something
        self._later: dict[Callable[[], object], None] = {}
        self._turn = trio.lowlevel.ParkingLot()
        self._breath_ns = wall.now_ns()
        self._alone = False  # every other task was blocked when this one went on
        self._turn_ns = 0  # wall time of that
        self._woken = _Woken()
        self._woken_then = 0  # its count then

    # -- guests come and go, between two stretches

    def add(self, guest: Resident, vcpus: list[Vcpu], since_ns: int) -> None:
        """Let ``guest`` live from now on; its own time was 0 at ``since_ns`` of the host's.

        One whose own time is ahead of that stands still until the host has come there.
        """
        self._seat(guest, vcpus, since_ns)
        self.kick()

    def since_ns(self, name: str) -> int:
        """The host's time at which that of a guest was 0."""
        return self._places[name].since_ns

    def guest_ns(self, name: str) -> int:
        """Where the host's clock is in a guest's time."""
        return self.now_ns - self._places[name].since_ns

    def _seat(self, guest: Resident, vcpus: list[Vcpu], since_ns: int) -> _Place:
        scheduler = guest.machine.scheduler
        scheduler.hosted = True
        scheduler.engine.pauses = True
        seat = self._roster.join(scheduler, since_ns)
        place = _Place(guest, vcpus, since_ns, self.now_ns, seat)
        self._places[guest.name] = self._seated[seat.number] = place
        if not self._exact:
            self._goal_ns = self._common(self._goal_ns)
        self.watchdog.enter(guest.name, guest.machine.bus)
        if self._offset_ns is None:
            self._offset_ns = self._wall.now_ns() - self.now_ns
        return place

    def state(self) -> ConductorState:
        """Where everybody is, as a value: between two stretches, as tasks have their turn."""
        places = tuple(
            PlaceState(
                place.name,
                place.since_ns,
                place.lived_ns,
                tuple(
                    (number, one.steps_before, one.budget, one.end_ns)
                    for number, one in place.slices.items()
                ),
            )
            for place in self._places.values()
        )
        return ConductorState(self.now_ns, self._roomy, self._contended, places)

    def restore(
        self,
        state: ConductorState,
        guests: Mapping[str, Resident],
        vcpus: Mapping[str, list[Vcpu]],
    ) -> None:
        """Go on where ``state`` was taken, before ``task`` has begun: with these guests, which are as
        they were then, and their vCPUs, as the restored books have them.
        """
        self.now_ns = state.now_ns
        self._roomy, self._contended = state.roomy, state.contended
        for saved in state.places:
            place = self._seat(guests[saved.guest], vcpus[saved.guest], saved.since_ns)
            place.lived_ns = saved.lived_ns
            for vcpu in place.vcpus:
                awake = AWAKE if vcpu.state in (WAITING, PARKED) else ASLEEP
                place.seat.set_standing(vcpu.number, awake)
            for number, *rest in saved.slices:
                if not 0 <= number < len(place.vcpus) or place.vcpus[number].state != RUNNING:
                    raise ConfigError(f"guest {saved.guest}: saved hart {number} has no CPU")
                place.slices[number] = _Slice(*rest)
                place.seat.set_standing(number, GRANTED)
                self._busy[place.seat.number] = place
            if len(place.slices) != sum(vcpu.state == RUNNING for vcpu in place.vcpus):
                raise ConfigError(f"guest {saved.guest}: a saved CPU runs nobody")
        self.kick()

    def remove(self, guest: Resident, cause: str) -> None:
        """``guest`` has ended; its CPUs and memory are free."""
        place = self._places.pop(guest.name, None)
        if place is None:
            return
        self.watchdog.leave(guest.name)
        for number in list(place.slices):
            self._release(place, number, 0)
        self._roster.leave(place.seat)
        del self._seated[place.seat.number]
        self.cpus.remove(guest.name, self.now_ns, cause)
        self.memory.remove(guest.name)
        self.sharing.leave(guest.name)
        self.kick()

    def kick(self) -> None:
        """Something came from outside: look at it now, at the time that the wall shows."""
        self._idled()
        self._touched = True
        if self._quiet.is_set():
            self._quiet = trio.Event()
        self._kick.set()

    def later(self, call: Callable[[], object]) -> None:
        """A guest did something that tasks wait for: ``call`` wakes them, once, when tasks have their
        turn, which is before time goes on.
        """
        self._talked = True
        if self._tasks_turn:
            call()
        else:
            self._later[call] = None

    @property
    def between(self) -> bool:
        """Tasks have their turn: no guest is in the middle of a stretch."""
        return self._tasks_turn

    def at_turn(self, call: Callable[[], object]) -> None:
        """Call it now, or as soon as tasks have their turn."""
        if self._tasks_turn:
            call()
        else:
            self.later(call)

    async def turn(self) -> None:
        """Return when tasks have their turn: not in the middle of a quantum."""
        await trio.lowlevel.checkpoint()
        while not self._tasks_turn:
            self._talked = True
            await self._turn.park()

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
        self._held += 1

    def let_go(self) -> None:
        """See ``hold``."""
        self._held -= 1
        self.kick()

    @property
    def paused(self) -> bool:
        """Whether time moves to a goal only."""
        return self._goal_ns != FOREVER

    def set_goal(self, time_ns: int, exact: bool = False) -> None:
        """Run to ``time_ns`` and stand still there (FOREVER: never), or as soon after it as that
        changes nothing: see ``_common``.
        """
        self._exact = exact
        self._goal_ns = time_ns if exact else self._common(time_ns)
        self._reached = trio.Event()
        self.kick()

    def _common(self, time_ns: int) -> int:
        """The first instant from ``time_ns`` on at which a stop changes nothing.

        Harts that run side by side share quanta, of which each runs all before the next one does: a
        quantum that ends early is another order of what they do. So with such a guest time stands
        still on the grid only.
        """
        if self.now_ns < time_ns < FOREVER and any(
            len(place.vcpus) > 1 for place in self._places.values()
        ):
            return -(-time_ns // self._grid_ns) * self._grid_ns
        return time_ns

    async def wait_goal(self) -> None:
        """Return when the goal is reached."""
        await self._reached.wait()

    async def wait_quiet(self) -> None:
        """Return when every hart waits and no event is due: only the outside can go on from here."""
        while not self._quiet.is_set():
            await self._quiet.wait()

    @trio.lowlevel.enable_ki_protection  # it goes to a task that is not in the middle of the books
    async def task(self) -> None:
        """The loop."""
        trio.lowlevel.add_instrument(self._woken)
        try:
            await self._loop()
        finally:
            trio.lowlevel.remove_instrument(self._woken)
            self._tell()

    async def _loop(self) -> None:
        while True:
            if self._kick.is_set():
                self._kick = trio.Event()
            self.inputs.look()
            if self.script.due(self.now_ns, self.turns):
                await self._follow()
                continue
            if self.now_ns >= self._goal_ns:
                if not self._reached.is_set():
                    if self.now_ns % self._grid_ns:
                        self.inputs.note(CUT)
                    self._reached.set()
                await self._wait_kick()
                continue
            if self._held:
                await self._wait_kick()
                continue
            realtime = self._realtime()
            if realtime and self._due_while_idle():
                self._pass_idle(self.now_ns)
            if realtime and await self._paced():
                continue
            runnable = self._anyone_runnable()
            if runnable or self._talked:
                self._wake_runnable()
                self._decide()
            busy = bool(self._busy)
            until = self._horizon(busy, runnable)
            if self.script.next_ns() <= self.now_ns < until:
                await self._follow()  # what else ended here when it was noted does not here
                continue
            if until == FOREVER:
                self._quiet.set()
                await self._wait_kick()
                continue
            early = runnable and self._roomy and not self._isolates
            early = early and (realtime or self.script.answer_ns() < until)
            await self._live(until, early=early)
            answered = early and self.now_ns < until
            if realtime and answered and not self._anyone_runnable():
                self._idle_wait = True  # time goes on with the wall while tasks have their turn
            if answered or self.now_ns % self._grid_ns == 0 or not (busy or self._talked):
                await (self._attend() if realtime else self._settle())
                self._idled()

    async def _follow(self) -> None:
        """Something enters that the script has here."""
        self._tell()
        self._touched = True
        await self.script.enter()

    async def _settle(self) -> None:
        """Every other task has had its turn: whatever a guest's output led to has been done.

        Nothing is to be waited for when all were blocked at the last turn and nobody has been woken
        since. A task that never blocks is not waited for long; such a program is not repeatable
        anyway.
        """
        self._tell()
        if (
            self._alone
            and time.monotonic_ns() - self._turn_ns < TURN_NS
            and self._woken.count == self._woken_then
        ):
            return
        with trio.move_on_after(self._patience_s) as scope:
            await wait_all_tasks_blocked()
        if scope.cancelled_caught:
            self._patience_s = IMPATIENT_S
        self._alone = not scope.cancelled_caught
        self._turn_ns = time.monotonic_ns()
        self._woken_then = self._woken.count
        self._breath_ns = self._wall.now_ns()

    async def _attend(self) -> None:
        """``_settle`` in real time: whoever a guest's output has woken has its turn, and everybody in
        good time. What comes of it is in no order that would have to be repeated without a journal.
        """
        woken = self._woken.count
        self._tell()
        if self._woken.count > woken or time.monotonic_ns() - self._turn_ns >= TURN_NS:
            await self._settle()

    def _tell(self) -> None:
        """Wake whoever waits for something that a guest did, or for a turn."""
        self._talked = False
        self._tasks_turn = True
        calls, self._later = self._later, {}
        for call in calls:
            call()
        self._turn.unpark_all()

    async def _breathe(self) -> None:
        """Let trio go on, which is due: the wall clock never stands still for long.

        A host with a journal ends at a place that a replay can come to: not here.
        """
        self._alone = False
        with trio.CancelScope(shield=self.inputs.recording):
            await trio.lowlevel.checkpoint()
        self._breath_ns = self._wall.now_ns()

    async def _wait_kick(self) -> None:
        self._tell()
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
            # Stretches end on the grid, so after one that an input began time is ahead of the wall by
            # less than a quantum: whoever has another input need not wait for that.
            if ahead < self._grid_ns:
                return False
            self._tell()
            await self._sleep(PACE_NS)
            return True
        due = min(self._idle_end_ns() - self._target_ns(), 1000 * MS)
        if due <= 0:
            return False
        self._tell()
        self._idle_wait = True
        await self._sleep(due)
        self._idled()
        return True

    def _due_while_idle(self) -> bool:
        """Whether something is due now, such as what has just entered, and no hart has a CPU."""
        return not (self._busy or self._anyone_runnable()) and self._next_event_ns() <= self.now_ns

    def _idled(self) -> None:
        """While the host waited as nobody had anything to do, virtual time went on with the wall."""
        if self._idle_wait:
            self._idle_wait = False
            until_ns = min(self._target_ns(), self._idle_end_ns())
            if until_ns > self.now_ns:
                self._pass_idle(until_ns)

    async def _sleep(self, ns: int) -> None:
        """Wait for outside input, at most ``ns``."""
        if isinstance(self._wall, TrioWallClock):  # without a task for it: every input waits here
            with trio.CancelScope(deadline=trio.current_time() + ns / 1e9):
                await self._kick.wait()
            self._turn_ns = time.monotonic_ns()
            self._breath_ns = self._wall.now_ns()
            return
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
        """Enter in the books who has something to do.

        Under a policy that isolates this is at the beginning of slots only: those that neighbours
        end a stretch at must change nothing.
        """
        if self._isolates and self.now_ns % self._grid_ns:
            return
        for seat, number in self._roster.waking():
            place = self._seated[seat]
            if place.lived_ns <= self.now_ns:
                self.cpus.wake(place.vcpus[number], self.now_ns)
                place.seat.set_standing(number, AWAKE)

    def _decide(self) -> None:
        """Grant CPUs. Those left over stand by for harts that may wake up in the stretch; when there
        is one for everybody, or the policy isolates, no guest can notice another.
        """
        self._grant(self.cpus.decide(self.now_ns))
        self._roomy = True
        self._contended = False
        if self._isolates:
            for place in self._places.values():
                for number in range(len(place.vcpus)):
                    if number not in place.slices:
                        self._stand_by(place, number)
            return
        idle = self._roster.idle_started(self.cpus.free + 1)  # one too many is enough
        if len(idle) > self.cpus.free:
            # The stretch ends at the first event, so only those with a sibling that runs may wake up.
            self._roomy = False
            idle = [
                (place.seat.number, number)
                for place in self._busy.values()
                if len(place.vcpus) > 1
                for number, hart in enumerate(place.guest.machine.harts)
                if hart.state == STARTED and number not in place.slices
            ]
        for seat, number in idle:
            place = self._seated[seat]
            if number not in place.slices:
                self._stand_by(place, number)
            if number not in place.slices:
                self._roomy = False
                break
        if not self._roomy:
            self._contended = any(
                self._seated[seat].vcpus[number].state == WAITING
                for seat, number in self._roster.awake()
            )

    def _stand_by(self, place: _Place, number: int) -> None:
        if self.cpus.free and place.lived_ns <= self.now_ns:
            self._grant(self.cpus.stand_by(place.vcpus[number], self.now_ns))

    def _grant(self, grants: list[Grant]) -> None:
        cpus = self.cpus
        grid_ns = self._grid_ns - self.now_ns % self._grid_ns
        longer = 0 if self._isolates or cpus.crowded else cpus.spec.steps_for(grid_ns)
        for grant in grants:
            place = self._places[grant.vcpu.guest.name]
            number = grant.vcpu.number
            machine = place.guest.machine
            steps = int(machine.harts[number].steps)
            budget, slice_ns = grant.steps, grant.slice_ns
            if longer > budget:
                budget = cpus.extend(grant.vcpu, longer)
                # Up to the grid even where no whole number of steps leads there.
                slice_ns = grid_ns if budget == longer else cpus.spec.ns_for(budget)
            place.slices[number] = _Slice(steps, budget, self.now_ns + slice_ns)
            place.seat.set_standing(number, GRANTED)
            self._busy[place.seat.number] = place
            if machine.sbi is not None and machine.sbi.reports_steal():
                machine.sbi.set_steal(number, self.cpus.steal_ns(grant.vcpu, self.now_ns))

    def _next_event_ns(self) -> int:
        """The first event of any guest or between them, in host time."""
        first = min(int(self.exchange.next_ns()), int(self._roster.next_event_ns()))
        return max(first, self.now_ns)

    def _idle_end_ns(self) -> int:
        """How far time goes on by itself while no hart has anything to do."""
        return min(self._goal_ns, int(self.cpus.next_ns(self.now_ns)), self._next_event_ns())

    def _horizon(self, busy: bool, runnable: bool) -> int:
        """Where the stretch ends: the first instant at which anything may be decided anew.

        Tasks have their turn at multiples of the quantum only. A guest sees to its own events, so
        those of others end a stretch only where somebody may want a CPU that another one has.
        """
        until = min(self._goal_ns, int(self.cpus.next_ns(self.now_ns)))
        until = min(until, max(self.script.next_ns(), self.now_ns))
        if busy or self._talked or (runnable and self._isolates):
            until = min(until, (self.now_ns // self._grid_ns + 1) * self._grid_ns)
        for place in self._busy.values():
            for slice_ in place.slices.values():
                until = min(until, slice_.end_ns)
            if place.lived_ns > self.now_ns:
                until = min(until, place.lived_ns)
        if not busy or not (self._roomy or self._isolates):
            until = min(until, self._next_event_ns())
        return max(until, self.now_ns + 1) if busy else until

    async def _live(self, until_ns: int, *, early: bool = False) -> None:
        """Every guest lives to ``until_ns``, or to where a CPU that somebody waits for falls free;
        then the books are closed. ``early``: see ``_run_to_answer``.

        Time just passes for those who have nothing to do. After something came from outside all
        are looked at.
        """
        self._tasks_turn = False
        self.in_stretch = True
        busy = [self._busy[number] for number in sorted(self._busy)]
        ran = [place for place in busy if place.lived_ns <= until_ns]
        end_ns = planned_ns = until_ns
        try:
            if early:
                until_ns = await self._run_to_answer(ran, until_ns)
            else:
                await self._run_guests(ran, until_ns)
            end_ns = min([until_ns, *(place.lived_ns for place in ran if place.slices)])
            others = self._others(end_ns)
            ran += others
            await self._run_guests(others, end_ns)
        finally:
            for place in ran:
                place.guest.outbox.open()
        for place in ran:
            self._lived(place)
        self._came_to(end_ns)
        if until_ns < planned_ns:  # harts of one guest share a quantum, and see where it was to end
            self.inputs.note(ANSWER, until_ns=planned_ns)
        for place in busy:
            if place.lived_ns > end_ns:
                continue
            harts, scheduler = place.guest.machine.harts, place.guest.machine.scheduler
            for number, slice_ in list(place.slices.items()):
                if end_ns == until_ns or not scheduler.runnable(number):
                    self._release(place, number, int(harts[number].steps) - slice_.steps_before)
        self._account(ran)
        self.in_stretch = False

    def _others(self, until_ns: int) -> list[_Place]:
        """Those without a CPU that have something to do up to ``until_ns``; it passes for the rest."""
        if self._touched:
            self._touched = False
            return [place for place in self._places.values() if not place.slices]
        return [self._seated[number] for number in self._roster.pass_by(until_ns)]

    def _pass_idle(self, until_ns: int) -> None:
        """Time passes in which no hart has anything to do."""
        places = [*self._busy.values(), *self._others(until_ns)]
        for place in places:
            self._run_guest(place, until_ns)
            place.guest.outbox.open()
        for place in places:
            self._lived(place)
        self._came_to(until_ns)
        self._account(places)

    def _came_to(self, now_ns: int) -> None:
        """A stretch has ended here."""
        self.turns = 0 if now_ns > self.now_ns else self.turns + 1
        self.now_ns = now_ns
        self.exchange.advance(now_ns)

    async def _run_to_answer(self, ran: list[_Place], until_ns: int) -> int:
        """Run guests up to ``until_ns``, or to where nobody has anything to do any more of those that
        had, and one of them has said something: where they are. In real time the answer need not
        wait for the quantum's end, nor what comes back for the wall to get there.
        """
        awake = [place for place in ran if place.awake]
        self._answers = True
        try:
            await self._run_guests(awake, until_ns)
        finally:
            self._answers = False
        if awake and all(place.why == RAN_ASLEEP and place.error is None for place in awake):
            until_ns = max(place.lived_ns for place in awake)
        behind = [place for place in awake if place.why == RAN_ASLEEP and place.lived_ns < until_ns]
        await self._run_guests(
            [place for place in ran if place not in awake or place in behind], until_ns
        )
        return until_ns

    async def _run_guests(self, places: list[_Place], until_ns: int) -> None:
        """Run guests up to ``until_ns``: in threads what gains from it, here the others."""
        aside: list[_Place] = []
        if self.workers.count > 1:
            aside = [p for p in places if p.wants_thread]
        if len(aside) > 1:
            places = [place for place in places if place not in aside]
        else:
            aside = []
        while aside:
            breath_ns = time.perf_counter_ns() + BREATH_NS
            count = min(self.workers.count, len(aside))
            self.workers.run(
                [
                    functools.partial(self._run_in_time, aside[i::count], until_ns, breath_ns)
                    for i in range(count)
                ],
                LOOKS if len(aside) < LONG_CHUNK * count else FEW_LOOKS,
            )
            if self._wall.now_ns() - self._breath_ns > BREATH_NS:
                await self._breathe()
            for place in aside:
                if place.halted and self._lives(place):
                    await place.guest.halted()
            aside = [place for place in aside if place.unfinished and self._lives(place)]
        for place in places:
            while self._lives(place):
                self._run_guest(place, until_ns)
                if place.halted:
                    await place.guest.halted()
                    self._alone = False
                if self._wall.now_ns() - self._breath_ns > BREATH_NS:
                    await self._breathe()
                if not place.unfinished:
                    break

    def _run_in_time(self, places: list[_Place], until_ns: int, breath_ns: int) -> None:
        """Run them until it is time for a breath: the turn of the rest then comes after that."""
        for place in places:
            if time.perf_counter_ns() > breath_ns:
                place.why, place.error = RAN_PAUSE, None
            else:
                self._run_guest(place, until_ns)

    def _lives(self, place: _Place) -> bool:
        return self._places.get(place.name) is place

    def _run_guest(self, place: _Place, until_ns: int) -> None:
        """One guest's stretch, in whatever thread: touches nothing that another guest has."""
        guest = place.guest
        machine = guest.machine
        scheduler = machine.scheduler
        limit = UNLIMITED
        if guest.max_steps is not None:
            limit = max(0, guest.max_steps - sum([int(hart.steps) for hart in machine.harts]))
        answers = self._answers and limit == UNLIMITED
        scheduler.yields = (self._contended or answers) and bool(place.slices)
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
        if not place.unfinished:
            lived_ns = until_ns
            if place.why == RAN_ASLEEP:
                lived_ns = min(until_ns, place.since_ns + int(machine.timeline.now_ns))
            place.lived_ns = max(place.lived_ns, lived_ns)

    def _sleep_until_said(self, place: _Place, until_ns: int) -> None:
        """A hart fell asleep: go on unless all have and something was said."""
        machine, outbox = place.guest.machine, place.guest.outbox
        scheduler, timeline = machine.scheduler, machine.timeline
        while place.why == RAN_ASLEEP:
            if not any(map(scheduler.runnable, place.slices)):
                if outbox.waiting or self.exchange.has_sent(place.name):
                    return
                scheduler.yields = False
                place.why = machine.run(min(int(timeline.next_time_ns()), until_ns), UNLIMITED)
                scheduler.yields = True
                if place.why != RAN_TIME or int(timeline.now_ns) >= until_ns:
                    return
            place.why = machine.run(until_ns, UNLIMITED)

    def _lived(self, place: _Place) -> None:
        """A guest has had its stretch: what became of it is seen to."""
        guest = place.guest
        if not self._lives(place):
            return
        for device, text in self.watchdog.reports(place.name):
            self.ledger.record(self.now_ns, BLOCKED, place.name, f"{device} {text}")
        for failure in guest.machine.containment.take_news():
            cause = f"{failure.device}: {failure.cause}"
            self.ledger.record(self.now_ns, FAILED, place.name, cause)
        error, place.error = place.error, None
        if error is not None:
            self._fail(guest, error)
            return
        guest.raise_tap_error()
        why, place.why = place.why, RAN_TIME
        if why in (RAN_STEPS, RAN_STOP):
            self._ran(place, why)

    def _fail(self, guest: Resident, error: Exception) -> None:
        known = error if isinstance(error, AsyncvmmError) else InternalError(repr(error))
        if isinstance(known, InternalError):
            self.ledger.record(self.now_ns, FAILED, guest.name, str(known))
        guest.machine_failed(known)

    def _ran(self, place: _Place, why: int) -> None:
        """The guest came back for RAN_STEPS or RAN_STOP: is it over, or does it begin again?"""
        guest, machine = place.guest, place.guest.machine
        if why == RAN_STEPS:
            guest.limit_reached()
            return
        try:
            over = guest.machine_stopped()
        except Exception as error:
            self._fail(guest, error)
            return
        if not over:
            # It was reset: what is left of the stretch passes before it begins again.
            machine.timeline.now_ns = max(
                int(machine.timeline.now_ns), place.lived_ns - place.since_ns
            )

    def _release(self, place: _Place, number: int, steps: int) -> None:
        budget = place.slices.pop(number).budget
        if not place.slices:
            del self._busy[place.seat.number]
        runnable = place.guest.machine.scheduler.runnable(number)
        place.seat.set_standing(number, AWAKE if runnable else ASLEEP)
        self.cpus.stop(place.vcpus[number], self.now_ns, min(steps, budget), asleep=not runnable)

    def _account(self, places: list[_Place]) -> None:
        """Resident pages of those who ran, against the limits."""
        names = []
        for place in places:
            if not self._lives(place):
                continue
            names.append(place.name)
            ram = place.guest.machine.ram
            private = int(ram.resident - ram.shared)
            if private != place.private:
                place.private = private
                self.memory.set_private(place.name, private)
        self.sharing.serve(self.now_ns, self.memory, names)
        for error in self.memory.enforce(self.now_ns):
            place_of = self._places.get(error.guest)
            if place_of is not None:
                place_of.guest.machine_failed(error)
