"""What a snapshot keeps of the other books, as values: ledger, memory, disk rates."""

from __future__ import annotations

from typing import ClassVar

import attrs
from attrs.validators import ge, gt, max_len

from asyncvmm.hypervisor.cpu_state import require
from asyncvmm.hypervisor.knobs import IoMax, MemoryKnobs
from asyncvmm.plugin import VersionedState

_COUNT = ge(0)


@attrs.frozen
class LedgerEventState(VersionedState):
    """LedgerEvent."""

    version: ClassVar[int] = 1

    time_ns: int = attrs.field(validator=_COUNT)
    sequence: int = attrs.field(validator=_COUNT)
    kind: str
    guest: str
    cause: str


@attrs.frozen
class LedgerState(VersionedState):
    """Ledger: the kept events in order; ``counts`` are (guest, kind, how many)."""

    version: ClassVar[int] = 1

    sequence: int = attrs.field(validator=_COUNT)
    events_per_kind: int = attrs.field(validator=gt(0))
    events: tuple[LedgerEventState, ...]
    counts: tuple[tuple[str, str, int], ...]


@attrs.frozen
class MemoryKnobsState(VersionedState):
    """MemoryKnobs, in bytes."""

    version: ClassVar[int] = 1

    max: int | None
    high: int | None
    low: int = attrs.field(validator=_COUNT)

    @classmethod
    def of(cls, knobs: MemoryKnobs) -> MemoryKnobsState:
        """The knobs as plain data."""
        return cls(knobs.max, knobs.high, knobs.low)

    def knobs(self) -> MemoryKnobs:
        """The knobs; ConfigError when there are no such."""
        knobs = MemoryKnobs(self.max, self.high, self.low)
        require(MemoryKnobsState.of(knobs) == self, "memory knobs are whole pages")
        return knobs


@attrs.frozen
class GuestMemoryState(VersionedState):
    """One guest of HostMemory."""

    version: ClassVar[int] = 1

    name: str
    order: int = attrs.field(validator=_COUNT)
    ram_pages: int = attrs.field(validator=gt(0))
    knobs: MemoryKnobsState
    private: int = attrs.field(validator=_COUNT)
    shared: int = attrs.field(validator=_COUNT)
    group: str
    above_high: bool


@attrs.frozen
class HostMemoryState(VersionedState):
    """HostMemory: ``groups`` are (trust group, pages that it keeps)."""

    version: ClassVar[int] = 1

    capacity_pages: int
    overcommit: bool
    next_order: int = attrs.field(validator=_COUNT)
    guests: tuple[GuestMemoryState, ...]
    groups: tuple[tuple[str, int], ...]

    def check(self) -> None:
        """ConfigError when it contradicts itself."""
        names = [guest.name for guest in self.guests]
        orders = [guest.order for guest in self.guests]
        require(len(set(names)) == len(names), "two guests have one name")
        require(len(set(orders)) == len(orders), "two guests have one place in the order")
        require(all(order < self.next_order for order in orders), "a place is given twice")
        members = {guest.group for guest in self.guests} - {""}
        groups = [group for group, _ in self.groups]
        require(len(set(groups)) == len(groups), "a trust group is there twice")
        require(members >= set(groups), "a trust group without guests")
        require(all(pages >= 0 for _, pages in self.groups), "a trust group owes pages")


@attrs.frozen
class BucketState(VersionedState):
    """TokenBucket: ``credit`` in 1/1,000,000,000 of a unit, below zero for what is owed."""

    version: ClassVar[int] = 1

    rate: int = attrs.field(validator=gt(0))
    depth_ns: int = attrs.field(validator=_COUNT)
    credit: int
    time_ns: int = attrs.field(validator=_COUNT)


@attrs.frozen
class IoMaxState(VersionedState):
    """IoMax."""

    version: ClassVar[int] = 1

    rbps: int | None
    wbps: int | None
    riops: int | None
    wiops: int | None
    burst_bytes: int
    burst_ops: int

    @classmethod
    def of(cls, limits: IoMax) -> IoMaxState:
        """The limits as plain data."""
        return cls(**attrs.asdict(limits))

    def limits(self) -> IoMax:
        """The limits; ConfigError when there are no such."""
        limits = IoMax(**{field.name: getattr(self, field.name) for field in attrs.fields(IoMax)})
        require(IoMaxState.of(limits) == self, "io.max is whole numbers")
        return limits


@attrs.frozen
class LimiterState(VersionedState):
    """IoLimiter."""

    version: ClassVar[int] = 1

    limits: IoMaxState
    delayed: int = attrs.field(validator=_COUNT)
    delayed_ns: int = attrs.field(validator=_COUNT)
    read_bytes: BucketState | None
    read_ops: BucketState | None
    write_bytes: BucketState | None
    write_ops: BucketState | None


@attrs.frozen
class DiskRateState(VersionedState):
    """DiskRate: ``disk`` is the device's path."""

    version: ClassVar[int] = 1

    disk: str = attrs.field(validator=max_len(4096))
    delayed: int = attrs.field(validator=_COUNT)
    delayed_ns: int = attrs.field(validator=_COUNT)
    limiter: LimiterState | None


@attrs.frozen
class DiskRatesState(VersionedState):
    """DiskRates of one guest."""

    version: ClassVar[int] = 1

    since_ns: int  # below zero when the guest is older than its host
    noted_second: int = attrs.field(validator=ge(-1))
    disks: tuple[DiskRateState, ...]
