"""What a snapshot keeps of the books of the CPUs, as values; ``Cpus`` makes and takes them."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
from attrs.validators import ge, gt, in_, instance_of

from asyncvmm.base.errors import ConfigError
from asyncvmm.hypervisor.knobs import CpuKnobs, CpuMax
from asyncvmm.hypervisor.vcpu import (
    ASLEEP,
    PARKED,
    RUNNING,
    WAITING,
    BudgetPool,
    CpuSpec,
    GuestCpus,
    Vcpu,
)
from asyncvmm.plugin import VersionedState

_COUNT = ge(0)


def require(what: object, text: str) -> None:
    """ConfigError with ``text`` unless ``what`` is true: a saved state contradicts itself."""
    if not what:
        raise ConfigError(f"bad saved state: {text}")


@attrs.frozen
class CpuKnobsState(VersionedState):
    """CpuKnobs; ``max`` is (quota, period) or empty."""

    version: ClassVar[int] = 1

    weight: int
    max: tuple[int, ...]
    reserve: int
    cpuset_cpus: tuple[int, ...] | None

    @classmethod
    def of(cls, knobs: CpuKnobs) -> CpuKnobsState:
        """The knobs as plain data."""
        cap = () if knobs.max is None else (knobs.max.quota_us, knobs.max.period_us)
        cpus = None if knobs.cpuset_cpus is None else tuple(sorted(knobs.cpuset_cpus))
        return cls(knobs.weight, cap, knobs.reserve, cpus)

    def knobs(self) -> CpuKnobs:
        """The knobs; ConfigError when there are no such."""
        require(len(self.max) in (0, 2), "cpu.max is quota and period")
        cap = CpuMax(*self.max) if self.max else None
        knobs = CpuKnobs(self.weight, cap, self.reserve, self.cpuset_cpus)
        require(CpuKnobsState.of(knobs) == self, "cpu knobs are whole numbers")
        return knobs


@attrs.frozen
class PoolState(VersionedState):
    """BudgetPool."""

    version: ClassVar[int] = 1

    period: int = attrs.field(validator=_COUNT)
    left_steps: int
    periods: int = attrs.field(validator=gt(0))
    throttled_periods: int = attrs.field(validator=_COUNT)
    throttled: bool = attrs.field(validator=instance_of(bool))

    @classmethod
    def of(cls, pool: BudgetPool) -> PoolState:
        """The pool as plain data."""
        return cls(
            pool.period, pool.left_steps, pool.periods, pool.throttled_periods, pool.throttled
        )

    def pool(self, limit: CpuMax, spec: CpuSpec) -> BudgetPool:
        """A pool like that; ConfigError when it holds more than its quota."""
        pool = BudgetPool(limit, spec, 0)
        require(self.left_steps <= pool.quota_steps, "a pool has more than its quota")
        pool.period = self.period
        pool.left_steps = self.left_steps
        pool.periods = self.periods
        pool.throttled_periods = self.throttled_periods
        pool.throttled = self.throttled
        return pool


@attrs.frozen
class VcpuState(VersionedState):
    """Vcpu, without its guest and number."""

    version: ClassVar[int] = 1

    state: int = attrs.field(validator=in_((ASLEEP, WAITING, PARKED, RUNNING)))
    pcpu: int = attrs.field(validator=ge(-1))
    since_ns: int = attrs.field(validator=_COUNT)
    budget_steps: int = attrs.field(validator=_COUNT)
    period: int = attrs.field(validator=ge(-1))
    received_steps: int = attrs.field(validator=_COUNT)
    steal_ns: int = attrs.field(validator=_COUNT)
    throttled_ns: int = attrs.field(validator=_COUNT)


@attrs.frozen
class GuestCpusState(VersionedState):
    """GuestCpus."""

    version: ClassVar[int] = 1

    name: str
    order: int = attrs.field(validator=_COUNT)
    knobs: CpuKnobsState
    pool: PoolState | None
    vcpus: tuple[VcpuState, ...]

    @classmethod
    def of(cls, guest: GuestCpus) -> GuestCpusState:
        """The guest as plain data."""
        pool = None if guest.pool is None else PoolState.of(guest.pool)
        names = [field.name for field in attrs.fields(VcpuState)]
        vcpus = tuple(
            VcpuState(**{name: getattr(vcpu, name) for name in names}) for vcpu in guest.vcpus
        )
        return cls(guest.name, guest.order, CpuKnobsState.of(guest.knobs), pool, vcpus)

    def guest(self, spec: CpuSpec) -> GuestCpus:
        """A guest like that on these CPUs."""
        guest = GuestCpus(self.name, self.order, self.knobs.knobs(), spec)
        cap = guest.knobs.max
        require((cap is None) == (self.pool is None), f"{self.name}: cpu.max without a pool")
        if cap is not None and self.pool is not None:
            guest.pool = self.pool.pool(cap, spec)
        for number, saved in enumerate(self.vcpus):
            vcpu = Vcpu(guest, number)
            for field in attrs.fields(VcpuState):
                setattr(vcpu, field.name, getattr(saved, field.name))
            require(saved.pcpu < spec.cpus, f"{vcpu}: there is no CPU {saved.pcpu}")
            parked_rightly = saved.state != PARKED or guest.pool is not None
            require(parked_rightly, f"{vcpu} is parked without a pool")
            guest.vcpus.append(vcpu)
        return guest


@attrs.frozen
class CpusState(VersionedState):
    """Cpus: ``capped`` names the guests with a pool in the order in which they are refilled.

    ``policy`` is the policy's own, saved: only the policy can read it.
    """

    version: ClassVar[int] = 1

    cpus: int
    mips: int
    quantum_ns: int
    next_order: int = attrs.field(validator=_COUNT)
    guests: tuple[GuestCpusState, ...]
    capped: tuple[str, ...]
    policy: Any

    def check_spec(self, spec: CpuSpec) -> None:
        """ConfigError when the state is of other CPUs."""
        saved = (self.cpus, self.mips, self.quantum_ns)
        here = (spec.cpus, spec.mips, spec.quantum_ns)
        require(saved == here, f"it is of CPUs (number, MIPS, quantum) {saved}, these are {here}")

    def make_guests(self, spec: CpuSpec) -> dict[str, GuestCpus]:
        """All guests by name, with nothing that two of them cannot have."""
        guests = [saved.guest(spec) for saved in self.guests]
        found = {guest.name: guest for guest in guests}
        require(len(found) == len(guests), "two guests have one name")
        orders = [guest.order for guest in guests]
        require(len(set(orders)) == len(orders), "two guests have one place in the order")
        require(all(order < self.next_order for order in orders), "a place is given twice")
        capped = sorted(guest.name for guest in guests if guest.pool is not None)
        require(sorted(self.capped) == capped, "the guests with cpu.max are others")
        running = [v for guest in guests for v in guest.vcpus if v.state == RUNNING]
        pcpus = [vcpu.pcpu for vcpu in running]
        require(len(set(pcpus)) == len(pcpus), "two vCPUs run on one CPU")
        require(all(v.pcpu >= 0 for v in running), "a vCPU runs nowhere")
        return found


def ready_orders(guests: dict[str, GuestCpus]) -> set[tuple[int, int]]:
    """The vCPUs that a policy must hold to be ready."""
    return {v.order for g in guests.values() for v in g.vcpus if v.state == WAITING}


def vcpu_named(guests: dict[str, GuestCpus], name: str, number: int) -> Vcpu:
    """One vCPU; ConfigError when there is none."""
    guest = guests.get(name)
    require(guest is not None and 0 <= number < len(guest.vcpus), f"no vCPU {name}.{number}")
    assert guest is not None
    return guest.vcpus[number]
