"""Round robin: one after the other, a quantum each. Weights do not count, caps and cpusets do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import attrs
from attrs.validators import ge

from asyncvmm.hypervisor.admission import AdmissionError
from asyncvmm.hypervisor.cpu_state import require
from asyncvmm.hypervisor.placement import place
from asyncvmm.hypervisor.policy import Policy
from asyncvmm.hypervisor.vcpu import WAITING, CpuSpec, GuestCpus, Vcpu
from asyncvmm.plugin import VersionedState


@attrs.frozen
class RoundRobinState(VersionedState):
    """``last_turns`` are (guest's order, vCPU's number, turn)."""

    version: ClassVar[int] = 1

    turn: int = attrs.field(validator=ge(0))
    last_turns: tuple[tuple[int, int, int], ...]


class RoundRobinPolicy(Policy):
    """Whose last turn is longest ago comes first. It promises nothing, so it admits no reservation.

    (A queue in the order of stopping would favour the same ones for ever among those that stop
    together.)
    """

    def __init__(self, spec: CpuSpec) -> None:
        super().__init__(spec)
        self._steps = max(spec.steps_for(spec.quantum_ns), 1)
        self._ready: dict[tuple[int, int], Vcpu] = {}
        self._last_turn: dict[tuple[int, int], int] = {}
        self._turn = 0

    def admit(self, guest: GuestCpus, now_ns: int) -> None:
        """See Policy."""
        if guest.knobs.reserve:
            raise AdmissionError(
                guest.name, "cpu", guest.knobs.reserve, 0, "mCPU",
                "round-robin keeps no reservations: use eevdf or static-partition",
            )  # fmt: skip

    def change(self, guest: GuestCpus, now_ns: int) -> None:
        """See Policy."""
        self.admit(guest, now_ns)

    def leave(self, guest: GuestCpus, now_ns: int) -> None:
        """See Policy."""
        for vcpu in guest.vcpus:
            self._last_turn.pop(vcpu.order, None)

    def ready(self, vcpu: Vcpu, now_ns: int) -> None:
        """See Policy."""
        self._ready[vcpu.order] = vcpu

    def blocked(self, vcpu: Vcpu, now_ns: int) -> None:
        """See Policy."""
        del self._ready[vcpu.order]

    def choose(self, now_ns: int, free: list[int]) -> list[tuple[int, Vcpu, int]]:
        """See Policy."""
        last = self._last_turn
        queue = sorted((last.get(order, 0), order) for order in self._ready)
        waiting = [self._ready[order] for _, order in queue]
        pairs = place([(vcpu, vcpu.guest.mask) for vcpu in waiting], free)
        chosen = {vcpu.order for _, vcpu in pairs}
        for _, order in queue:  # turns are counted in the order of the queue, not of the CPUs
            if order in chosen:
                self._turn += 1
                last[order] = self._turn
        return [(pcpu, vcpu, self._steps) for pcpu, vcpu in pairs]

    def started(self, vcpu: Vcpu, now_ns: int) -> None:
        """See Policy."""
        del self._ready[vcpu.order]

    def stopped(self, vcpu: Vcpu, now_ns: int, steps: int) -> None:
        """See Policy."""
        self._ready[vcpu.order] = vcpu

    def state(self) -> RoundRobinState:
        """See Policy."""
        turns = tuple((*order, turn) for order, turn in sorted(self._last_turn.items()))
        return RoundRobinState(self._turn, turns)

    def restore(self, saved: Mapping[str, Any], guests: Mapping[str, GuestCpus]) -> None:
        """See Policy."""
        state = RoundRobinState.load(saved)
        vcpus = {vcpu.order: vcpu for guest in guests.values() for vcpu in guest.vcpus}
        last = {(order, number): turn for order, number, turn in state.last_turns}
        require(last.keys() <= vcpus.keys(), "a turn of a vCPU that is not there")
        require(all(0 < turn <= state.turn for turn in last.values()), "a turn that has not been")
        require(all(guest.knobs.reserve == 0 for guest in guests.values()), "a reservation")
        self._ready = {order: vcpu for order, vcpu in vcpus.items() if vcpu.state == WAITING}
        self._last_turn = last
        self._turn = state.turn
