"""``io.max`` of a guest: a limit for all of its disks, or for each; and what it came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.units import SECOND
from asyncvmm.device import IoRate
from asyncvmm.hypervisor.book_state import DiskRatesState, DiskRateState
from asyncvmm.hypervisor.buckets import IoLimiter
from asyncvmm.hypervisor.cpu_state import require
from asyncvmm.hypervisor.knobs import IoMax
from asyncvmm.hypervisor.ledger import DELAYED, Recorder

MAX_DISKS: Final = 64
NOUNS: Final = {"io": "disk", "net": "card"}


@attrs.frozen
class IoKnobs:
    """``max`` holds for each disk that ``disks`` (by number, in the order of the config) lacks."""

    max: IoMax | None = None
    disks: Mapping[int, IoMax] = attrs.field(factory=dict)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], family: str = "io") -> IoKnobs:
        """From ``{"io.max": "rbps=10M", "io.max.1": "wiops=500"}``; ConfigError names mistakes."""
        noun = NOUNS[family]
        every: IoMax | None = None
        disks: dict[int, IoMax] = {}
        for key, value in values.items():
            name, _, number = key.removeprefix(f"{family}.").partition(".")
            if name != "max":
                raise ConfigError(
                    f"{family}: no knob {key!r}: there are {family}.max and "
                    f"{family}.max.N for {noun} N"
                )
            limits = _io_max(value)
            if not number:
                every = limits
            elif number.isdecimal() and int(number) < MAX_DISKS:
                disks[int(number)] = limits
            else:
                raise ConfigError(f"{key}: {noun}s are numbered 0 to {MAX_DISKS - 1}")
        return cls(every, disks)

    def of(self, disk: int) -> IoMax | None:
        """The limits of disk number ``disk``."""
        return self.disks.get(disk, self.max)


def _io_max(value: Any) -> IoMax:
    if isinstance(value, IoMax):
        return value
    if isinstance(value, Mapping):
        return IoMax.from_mapping(value)
    return IoMax() if value in (None, "max") else IoMax.parse(str(value))


@attrs.frozen
class DiskUsage:
    """How many requests of a disk waited for ``io.max``, and how long together."""

    disk: str
    delayed: int
    delayed_ns: int


class DiskRate(IoRate):
    """The limiter of one disk, which may come and go. It counts in its guest's time."""

    def __init__(self, disk: str, rates: DiskRates) -> None:
        super().__init__()
        self.disk: Final = disk
        self.limiter: IoLimiter | None = None
        self.delayed = 0
        self.delayed_ns = 0
        self._rates = rates

    def change(self, now_ns: int, limits: IoMax | None) -> None:
        """Other limits from now on; None for none."""
        if limits is None:
            self.limiter = None
        elif self.limiter is None:
            self.limiter = IoLimiter(limits, now_ns)
        elif limits != self.limiter.limits:
            self.limiter.update(now_ns, limits)

    def take(self, now_ns: int, size_bytes: int, write: bool) -> int:
        """See IoRate."""
        if self.limiter is None:
            return now_ns
        ready = self.limiter.take(now_ns, size_bytes, write=write)
        if ready > now_ns:
            self.delayed += 1
            self.delayed_ns += ready - now_ns
            self._rates.note(self, now_ns, ready)
        return ready

    def ready_at(self, now_ns: int, size_bytes: int, write: bool) -> int:
        """See IoRate."""
        if self.limiter is None:
            return now_ns
        return self.limiter.ready_at(now_ns, size_bytes, write=write)

    def tokens(self) -> list[int]:
        """See IoRate: the buckets' rates, credits and times."""
        if self.limiter is None:
            return []
        state = self.limiter.state()
        buckets = (state.read_bytes, state.read_ops, state.write_bytes, state.write_ops)
        return [
            number
            for bucket in buckets
            for number in ((0,) if bucket is None else attrs.astuple(bucket))
        ]

    def state(self) -> DiskRateState:
        """Tokens and counters, as a value."""
        limiter = None if self.limiter is None else self.limiter.state()
        return DiskRateState(self.disk, self.delayed, self.delayed_ns, limiter)


class DiskRates:
    """The disks of one guest (or, for the family "net", its cards), which came to its host at
    ``since_ns``.
    """

    def __init__(
        self,
        guest: str,
        disks: Sequence[str],
        record: Recorder,
        since_ns: int,
        family: str = "io",
    ) -> None:
        self.disks: Final = [DiskRate(disk, self) for disk in disks]
        self._family = family
        self._guest = guest
        self._record = record
        self.since_ns = since_ns
        self._noted = -1  # the second of the last event

    def check(self, knobs: IoKnobs) -> None:
        """ConfigError when the knobs name a disk that is not there."""
        for number in knobs.disks:
            if number >= len(self.disks):
                raise ConfigError(
                    f"{self._family}.max.{number}: guest {self._guest} has "
                    f"{len(self.disks)} {NOUNS[self._family]}s"
                )

    def change(self, now_ns: int, knobs: IoKnobs) -> None:
        """Other limits from the guest's time ``now_ns`` on; ConfigError changes nothing."""
        self.check(knobs)
        for number, rate in enumerate(self.disks):
            rate.change(now_ns, knobs.of(number))

    def note(self, rate: DiskRate, now_ns: int, ready_ns: int) -> None:
        """The ledger hears of the first delay of a guest in each second."""
        time_ns = now_ns + self.since_ns
        if time_ns // SECOND != self._noted:
            self._noted = time_ns // SECOND
            wait_us = (ready_ns - now_ns) // 1000
            self._record(
                time_ns,
                DELAYED,
                self._guest,
                f"{self._family}.max: {rate.disk} waits for {wait_us} us",
            )

    def state(self) -> DiskRatesState:
        """The tokens of all disks and what was told to the ledger, as a value."""
        return DiskRatesState(
            self.since_ns, self._noted, tuple(rate.state() for rate in self.disks)
        )

    def restore(self, state: DiskRatesState) -> None:
        """Go on where ``state`` was taken, for the same disks, limits included.

        ConfigError, with nothing changed, when anything about it is wrong.
        """
        names = [rate.disk for rate in self.disks]
        require([saved.disk for saved in state.disks] == names, f"the disks are {names}")
        limiters = [
            None if saved.limiter is None else IoLimiter.from_state(saved.limiter)
            for saved in state.disks
        ]
        for rate, saved, limiter in zip(self.disks, state.disks, limiters, strict=True):
            rate.limiter = limiter
            rate.delayed = saved.delayed
            rate.delayed_ns = saved.delayed_ns
        self.since_ns = state.since_ns
        self._noted = state.noted_second

    def usage(self) -> tuple[DiskUsage, ...]:
        """Of each disk, so far."""
        return tuple(DiskUsage(rate.disk, rate.delayed, rate.delayed_ns) for rate in self.disks)
