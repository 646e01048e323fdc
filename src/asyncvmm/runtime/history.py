"""A guest's past, as far as it is kept: snapshots now and then, and how it was run between them.

A guest that nobody talks to does the same again when it is run from a snapshot over the same stretches
with the same CPUs, and the same frames come to its cards. So its past is looked at on a machine beside
it, which is revived from a snapshot and run to the instant wanted; the guest itself stays where it is.
An instant is the number of steps that all harts together have done. Frames are remembered; after any
other input from outside there is a snapshot that has it.

When the guest itself has gone back, what comes after is known still, until it is run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.device import CharPort, Packet
from asyncvmm.machine import RAN_ASLEEP, RAN_HALT, RAN_STEPS, RAN_STOP, UNLIMITED, Machine
from asyncvmm.runtime.arrivals import MAX_BYTES, Arrival, Arrivals, cards, leave, listen
from asyncvmm.runtime.commands import is_run_port
from asyncvmm.runtime.saved import HostSide
from asyncvmm.runtime.snapshots import Snapshot
from asyncvmm.timeline.events import FOREVER

SPACING_STEPS: Final = 10_000_000  # between snapshots, at first
MAX_SNAPSHOTS: Final = 32
MAX_RUNS: Final = 1_000_000  # stretches that are remembered
NEAR_STEPS: Final = 20_000  # a snapshot of the past is taken that far before an instant gone to
MAX_NEAR: Final = 8
CHUNK_STEPS: Final = 2_000_000  # after which other tasks have their turn

Revive = Callable[[Snapshot], Machine]
Take = Callable[[Machine], Snapshot]


def total_steps(machine: Machine) -> int:
    """The instant at which a machine is."""
    return sum([int(hart.steps) for hart in machine.harts])


def _steal_shown(machine: Machine) -> tuple[int, ...]:
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

    def __init__(self, history: History, checkpoint: Checkpoint, revive: Revive) -> None:
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
            if why != RAN_STEPS:
                self.run += 1
                if self.run % 64:
                    continue
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
            if why != RAN_STEPS:
                self.run += 1
                if self.run % 64:
                    continue
            yield

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

        A machine that would sleep beyond that instant is woken then, which it does not notice.
        """
        machine, scheduler = self.machine, self.machine.scheduler
        scheduler.yields = True
        count = int(machine.clock.steps_for(time_ns - self.now_ns))
        why = machine.run(run.until_ns, max(1, min(count, CHUNK_STEPS)))
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


class History:
    """What is remembered of ``machine`` since it was made. Close it.

    A snapshot is taken every ``spacing`` steps; when there are more than ``most``, every other one is
    given up and the spacing doubles.
    """

    def __init__(
        self,
        machine: Machine,
        take: Take,
        revive: Revive,
        now_ns: Callable[[], int],
        spacing: int = SPACING_STEPS,
        most: int = MAX_SNAPSHOTS,
    ) -> None:
        """ConfigError says why there can be no history. ``now_ns`` is the guest's time as its host has it."""
        for device in machine.devices:
            if device.type.live:
                raise ConfigError(
                    f"{device.io.path} may bring what cannot be repeated: no history is kept; leave "
                    "that device out, or record the host (open_host(journal=...)) and replay it"
                )
        self.machine = machine
        self.checkpoints: list[Checkpoint] = []
        self.near: list[Checkpoint] = []
        self.spacing = spacing
        self.most: Final = most
        self.arrivals: Final = Arrivals()
        self._take = take
        self._revive = revive
        self._now_ns = now_ns
        self._runs: list[Run] = []
        self._first = 0  # the number of the first of them
        self._cut = False
        self._known: int | None = (
            None  # of a guest that went back: so many checkpoints are its past
        )
        self._run = 0  # ... and it is in that run
        self._arrived = 0  # ... and so many frames have come
        self._had = 0  # so many frames the last run began with
        self.checkpoints.append(self.mark(machine, 0, fresh=True))
        machine.before_run = self._before_run
        listen(machine, self._arrives)

    def close(self) -> None:
        """Forget everything."""
        self.machine.before_run = None
        leave(self.machine)
        self._drop_all()

    def input_came(self) -> None:
        """Something comes from outside before the next run."""
        self._cut = True

    @property
    def end(self) -> tuple[int, int]:
        """The last instant that is known, as virtual time in ns and as steps."""
        if self._known is None:
            return int(self.machine.scheduler.now_ns()), total_steps(self.machine)
        return self.checkpoints[-1].now_ns, self.checkpoints[-1].steps

    def remember_end(self) -> None:
        """The guest is about to go back: what it is now is the last that is known of it."""
        if self._known is None:
            number = self._first + len(self._runs)
            self.checkpoints.append(self.mark(self.machine, number, fresh=self._cut))

    def move(self, visit: Visit, machine: Machine) -> None:
        """The guest is ``machine`` from now on, which is where ``visit`` is."""
        leave(self.machine)
        self._cut = False
        self.machine = machine
        self._known = self.checkpoints.index(visit.checkpoint) + 1
        self._run, self._arrived = visit.run, visit.arrived
        machine.before_run = self._before_run
        listen(machine, self._arrives)

    def _drop_future(self) -> None:
        """The guest runs on from where it went back to: what came after never was."""
        for checkpoint in (*self.checkpoints[self._known :], *self.near):
            checkpoint.snapshot.close()
        del self.checkpoints[self._known :]
        self.near.clear()
        del self._runs[self._run + 1 - self._first :]
        self.arrivals.forget_from(self._arrived)
        self._known = None
        self._cut = True

    def _arrives(self, card: int, time_ns: int, packet: Packet) -> None:
        """The host puts a frame on its way to a card."""
        if self._known is not None:
            self._drop_future()
        own_ns = int(self.machine.scheduler.timeline.now_ns)
        run = self._first + len(self._runs)
        self.arrivals.add(Arrival(run, self._now_ns(), own_ns, card, time_ns, packet))

    def next_fresh(self, run: int) -> Checkpoint | None:
        """The first fresh checkpoint before a later run than ``run``."""
        return next((each for each in self.checkpoints if each.fresh and each.run > run), None)

    def find(self, number: int) -> Run | None:
        """The run with that number."""
        index = number - self._first
        return self._runs[index] if 0 <= index < len(self._runs) else None

    def mark(
        self, machine: Machine, run: int, *, fresh: bool = False, arrived: int | None = None
    ) -> Checkpoint:
        """A snapshot of the guest, or of a visit to its past, to which so many frames have ``arrived``."""
        hart_steps = tuple(int(hart.steps) for hart in machine.harts)
        now_ns = int(machine.scheduler.now_ns())
        came = self.arrivals.count if arrived is None else arrived
        steps = sum(hart_steps)
        return Checkpoint(steps, hart_steps, now_ns, run, fresh, came, self._take(machine))

    def visit(self, checkpoint: Checkpoint) -> Visit:
        """A machine that is what the guest was then."""
        return Visit(self, checkpoint, self._revive)

    def before(self, instant: Callable[[Checkpoint], bool]) -> Checkpoint | None:
        """The last checkpoint for which ``instant`` holds."""
        found = [each for each in (*self.checkpoints, *self.near) if instant(each)]
        return max(found, key=lambda each: (each.steps, each.run), default=None)

    def keep_near(self, checkpoint: Checkpoint) -> None:
        """Remember an instant of the past: others near it are likely to be wanted next."""
        self.near.append(checkpoint)
        if len(self.near) > MAX_NEAR:
            self.near.pop(0).snapshot.close()

    def remember(self) -> None:
        """A checkpoint of the guest as it is now, in its last run or at the end of that."""
        self._remember(self._first + max(0, len(self._runs) - 1))

    def _remember(self, run: int) -> None:
        self.checkpoints.append(self.mark(self.machine, run))
        if len(self.checkpoints) > self.most:
            self._thin_out()

    def _before_run(self, until_ns: int) -> None:
        scheduler = self.machine.scheduler
        if self._known is not None:
            self._drop_future()
        run = Run(
            int(scheduler.timeline.now_ns),
            until_ns,
            tuple(int(granted) for granted in scheduler.granted),
            scheduler.hosted,
            scheduler.yields,
            _steal_shown(self.machine),
        )
        again = bool(self._runs) and self._runs[-1] == run and self._had == self.arrivals.count
        self._had = self.arrivals.count
        number = self._first + len(self._runs) - again
        if self._cut:
            number += again
            self._cut = again = False
            self.checkpoints.append(self.mark(self.machine, number, fresh=True))
        elif total_steps(self.machine) - self.checkpoints[-1].steps >= self.spacing:
            self._remember(number)
        if not again:
            self._runs.append(run)
        if len(self.checkpoints) > 2 * self.most or len(self._runs) > MAX_RUNS:
            self._forget_first_half()
        if self.arrivals.size_bytes > MAX_BYTES:
            self._remember(number)
            while self.arrivals.size_bytes > MAX_BYTES and len(self.checkpoints) > 1:
                self._forget_first_half()

    def _thin_out(self) -> None:
        """Every other snapshot goes, but the first, the last and the fresh."""
        self.spacing *= 2
        for checkpoint in [each for each in self.checkpoints[1:-1] if not each.fresh][::2]:
            checkpoint.snapshot.close()
        self.checkpoints = [each for each in self.checkpoints if not each.snapshot.closed]

    def _forget_first_half(self) -> None:
        kept = self.checkpoints[len(self.checkpoints) // 2 :]
        for checkpoint in (*self.checkpoints, *self.near):
            if checkpoint not in kept:
                checkpoint.snapshot.close()
        self.checkpoints = kept
        self.near.clear()
        del self._runs[: kept[0].run - self._first]
        self._first = kept[0].run
        self.arrivals.forget_before(kept[0].arrived)

    def _drop_all(self) -> None:
        for checkpoint in (*self.checkpoints, *self.near):
            checkpoint.snapshot.close()
        self.checkpoints.clear()
        self.near.clear()
