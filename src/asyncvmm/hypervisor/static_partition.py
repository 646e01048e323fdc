"""Static partition: fixed slots in a repeating frame, for hard isolation.

When a guest may run depends on its own slots alone: neighbours cannot be felt, neither by what they
do nor by what they leave. A slot whose owner sleeps stays empty. The price is that idle time is
nobody's gain. Slots are given first fit in the order of admission and never moved; a guest that has a
CPU of its own (``cpuset.cpus``) gets the same slots whoever came before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

import attrs

from asyncvmm.hypervisor.admission import AdmissionError
from asyncvmm.hypervisor.cpu_state import require
from asyncvmm.hypervisor.knobs import MILLI
from asyncvmm.hypervisor.policy import Policy
from asyncvmm.hypervisor.vcpu import WAITING, CpuSpec, GuestCpus, Vcpu
from asyncvmm.plugin import VersionedState
from asyncvmm.timeline.events import FOREVER

FRAME_SLOTS: Final = 100  # slots per CPU and frame: each is 10 thousandths of the CPU

# The order in which slots are given: neighbours in it lie far apart in time, at the golden section.
_STRIDE: Final = 61
_SCATTERED: Final = [number * _STRIDE % FRAME_SLOTS for number in range(FRAME_SLOTS)]


@attrs.frozen
class StaticPartitionState(VersionedState):
    """``slots`` are (pcpu, slot, guest's order, vCPU's number)."""

    version: ClassVar[int] = 1

    slots: tuple[tuple[int, int, int, int], ...]


class StaticPartitionPolicy(Policy):
    """``cpu.reserve`` of each guest, rounded up to slots and divided among its vCPUs, and no more.

    A slot is a quantum long and aligned to time 0.
    """

    isolates: ClassVar[bool] = True

    def __init__(self, spec: CpuSpec) -> None:
        super().__init__(spec)
        self._owners: list[list[Vcpu | None]] = [[None] * FRAME_SLOTS for _ in range(spec.cpus)]
        self._ready: set[tuple[int, int]] = set()

    def admit(self, guest: GuestCpus, now_ns: int) -> None:
        """See Policy: finds the slots."""
        self._allot(guest)

    def leave(self, guest: GuestCpus, now_ns: int) -> None:
        """See Policy."""
        self._release(guest)

    def change(self, guest: GuestCpus, now_ns: int) -> None:
        """See Policy. With the same reservation and cpuset the slots stay."""
        before = [row.copy() for row in self._owners]
        wanted = _slots_of(guest)
        held = sum(1 for row in before for owner in row if owner and owner.guest is guest)
        moved = any(
            owner is not None and owner.guest is guest and pcpu not in guest.allowed
            for pcpu, row in enumerate(before)
            for owner in row
        )
        if held == sum(wanted) and not moved:
            return
        self._release(guest)
        try:
            self._allot(guest)
        except AdmissionError:
            self._owners = before
            raise

    def ready(self, vcpu: Vcpu, now_ns: int) -> None:
        """See Policy."""
        self._ready.add(vcpu.order)

    def blocked(self, vcpu: Vcpu, now_ns: int) -> None:
        """See Policy."""
        self._ready.discard(vcpu.order)

    def started(self, vcpu: Vcpu, now_ns: int) -> None:
        """See Policy."""
        self._ready.discard(vcpu.order)

    def stopped(self, vcpu: Vcpu, now_ns: int, steps: int) -> None:
        """See Policy."""
        self._ready.add(vcpu.order)

    def choose(self, now_ns: int, free: list[int]) -> list[tuple[int, Vcpu, int]]:
        """See Policy: the owners of the slots of this moment, until their slots end."""
        number = now_ns // self.spec.quantum_ns
        steps = self.spec.steps_for((number + 1) * self.spec.quantum_ns - now_ns)
        if steps <= 0:
            return []
        slot = number % FRAME_SLOTS
        chosen = []
        for pcpu in free:
            owner = self._owners[pcpu][slot]
            if owner is not None and owner.order in self._ready:
                chosen.append((pcpu, owner, steps))
        return chosen

    def next_ns(self, now_ns: int) -> int:
        """See Policy: the next slot of someone who is ready."""
        if not self._ready:
            return FOREVER
        number = now_ns // self.spec.quantum_ns
        for ahead in range(1, FRAME_SLOTS + 1):
            slot = (number + ahead) % FRAME_SLOTS
            for row in self._owners:
                owner = row[slot]
                if owner is not None and owner.order in self._ready:
                    return (number + ahead) * self.spec.quantum_ns
        return FOREVER

    def slots(self, guest: GuestCpus) -> list[tuple[int, int, int]]:
        """(pcpu, slot, vCPU's number) of every slot of ``guest``."""
        return [
            (pcpu, slot, owner.number)
            for pcpu, row in enumerate(self._owners)
            for slot, owner in enumerate(row)
            if owner is not None and owner.guest is guest
        ]

    def state(self) -> StaticPartitionState:
        """See Policy."""
        return StaticPartitionState(
            tuple(
                (pcpu, slot, *owner.order)
                for pcpu, row in enumerate(self._owners)
                for slot, owner in enumerate(row)
                if owner is not None
            )
        )

    def restore(self, saved: Mapping[str, Any], guests: Mapping[str, GuestCpus]) -> None:
        """See Policy."""
        state = StaticPartitionState.load(saved)
        vcpus = {vcpu.order: vcpu for guest in guests.values() for vcpu in guest.vcpus}
        owners: list[list[Vcpu | None]] = [[None] * FRAME_SLOTS for _ in range(self.spec.cpus)]
        counts = dict.fromkeys(vcpus, 0)
        for pcpu, slot, order, number in state.slots:
            owner = vcpus.get((order, number))
            require(owner is not None, "a slot of a vCPU that is not there")
            assert owner is not None
            require(0 <= pcpu < self.spec.cpus and 0 <= slot < FRAME_SLOTS, "no such slot")
            require(owners[pcpu][slot] is None, "a slot with two owners")
            require(pcpu in owner.guest.allowed, "a slot outside the cpuset")
            require(all(row[slot] is not owner for row in owners), "two slots at one moment")
            owners[pcpu][slot] = owner
            counts[owner.order] += 1
        for guest in guests.values():
            held = [counts[vcpu.order] for vcpu in guest.vcpus]
            require(held == _slots_of(guest), f"{guest.name} has other slots than it reserved")
        self._owners = owners
        self._ready = {order for order, vcpu in vcpus.items() if vcpu.state == WAITING}

    def _allot(self, guest: GuestCpus) -> None:
        if guest.knobs.reserve <= 0:
            raise AdmissionError(
                guest.name, "cpu", 1, 0, "mCPU",
                "static-partition runs guests in reserved slots only: set cpu.reserve",
            )  # fmt: skip
        found: list[tuple[int, int, Vcpu]] = []
        # Row after row: a vCPU that does not fit into the rest of one goes on in the next at other
        # moments, as in McNaughton's rule, so that no space is lost while guests only come.
        free = [
            (pcpu, slot)
            for pcpu in sorted(guest.allowed)
            for slot in _SCATTERED
            if self._owners[pcpu][slot] is None
        ]
        for vcpu, count in zip(guest.vcpus, _slots_of(guest), strict=True):
            busy: set[int] = set()
            rest: list[tuple[int, int]] = []
            for pcpu, slot in free:
                if len(busy) < count and slot not in busy:
                    busy.add(slot)
                    found.append((pcpu, slot, vcpu))
                else:
                    rest.append((pcpu, slot))
            free = rest
            if len(busy) < count:
                available = len(found) * MILLI // FRAME_SLOTS
                raise AdmissionError(
                    guest.name, "cpu", max(guest.knobs.reserve, available + 1), available,
                    "mCPU", "the other slots of the frame are taken: ask for less",
                )  # fmt: skip
        for pcpu, slot, vcpu in found:
            self._owners[pcpu][slot] = vcpu

    def _release(self, guest: GuestCpus) -> None:
        for row in self._owners:
            for slot, owner in enumerate(row):
                if owner is not None and owner.guest is guest:
                    row[slot] = None


def _slots_of(guest: GuestCpus) -> list[int]:
    """How many slots each vCPU gets: the reservation rounded up, as even as can be, one at least."""
    total = max(-(-guest.knobs.reserve * FRAME_SLOTS // MILLI), len(guest.vcpus))
    each, more = divmod(total, len(guest.vcpus))
    return [each + (1 if vcpu.number < more else 0) for vcpu in guest.vcpus]
