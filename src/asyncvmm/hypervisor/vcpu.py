"""What is scheduled: the vCPUs of a guest, and what the guest has used. Plain records.

Time is virtual ns. Service is counted in steps (instructions and traps), and in parts where both
steps and ns must be whole: a step is 1000 parts, a nanosecond of a CPU is ``mips`` parts.
"""

from __future__ import annotations

from typing import Final

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.units import US
from asyncvmm.hypervisor.knobs import MAX_CPUS, CpuKnobs, CpuMax

# Where a vCPU is.
ASLEEP: Final = 0
WAITING: Final = 1  # runnable, but no physical CPU runs it: this is steal time
PARKED: Final = 2  # as WAITING, because the pool of cpu.max is empty
RUNNING: Final = 3

PARTS_PER_STEP: Final = 1000


@attrs.frozen
class CpuSpec:
    """The simulated host's CPUs: ``cpus`` of ``mips`` million steps per second each.

    ``quantum_ns`` is the longest slice, and what fairness is measured in.
    """

    cpus: int = 1
    mips: int = 1000
    quantum_ns: int = 1_000_000

    def __attrs_post_init__(self) -> None:
        if not 1 <= self.cpus <= MAX_CPUS:
            raise ConfigError(f"cpus must be 1 to {MAX_CPUS}, not {self.cpus}")
        if not 1 <= self.mips <= 1_000_000:
            raise ConfigError(f"mips must be 1 to 1000000, not {self.mips}")
        if not 1_000 <= self.quantum_ns <= 1_000_000_000:
            raise ConfigError(f"quantum_ns must be 1000 to 1000000000, not {self.quantum_ns}")

    def steps_for(self, ns: int) -> int:
        """Whole steps that fit into ``ns`` on one CPU."""
        return ns * self.mips // PARTS_PER_STEP

    def ns_for(self, steps: int) -> int:
        """How long ``steps`` take on one CPU, in whole ns (rounded up)."""
        return -(-steps * PARTS_PER_STEP // self.mips)


@attrs.frozen
class Grant:
    """``vcpu`` may run at most ``steps`` (> 0) on physical CPU ``pcpu`` from now on."""

    pcpu: int
    vcpu: Vcpu
    steps: int
    slice_ns: int


@attrs.frozen
class CpuUsage:
    """What a guest's vCPUs got, as cpu.stat has it. ``entitled_steps`` is None for policies that
    do not measure it.
    """

    received_steps: int
    entitled_steps: int | None
    received_ns: int
    steal_ns: int
    throttled_ns: int
    periods: int
    throttled_periods: int


class BudgetPool:
    """``cpu.max`` of one guest: steps that its vCPUs share within a period aligned to time 0."""

    def __init__(self, limit: CpuMax, spec: CpuSpec, now_ns: int) -> None:
        self.limit = limit
        self.quota_steps: int = limit.quota_us * spec.mips
        self.period_ns: int = limit.period_us * US
        self.period: int = now_ns // self.period_ns
        self.left_steps: int = self.quota_steps
        self.periods: int = 1
        self.throttled_periods: int = 0
        self.throttled: bool = False

    def end_ns(self) -> int:
        """When the period ends."""
        return (self.period + 1) * self.period_ns

    def refill(self, now_ns: int) -> bool:
        """Start the period of ``now_ns`` if it is a new one: the whole quota, nothing kept."""
        period = now_ns // self.period_ns
        if period == self.period:
            return False
        self.period = period
        self.left_steps = self.quota_steps
        self.periods += 1
        self.throttled = False
        return True


class GuestCpus:
    """A guest as the CPU scheduler knows it: its knobs, its vCPUs and its pool."""

    __slots__ = ("allowed", "knobs", "mask", "name", "order", "pool", "vcpus")

    def __init__(self, name: str, order: int, knobs: CpuKnobs, spec: CpuSpec) -> None:
        self.name = name
        self.order = order
        self.vcpus: list[Vcpu] = []
        self.pool: BudgetPool | None = None
        self.set_knobs(knobs, spec)

    def set_knobs(self, knobs: CpuKnobs, spec: CpuSpec) -> None:
        """Replace the knobs; the pool is the caller's."""
        self.knobs = knobs
        everyone = frozenset(range(spec.cpus))
        self.allowed = everyone if knobs.cpuset_cpus is None else knobs.cpuset_cpus & everyone
        self.mask = sum(1 << cpu for cpu in self.allowed)


class Vcpu:
    """One vCPU. ``order`` is unique per host and decides ties: by guest, then by number."""

    __slots__ = (
        "budget_steps",
        "guest",
        "number",
        "order",
        "pcpu",
        "period",
        "received_steps",
        "since_ns",
        "state",
        "steal_ns",
        "throttled_ns",
    )

    def __init__(self, guest: GuestCpus, number: int) -> None:
        self.guest = guest
        self.number = number
        self.order = (guest.order, number)
        self.state = ASLEEP
        self.pcpu = -1  # where it runs, or ran last
        self.since_ns = 0  # since when it is in its state
        self.budget_steps = 0  # of the slice that it runs
        self.period = 0  # of the pool that the slice was paid from
        self.received_steps = 0
        self.steal_ns = 0
        self.throttled_ns = 0

    def __repr__(self) -> str:
        return f"<vCPU {self.guest.name}.{self.number}>"
