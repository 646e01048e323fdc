"""A guest's past, as far as it is kept: snapshots now and then, and how it was run between them.

A guest that nobody talks to does the same again when it is run from a snapshot over the same stretches
with the same CPUs, and the same frames come to its cards. So its past is looked at on a machine beside
it, which is revived from a snapshot and run to the instant wanted; the guest itself stays where it is.
An instant is the number of steps that all harts together have done. Frames are remembered; after any
other input from outside there is a snapshot that has it.

When the guest itself has gone back, what comes after is known still, until it is run again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from asyncvmm.base.errors import ConfigError
from asyncvmm.device import Packet
from asyncvmm.machine import RAN_ASLEEP, Machine
from asyncvmm.runtime.arrivals import MAX_BYTES, Arrival, Arrivals, leave, listen
from asyncvmm.runtime.snapshots import Snapshot, thin_out
from asyncvmm.runtime.visits import Checkpoint, Revive, Run, Visit, steal_shown, total_steps

SPACING_STEPS: Final = 10_000_000  # between snapshots, at first
MAX_SNAPSHOTS: Final = 32
MOST_SNAPSHOTS: Final = 10_000  # that may be asked for
MAX_RUNS: Final = 1_000_000  # stretches that are remembered
NEAR_STEPS: Final = 20_000  # a snapshot of the past is taken that far before an instant gone to
MAX_NEAR: Final = 8

Take = Callable[[Machine], Snapshot]


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
        """The last checkpoint for which ``instant`` holds: of two before one run that which has an input."""
        found = [each for each in (*self.near, *self.checkpoints) if instant(each)]
        return max(reversed(found), key=lambda each: (each.steps, each.run), default=None)

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
            steal_shown(self.machine),
        )
        again = bool(self._runs) and self._runs[-1] == run and self._had == self.arrivals.count
        again = again and self.machine.came_back != RAN_ASLEEP  # a visit would sleep there once
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
        spare = [each for each in self.checkpoints[1:-1] if not each.fresh]
        self.checkpoints = thin_out(self.checkpoints, spare)

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
