"""The host's trust groups: their stores of shared pages, and the walk that finds equal ones.

Sharing has its turn between two stretches, when no guest runs, at multiples of ``INTERVAL_NS`` of
virtual time. It changes no byte that a guest has, so no digest either.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Final

import attrs

from asyncvmm.base.units import MS
from asyncvmm.hypervisor.memory import HostMemory
from asyncvmm.hypervisor.sharing import MergePace
from asyncvmm.machine import Machine
from asyncvmm.memory.merge import Merger

INTERVAL_NS: Final = 10 * MS
TRIM_PAGES: Final = 2048  # given up since the process gave memory back to its system


@attrs.define(eq=False)
class _Group:
    merger: Merger
    guests: int = 0  # those that are being built are among them


@attrs.define(eq=False)
class _Member:
    group: str
    machine: Machine
    merger: Merger
    pace: MergePace


@attrs.frozen
class GroupUsage:
    """Pages that a trust group keeps, references to them, and what came of the walks so far."""

    kept_pages: int
    references: int
    looked_pages: int
    merged_pages: int
    zero_pages: int


class Sharing:
    """Which guests share with whom. A group lives as long as it has guests."""

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}
        self._members: dict[str, _Member] = {}
        self._interval = 0  # the number of the one that was served last
        self._ran: set[str] = set()  # since then
        self._given_up = 0  # pages since the last trim

    def enter(self, group: str | None) -> Merger | None:
        """A place in ``group`` for a guest that is to be built; None for a guest of its own."""
        if group is None:
            return None
        found = self._groups.setdefault(group, _Group(Merger()))
        found.guests += 1
        return found.merger

    def abandon(self, group: str | None, machine: Machine | None) -> None:
        """The guest that ``enter`` was called for does not come; its pages go."""
        if group is None:
            return
        found = self._groups[group]
        if machine is not None:
            found.merger.forget(machine.ram)
        found.guests -= 1
        if not found.guests:
            del self._groups[group]

    def join(self, machine: Machine) -> None:
        """The guest is there, and has taken the place that ``enter`` gave it."""
        config = machine.config
        if config.trust_group is not None:
            merger = self._groups[config.trust_group].merger
            member = _Member(config.trust_group, machine, merger, MergePace())
            self._members[machine.name] = member

    def leave(self, name: str) -> None:
        """The guest has ended: what it still holds counts for nobody. Nothing for one of its own."""
        member = self._members.pop(name, None)
        if member is not None:
            self.abandon(member.group, member.machine)

    def serve(self, now_ns: int, memory: HostMemory, ran: Sequence[str]) -> None:
        """Look for equal pages if it is time to, and count what those have that ``ran`` since."""
        if not self._members:
            return
        self._ran.update(ran)
        interval = now_ns // INTERVAL_NS
        if interval != self._interval:
            self._interval = interval
            # Whoever has not run has earned no look. In the order in which they came.
            ran = [name for name in self._members if name in self._ran]
            self._ran.clear()
            for name in ran:
                self._walk(self._members[name])
            if self._given_up >= TRIM_PAGES:
                self._given_up = 0
                trim()
        for name in ran:
            if name not in self._members:
                continue
            member = self._members[name]
            ram = member.machine.ram
            memory.set_private(name, int(ram.resident - ram.shared))
            memory.set_shared(name, int(ram.shared))
            memory.set_group(member.group, int(member.merger.shared_pages.count))

    def usage(self, group: str) -> GroupUsage | None:
        """What a group keeps; None when no guest is in it."""
        found = self._groups.get(group)
        if found is None:
            return None
        merger = found.merger
        return GroupUsage(
            int(merger.shared_pages.count),
            int(merger.shared_pages.references),
            int(merger.looked),
            int(merger.merged),
            int(merger.zeros),
        )

    def _walk(self, member: _Member) -> None:
        machine = member.machine
        steps = sum([int(hart.steps) for hart in machine.harts])
        start, pages = member.pace.budget(steps, int(machine.ram.resident))
        if pages:
            merger = member.merger
            before = int(merger.merged + merger.zeros)
            position = int(merger.scan(machine.ram, start, pages))
            self._given_up += int(merger.merged + merger.zeros) - before
            member.pace.reached(steps, position)


def trim() -> None:
    """Let the C library give free memory back to the system, where it can be asked to (glibc)."""
    try:
        malloc_trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    malloc_trim(0)
