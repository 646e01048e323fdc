"""Round robin: one after the other, a quantum each. Weights do not count, caps and cpusets do."""

from __future__ import annotations

from asyncvmm.hypervisor.admission import AdmissionError
from asyncvmm.hypervisor.placement import place
from asyncvmm.hypervisor.policy import Policy
from asyncvmm.hypervisor.vcpu import CpuSpec, GuestCpus, Vcpu


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
