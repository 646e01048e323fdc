"""What a snapshot of a whole host is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
from attrs.validators import ge, gt

from asyncvmm.hypervisor import CpusState, HostMemoryState, LedgerState
from asyncvmm.network import NetworkConfig
from asyncvmm.plugin import VersionedState
from asyncvmm.runtime.saved import SavedGuest

_COUNT = ge(0)


@attrs.frozen
class HostSettings(VersionedState):
    """What ``open_host`` was given, as far as guests can see it, and whether the run was live."""

    version: ClassVar[int] = 1

    cpus: int = attrs.field(validator=gt(0))
    mips: int = attrs.field(validator=gt(0))
    quantum_ns: int = attrs.field(validator=gt(0))
    memory_bytes: int = attrs.field(validator=gt(0))
    overcommit: bool
    policy: str
    seed: int
    live: bool


@attrs.frozen
class PlaceState(VersionedState):
    """A guest at the conductor. ``slices`` are (hart, steps it had done, steps granted, end in ns)."""

    version: ClassVar[int] = 1

    guest: str
    since_ns: int
    lived_ns: int = attrs.field(validator=_COUNT)
    slices: tuple[tuple[int, int, int, int], ...]


@attrs.frozen
class ConductorState(VersionedState):
    """The conductor between two stretches: the guests in the order in which they came."""

    version: ClassVar[int] = 1

    now_ns: int = attrs.field(validator=_COUNT)
    roomy: bool
    contended: bool
    places: tuple[PlaceState, ...]


@attrs.frozen
class ResidentState(VersionedState):
    """A guest as its host knows it. ``max_steps`` is -1 for no limit; ``knobs`` are (name, value)."""

    version: ClassVar[int] = 1

    name: str
    max_steps: int = attrs.field(validator=ge(-1))
    knobs: tuple[tuple[str, Any], ...]


@attrs.frozen
class HostBooks(VersionedState):
    """Everything of a host that is small: settings, clock, and the books of the policy."""

    version: ClassVar[int] = 1

    settings: HostSettings
    conductor: ConductorState
    cpus: CpusState
    memory: HostMemoryState
    ledger: LedgerState
    guests: tuple[ResidentState, ...]


@attrs.frozen(eq=False)
class SavedHost:
    """A host at one instant. ``guests`` are in the order of ``books.guests``; ``networks`` is what
    ``Networks.save`` gave, ``configs`` what they were made of.
    """

    books: HostBooks
    configs: Mapping[str, NetworkConfig]
    networks: Mapping[str, Any]
    guests: tuple[SavedGuest, ...]

    def close(self) -> None:
        """Give back pages and disks of all guests."""
        for guest in self.guests:
            guest.close()
