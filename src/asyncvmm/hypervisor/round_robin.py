"""Round robin: one after the other, a quantum each. Weights do not count, caps and cpusets do."""

from __future__ import annotations

from asyncvmm.hypervisor.admission import AdmissionError
from asyncvmm.hypervisor.placement import place
from asyncvmm.hypervisor.policy import Policy
from asyncvmm.hypervisor.vcpu import CpuSpec, GuestCpus, Vcpu


class RoundRobinPolicy(Policy):
    """A queue of ready vCPUs. It promises nothing, so it admits no reservation."""

    def __init__(self, spec: CpuSpec) -> None:
        super().__init__(spec)
        self._steps = max(spec.steps_for(spec.quantum_ns), 1)
        self._queue: list[Vcpu] = []

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

    def ready(self, vcpu: Vcpu, now_ns: int) -> None:
        """See Policy."""
        self._queue.append(vcpu)

    def blocked(self, vcpu: Vcpu, now_ns: int) -> None:
        """See Policy."""
        self._queue.remove(vcpu)

    def choose(self, now_ns: int, free: list[int]) -> list[tuple[int, Vcpu, int]]:
        """See Policy."""
        pairs = place([(vcpu, vcpu.guest.mask) for vcpu in self._queue], free)
        return [(pcpu, vcpu, self._steps) for pcpu, vcpu in pairs]

    def started(self, vcpu: Vcpu, now_ns: int) -> None:
        """See Policy."""
        self._queue.remove(vcpu)

    def stopped(self, vcpu: Vcpu, now_ns: int, steps: int) -> None:
        """See Policy."""
        self._queue.append(vcpu)
