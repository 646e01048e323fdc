"""A guest's past while a debugger is attached: snapshots now and then, and how it was run between them.

A guest that nobody talks to does the same again when it is run from a snapshot over the same stretches
with the same CPUs. So its past is looked at on a machine beside it, which is revived from a snapshot
and run to the instant wanted; the guest itself stays where it is. An instant is the number of steps
that all harts together have done. After each input from outside there is a snapshot that has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.device import CharPort
from asyncvmm.machine import RAN_HALT, RAN_STEPS, RAN_STOP, Machine
from asyncvmm.runtime.snapshots import Snapshot

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


@attrs.frozen
class Run:
    """A stretch of the guest's time, and which harts had a CPU in it."""

    until_ns: int
    granted: tuple[int, ...]
    hosted: bool
    yields: bool


@attrs.frozen
class Checkpoint:
    """A snapshot at ``steps``, in the run number ``run`` or at its end.

    A ``fresh`` one is before that run, and nothing that was run before leads to it: something had
    come from outside.
    """

    steps: int
    hart_steps: tuple[int, ...]
    now_ns: int
    run: int
    fresh: bool
    snapshot: Snapshot


def _silence(port: CharPort) -> None:
    """What comes out was said before."""

    def drop() -> None:
        port.take_output()

    port.on_output = drop
    drop()


class Visit:
    """A machine in the guest's past."""

    def __init__(self, history: History, checkpoint: Checkpoint, revive: Revive) -> None:
        self.machine: Final = revive(checkpoint.snapshot)
        self.run = checkpoint.run
        self.next: Final = history.next_fresh(checkpoint.run)  # what has to be gone on with
        self._history = history
        for port in self.machine.ports.values():
            _silence(port)
        _silence(self.machine.console)

    @property
    def steps(self) -> int:
        """The instant that it has come to."""
        return total_steps(self.machine)

    def advance(self, end: int) -> Iterator[bool]:
        """Go on to the instant ``end``, to ``next``, or to where the guard halts a hart: True then.

        False comes in between, so that others may have their turn.
        """
        scheduler = self.machine.scheduler
        runs = self._history
        while True:
            left = end - self.steps
            if left <= 0 or (self.next is not None and self.run >= self.next.run):
                return
            run = runs.find(self.run)
            if run is None:
                return
            for hart, granted in enumerate(run.granted):
                scheduler.granted[hart] = granted
            scheduler.hosted, scheduler.yields = run.hosted, run.yields
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

    def close(self) -> None:
        """It is not wanted any more."""
        self.machine.ram.clear()
        for device in self.machine.devices:
            device.close()


class History:
    """What is remembered of ``machine`` since it was made. Close it."""

    def __init__(self, machine: Machine, take: Take, revive: Revive) -> None:
        """ConfigError says why there can be no history."""
        for device in machine.devices:
            if device.type.live or device.type.net(device.config) is not None:
                raise ConfigError(
                    f"{device.io.path} may bring what cannot be repeated: no history is kept"
                )
        self.machine: Final = machine
        self.checkpoints: list[Checkpoint] = []
        self.near: list[Checkpoint] = []
        self.spacing = SPACING_STEPS
        self._take = take
        self._revive = revive
        self._runs: list[Run] = []
        self._first = 0  # the number of the first of them
        self._cut = False
        self.checkpoints.append(self.mark(machine, 0, fresh=True))
        machine.before_run = self._before_run

    def close(self) -> None:
        """Forget everything."""
        self.machine.before_run = None
        self._drop_all()

    def input_came(self) -> None:
        """Something comes from outside before the next run."""
        self._cut = True

    def next_fresh(self, run: int) -> Checkpoint | None:
        """The first fresh checkpoint before a later run than ``run``."""
        return next((each for each in self.checkpoints if each.fresh and each.run > run), None)

    def find(self, number: int) -> Run | None:
        """The run with that number."""
        index = number - self._first
        return self._runs[index] if 0 <= index < len(self._runs) else None

    def mark(self, machine: Machine, run: int, *, fresh: bool = False) -> Checkpoint:
        """A snapshot of the guest, or of a visit to its past."""
        hart_steps = tuple(int(hart.steps) for hart in machine.harts)
        now_ns = int(machine.scheduler.now_ns())
        return Checkpoint(sum(hart_steps), hart_steps, now_ns, run, fresh, self._take(machine))

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
        self.checkpoints.append(self.mark(self.machine, self._first + max(0, len(self._runs) - 1)))
        if len(self.checkpoints) > MAX_SNAPSHOTS:
            self._thin_out()

    def _before_run(self, until_ns: int) -> None:
        scheduler = self.machine.scheduler
        run = Run(
            until_ns,
            tuple(int(granted) for granted in scheduler.granted),
            scheduler.hosted,
            scheduler.yields,
        )
        again = bool(self._runs) and self._runs[-1] == run
        if self._cut:
            self._cut = again = False
            number = self._first + len(self._runs)
            self.checkpoints.append(self.mark(self.machine, number, fresh=True))
        elif total_steps(self.machine) - self.checkpoints[-1].steps >= self.spacing:
            self.remember()
        if not again:
            self._runs.append(run)
        if len(self.checkpoints) > 2 * MAX_SNAPSHOTS or len(self._runs) > MAX_RUNS:
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

    def _drop_all(self) -> None:
        for checkpoint in (*self.checkpoints, *self.near):
            checkpoint.snapshot.close()
        self.checkpoints.clear()
        self.near.clear()
