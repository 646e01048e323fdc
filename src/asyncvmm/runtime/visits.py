"""A machine in a guest's past: revived from a checkpoint, and run as the guest was.

See ``history`` for what is remembered, and why that is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Protocol

import attrs

from asyncvmm.device import CharPort
from asyncvmm.machine import RAN_ASLEEP, RAN_HALT, RAN_STEPS, RAN_STOP, RAN_TIME, UNLIMITED, Machine
from asyncvmm.runtime.arrivals import Arrivals, cards
from asyncvmm.runtime.commands import is_run_port
from asyncvmm.runtime.saved import HostSide
from asyncvmm.runtime.snapshots import Snapshot
from asyncvmm.timeline.events import FOREVER

CHUNK_STEPS: Final = 2_000_000  # after which other tasks have their turn

Revive = Callable[[Snapshot], Machine]


def total_steps(machine: Machine) -> int:
    """The instant at which a machine is."""
    return sum([int(hart.steps) for hart in machine.harts])


def steal_shown(machine: Machine) -> tuple[int, ...]:
    """What the host last told each hart of the time in which it wanted a CPU and had none."""
    if machine.sbi is None or not machine.sbi.reports_steal():
        return ()
    return tuple(int(steal_ns) for steal_ns in machine.sbi.steal.written)


@attrs.frozen
class Run:
    """A stretch of the guest's time, which harts had a CPU in it, and what ``steal`` time they were shown.

    From where the one before ended to ``begin_ns`` time just passed.
    """

    begin_ns: int = attrs.field(eq=False)
    until_ns: int
    granted: tuple[int, ...]
    hosted: bool
    yields: bool
    steal: tuple[int, ...] = ()


@attrs.frozen
class Checkpoint:
    """A snapshot at ``steps``, in the run number ``run`` or at its end.

    A ``fresh`` one is before that run, and nothing that was run before leads to it: something had
    come from outside. ``arrived`` is how many frames had come to the cards.
    """

    steps: int
    hart_steps: tuple[int, ...]
    now_ns: int
    run: int
    fresh: bool
    arrived: int
    snapshot: Snapshot


class Remembered(Protocol):
    """What a visit asks of the history."""

    @property
    def arrivals(self) -> Arrivals:
        """The frames that came."""
        ...

    def next_fresh(self, run: int) -> Checkpoint | None:
        """The first fresh checkpoint before a later run than ``run``."""
        ...

    def find(self, number: int) -> Run | None:
        """The run with that number."""
        ...


def _silence(port: CharPort, heard: bytearray | None = None) -> None:
    """What comes out was said before: nobody but ``heard`` gets it."""

    def take() -> None:
        data = port.take_output()
        if heard is not None:
            heard.extend(data)

    port.on_output = take
    take()


class Visit:
    """A machine in the guest's past."""

    def __init__(self, history: Remembered, checkpoint: Checkpoint, revive: Revive) -> None:
        self.machine: Final = revive(checkpoint.snapshot)
        self.checkpoint: Final = checkpoint
        self.run = checkpoint.run
        self.arrived = checkpoint.arrived
        self.next: Final = history.next_fresh(checkpoint.run)  # what has to be gone on with
        self._history = history
        self._cards: Final = cards(self.machine)
        side = checkpoint.snapshot.saved.host_side
        self._said = bytearray(side.console)
        self._heard = bytearray(side.heard)
        for name, port in self.machine.ports.items():
            _silence(port, self._heard if is_run_port(name) else None)
        _silence(self.machine.console, self._said)

    @property
    def steps(self) -> int:
        """The instant that it has come to."""
        return total_steps(self.machine)

    @property
    def now_ns(self) -> int:
        """The virtual time to which all harts have come."""
        return int(self.machine.scheduler.now_ns())

    @property
    def host_side(self) -> HostSide:
        """What the host has of the guest at this instant, when nobody has read since the checkpoint."""
        side = self.checkpoint.snapshot.saved.host_side
        return attrs.evolve(side, console=bytes(self._said), heard=bytes(self._heard))

    def advance(self, end: int) -> Iterator[bool]:
        """Go on to the instant ``end``, to ``next``, or to where the guard halts a hart: True then.

        False comes in between, so that others may have their turn.
        """
        while (left := end - self.steps) > 0:
            run = self._prepare()
            if run is None:
                return
            why = self.machine.run(run.until_ns, min(left, CHUNK_STEPS))
            if why == RAN_HALT:
                yield True
                return
            if why == RAN_STOP:
                return
            if self._came_back(why):
                yield False

    def advance_to(self, time_ns: int) -> Iterator[None]:
        """Go on to the first instant at which all harts have come to a virtual time, or to ``next``.

        It yields now and then, so that others may have their turn.
        """
        while (run := self._prepare(time_ns)) is not None:
            if run.until_ns <= time_ns:
                why = self.machine.run(run.until_ns, CHUNK_STEPS)
            elif self.now_ns < time_ns:
                why = self._run_into(run, time_ns)
            else:
                return
            if why == RAN_STOP:
                return
            if self._came_back(why):
                yield

    def _came_back(self, why: int) -> bool:
        """The machine's run did; whether it is time that others have their turn."""
        if why == RAN_STEPS:
            return True
        self.run += 1
        return self.run % 64 == 0

    def _prepare(self, time_ns: int = FOREVER) -> Run | None:
        """The run that is under way or comes next, begun if that is by ``time_ns``; None for none."""
        scheduler = self.machine.scheduler
        self._receive(time_ns)
        run: Run | None = None
        begin_ns = FOREVER
        if self.next is not None and self.run >= self.next.run:
            begin_ns = self.next.now_ns
        elif (run := self._history.find(self.run)) is not None:
            begin_ns = run.begin_ns
        pass_ns = min(begin_ns, time_ns)
        if scheduler.timeline.now_ns < pass_ns < FOREVER:
            scheduler.pass_by(pass_ns)
        if run is None or begin_ns > time_ns:
            return None
        for hart, granted in enumerate(run.granted):
            scheduler.granted[hart] = granted
        scheduler.hosted, scheduler.yields = run.hosted, run.yields
        if self.machine.sbi is not None:
            for hart, steal_ns in enumerate(run.steal):
                self.machine.sbi.set_steal(hart, steal_ns)
        return run

    def _receive(self, time_ns: int) -> None:
        """What came to the cards up to ``time_ns`` before this run, when it came; what is sent is gone."""
        scheduler = self.machine.scheduler
        for port in self._cards:
            port.take_sent()
        while (arrival := self._history.arrivals.get(self.arrived)) is not None:
            if arrival.run > self.run or arrival.at_ns > time_ns:
                break
            if scheduler.timeline.now_ns < arrival.own_ns:
                scheduler.pass_by(arrival.own_ns)
            self._cards[arrival.card].arrive(arrival.time_ns, arrival.packet)
            self.arrived += 1

    def _run_into(self, run: Run, time_ns: int) -> int:
        """A part of ``run``, which goes on after ``time_ns``: its quanta end where they did.

        A machine that would sleep beyond that instant is woken then, which it does not notice; nor does
        one hart alone notice where its quantum ends, so that is where a host stops it too.
        """
        machine, scheduler = self.machine, self.machine.scheduler
        if len(machine.harts) == 1:
            scheduler.earlier_event(time_ns)
            why = machine.run(time_ns, CHUNK_STEPS)
            return RAN_STEPS if why == RAN_TIME else why
        scheduler.yields = True
        count = int(machine.clock.steps_for(time_ns - self.now_ns))
        why = machine.run(run.until_ns, max(1, min(count, CHUNK_STEPS)))
        if why == RAN_STEPS and scheduler.finish_quantum():  # all that ran in it have fallen asleep
            scheduler.yields = run.yields
            return RAN_ASLEEP if scheduler.gives_up() else RAN_STEPS
        if why != RAN_ASLEEP or run.yields:
            return why
        harts = range(len(machine.harts))
        if not any(scheduler.granted[hart] and scheduler.runnable(hart) for hart in harts):
            scheduler.yields = False
            now_ns = int(scheduler.timeline.now_ns)
            event_ns = int(scheduler.timeline.next_time_ns())
            if machine.run(max(now_ns, min(event_ns, time_ns)), UNLIMITED) == RAN_STOP:
                return RAN_STOP
        return RAN_STEPS

    def close(self) -> None:
        """It is not wanted any more."""
        self.machine.ram.clear()
        for device in self.machine.devices:
            device.close()
