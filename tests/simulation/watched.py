"""The default policy, which looks at every decision on a host with real guests."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from asyncvmm.hypervisor import CpuSpec, Policy, PolicyFactory
from asyncvmm.hypervisor.eevdf import EevdfPolicy
from asyncvmm.plugin import hookimpl


class Watched(EevdfPolicy):
    """EEVDF that looks at every decision: nobody's lag is beyond a quantum, and what a guest that
    never sleeps received is at most a quantum less than its part of all weights.
    """

    def __init__(self, spec: CpuSpec) -> None:
        super().__init__(spec)
        self.decisions = 0
        self.worst = 0
        self.busy = ""
        self.shortest = Fraction(0)

    def choose(self, now_ns: int, free: list[int]) -> list[tuple[int, Any, int]]:
        """See Policy."""
        chosen = super().choose(now_ns, free)
        self.decisions += 1
        quantum = self.spec.steps_for(self.spec.quantum_ns)
        everyone = [entity.vcpu for entity in self._entities.values()]
        for vcpu in everyone:
            lag = self.lag_steps(vcpu, now_ns)
            assert lag is not None and abs(lag) <= quantum, f"{vcpu}: lag {lag} at {now_ns}"
            self.worst = max(self.worst, abs(lag))
        mine = [vcpu for vcpu in everyone if vcpu.guest.name == self.busy]
        if mine and len(free) == self.spec.cpus == 1:
            guests = {vcpu.guest for vcpu in everyone}
            part = Fraction(mine[0].guest.knobs.weight, sum(guest.knobs.weight for guest in guests))
            received = sum(vcpu.received_steps for vcpu in mine)
            short = part * self.spec.steps_for(now_ns) - received
            assert short <= quantum + 1, f"{float(short)} steps short at {now_ns}"
            self.shortest = max(self.shortest, short)
        return chosen


class Watchers:
    """A plugin that brings it, and keeps what was made."""

    def __init__(self) -> None:
        self.made: list[Watched] = []

    @hookimpl
    def asyncvmm_policies(self) -> dict[str, PolicyFactory]:
        """One policy, ``watched``."""
        return {"watched": self._make}

    def _make(self, spec: CpuSpec) -> Policy:
        self.made.append(Watched(spec))
        return self.made[-1]
