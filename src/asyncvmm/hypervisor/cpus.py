"""The physical CPUs of the simulated host: who runs where, caps, steal time, reservations.

The runtime drives it over virtual time, in this order at each instant: ``stop`` for every slice that
ended, ``wake`` and ``sleep``, then ``decide``; it runs what was granted (or less: it may stop a slice
at any step) and comes back at the first end of a slice, wake-up or ``next_ns``. Nothing here awaits,
and the result depends on nothing but the calls.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from asyncvmm.base.errors import ConfigError, InternalError
from asyncvmm.hypervisor import ledger as events
from asyncvmm.hypervisor.admission import AdmissionError
from asyncvmm.hypervisor.cpu_state import CpusState, GuestCpusState
from asyncvmm.hypervisor.knobs import MILLI, CpuKnobs
from asyncvmm.hypervisor.ledger import Ledger
from asyncvmm.hypervisor.policy import Policy
from asyncvmm.hypervisor.rates import overlapping_unions
from asyncvmm.hypervisor.vcpu import (
    ASLEEP,
    PARKED,
    RUNNING,
    WAITING,
    BudgetPool,
    CpuSpec,
    CpuUsage,
    Grant,
    GuestCpus,
    Vcpu,
)

MAX_VCPUS: Final = 64


class Cpus:
    """Keeps the books of the CPUs and lets ``policy`` choose. Times never fall from call to call."""

    def __init__(self, spec: CpuSpec, policy: Policy, ledger: Ledger) -> None:
        self.spec = spec
        self.policy = policy
        self.ledger = ledger
        self.guests: dict[str, GuestCpus] = {}
        self._free: list[int] = list(range(spec.cpus))
        self._capped: list[GuestCpus] = []
        self._next_order = 0

    # -- guests

    def add(self, name: str, vcpus: int, knobs: CpuKnobs, now_ns: int) -> list[Vcpu]:
        """Admit a guest: its vCPUs, all asleep. AdmissionError names what its reservation lacks."""
        if name in self.guests:
            raise ConfigError(f"a guest named {name!r} is on this host already")
        if not 1 <= vcpus <= MAX_VCPUS:
            raise ConfigError(f"guest {name!r}: 1 to {MAX_VCPUS} vCPUs, not {vcpus}")
        guest = GuestCpus(name, self._next_order, knobs, self.spec)
        guest.vcpus = [Vcpu(guest, number) for number in range(vcpus)]
        try:
            self._check(guest, self.guests.values())
            self.policy.admit(guest, now_ns)
        except ConfigError as error:
            self.ledger.record(now_ns, events.REFUSED, name, str(error))
            raise
        self._next_order += 1
        self.guests[name] = guest
        self._set_pool(guest, now_ns)
        for vcpu in guest.vcpus:
            vcpu.since_ns = now_ns
        self.ledger.record(now_ns, events.ADMITTED, name, f"{vcpus} vCPUs, {knobs}")
        return guest.vcpus

    def remove(self, name: str, now_ns: int, cause: str) -> None:
        """A guest is gone. Its vCPUs must not be running: ``stop`` them first."""
        guest = self._guest(name)
        if any(vcpu.state == RUNNING for vcpu in guest.vcpus):
            raise InternalError(f"guest {name!r} was removed while a vCPU runs")
        for vcpu in guest.vcpus:
            self.sleep(vcpu, now_ns)
        self.policy.leave(guest, now_ns)
        del self.guests[name]
        if guest in self._capped:
            self._capped.remove(guest)
        self.ledger.record(now_ns, events.LEFT, name, cause)

    def update(self, name: str, knobs: CpuKnobs, now_ns: int) -> None:
        """Change a guest's knobs live. AdmissionError leaves all as it was. A slice that runs ends
        as it was granted.
        """
        guest = self._guest(name)
        old = guest.knobs
        guest.set_knobs(knobs, self.spec)
        try:
            self._check(guest, self.guests.values())
            self.policy.change(guest, now_ns)
        except ConfigError as error:
            guest.set_knobs(old, self.spec)
            self.ledger.record(now_ns, events.REFUSED, name, str(error))
            raise
        if knobs.max != old.max:
            self._set_pool(guest, now_ns)
        self.ledger.record(now_ns, events.CHANGED, name, f"{knobs}")

    def usage(self, name: str, now_ns: int) -> CpuUsage:
        """What the guest got until ``now_ns`` (slices that still run are not in it)."""
        guest = self._guest(name)
        received = sum(vcpu.received_steps for vcpu in guest.vcpus)
        pool = guest.pool
        return CpuUsage(
            received_steps=received,
            entitled_steps=self.policy.entitled_steps(guest, now_ns),
            received_ns=self.spec.ns_for(received),
            steal_ns=sum(self.steal_ns(vcpu, now_ns) for vcpu in guest.vcpus),
            throttled_ns=sum(
                vcpu.throttled_ns + (now_ns - vcpu.since_ns if vcpu.state == PARKED else 0)
                for vcpu in guest.vcpus
            ),
            periods=0 if pool is None else pool.periods,
            throttled_periods=0 if pool is None else pool.throttled_periods,
        )

    def steal_ns(self, vcpu: Vcpu, now_ns: int) -> int:
        """How long ``vcpu`` was runnable without running, until ``now_ns`` (SBI STA)."""
        if vcpu.state == WAITING or vcpu.state == PARKED:
            return vcpu.steal_ns + now_ns - vcpu.since_ns
        return vcpu.steal_ns

    # -- vCPUs

    def wake(self, vcpu: Vcpu, now_ns: int) -> None:
        """``vcpu`` is runnable from now on. Nothing when it is already."""
        if vcpu.state != ASLEEP:
            return
        self._queue(vcpu, now_ns)

    def sleep(self, vcpu: Vcpu, now_ns: int) -> None:
        """A ``vcpu`` that is not running has nothing to do any more: it was paused or stopped."""
        if vcpu.state == RUNNING:
            raise InternalError(f"{vcpu} sleeps while it runs: stop it")
        if vcpu.state == WAITING:
            self.policy.blocked(vcpu, now_ns)
        self._leave_state(vcpu, now_ns)
        vcpu.state = ASLEEP

    def stop(self, vcpu: Vcpu, now_ns: int, steps: int, *, asleep: bool) -> None:
        """The slice of ``vcpu`` ended at ``now_ns`` after ``steps``; ``asleep`` when it waits for
        an interrupt, otherwise it is runnable still.
        """
        if vcpu.state != RUNNING or not 0 <= steps <= vcpu.budget_steps:
            raise InternalError(f"{vcpu} stopped after {steps} of {vcpu.budget_steps} steps")
        vcpu.received_steps += steps
        self._free.append(vcpu.pcpu)
        self._free.sort()
        vcpu.since_ns = now_ns
        vcpu.state = WAITING
        self.policy.stopped(vcpu, now_ns, steps)
        pool = vcpu.guest.pool
        if pool is not None:
            if pool.period == vcpu.period:
                pool.left_steps += vcpu.budget_steps - steps
            if not asleep and self._spendable(pool, now_ns) <= 0:
                self._park(vcpu, now_ns)
        if asleep:
            self.sleep(vcpu, now_ns)

    def decide(self, now_ns: int) -> list[Grant]:
        """Who runs from now on on the CPUs that are free. Each grant must be answered by ``stop``."""
        if self._capped:
            self._refill(now_ns)
        grants: list[Grant] = []
        while self._free:
            chosen = self.policy.choose(now_ns, self._free.copy())
            if not chosen:
                break
            parked = False
            for pcpu, vcpu, steps in chosen:
                if steps <= 0 or vcpu.state != WAITING or pcpu not in self._free:
                    raise InternalError(f"the policy grants {vcpu} {steps} steps on CPU {pcpu}")
                if pcpu not in vcpu.guest.allowed:
                    raise InternalError(f"the policy runs {vcpu} on CPU {pcpu}, not in its cpuset")
                pool = vcpu.guest.pool
                if pool is not None:
                    steps = min(steps, self._spendable(pool, now_ns))
                    if steps <= 0:
                        self._park(vcpu, now_ns)
                        parked = True
                        continue
                    pool.left_steps -= steps
                    vcpu.period = pool.period
                grants.append(self._start(vcpu, pcpu, steps, now_ns))
            if not parked:
                break
        return grants

    def stand_by(self, vcpu: Vcpu, now_ns: int) -> list[Grant]:
        """Grant a CPU that is left over to a ``vcpu`` that sleeps, in case it wakes up meanwhile.

        Nothing, with no trace in the books, when there is none that it may use: after ``decide``.
        """
        if vcpu.state != ASLEEP or not any(pcpu in vcpu.guest.allowed for pcpu in self._free):
            return []
        pool = vcpu.guest.pool
        if pool is not None:
            self._refill_one(vcpu.guest, now_ns)
            if self._spendable(pool, now_ns) <= 0:
                return []
        self.wake(vcpu, now_ns)
        grants = self.decide(now_ns)
        if vcpu.state != RUNNING:
            self.sleep(vcpu, now_ns)
        return grants

    @property
    def crowded(self) -> bool:
        """Whether there are more vCPUs than physical CPUs, awake or not."""
        return sum([len(guest.vcpus) for guest in self.guests.values()]) > self.spec.cpus

    def extend(self, vcpu: Vcpu, steps: int) -> int:
        """Let the slice of ``vcpu``, which has just been granted, be ``steps`` long where it is shorter
        and has no ``cpu.max``; how long it is. Only for a CPU that nobody else may want meanwhile.
        """
        if vcpu.guest.pool is None and vcpu.budget_steps < steps:
            vcpu.budget_steps = steps
        return vcpu.budget_steps

    @property
    def free(self) -> int:
        """How many physical CPUs run nobody."""
        return len(self._free)

    def next_ns(self, now_ns: int) -> int:
        """The next time (> ``now_ns``) to ``decide`` at when nothing else happens; or FOREVER."""
        first = self.policy.next_ns(now_ns)
        for guest in self._capped:
            pool = guest.pool
            if pool is not None and any(vcpu.state == PARKED for vcpu in guest.vcpus):
                first = min(first, max(pool.end_ns(), now_ns + 1))
        return first

    @property
    def idle(self) -> bool:
        """Whether no vCPU is runnable: time may jump to the next event."""
        return all(vcpu.state == ASLEEP for g in self.guests.values() for vcpu in g.vcpus)

    # -- snapshots

    def state(self) -> CpusState:
        """All books, the policy's among them, as a value; ConfigError of a policy without state."""
        return CpusState(
            self.spec.cpus,
            self.spec.mips,
            self.spec.quantum_ns,
            self._next_order,
            tuple(GuestCpusState.of(guest) for guest in self.guests.values()),
            tuple(guest.name for guest in self._capped),
            self.policy.state().save(),
        )

    def restore(self, state: CpusState) -> dict[str, list[Vcpu]]:
        """Go on where ``state`` was taken, on the same CPUs and policy: every guest's vCPUs.

        Slices that ran then run still. ConfigError, with nothing changed, when anything is wrong.
        """
        state.check_spec(self.spec)
        guests = state.make_guests(self.spec)
        for guest in guests.values():
            if not 1 <= len(guest.vcpus) <= MAX_VCPUS:
                raise ConfigError(f"bad saved state: {guest.name} has {len(guest.vcpus)} vCPUs")
            self._check(guest, guests.values())
        self.policy.restore(state.policy, guests)
        busy = {v.pcpu for g in guests.values() for v in g.vcpus if v.state == RUNNING}
        self.guests = guests
        self._capped = [guests[name] for name in state.capped]
        self._free = [cpu for cpu in range(self.spec.cpus) if cpu not in busy]
        self._next_order = state.next_order
        return {name: guest.vcpus for name, guest in guests.items()}

    # -- inside

    def _start(self, vcpu: Vcpu, pcpu: int, steps: int, now_ns: int) -> Grant:
        self._free.remove(pcpu)
        vcpu.steal_ns += now_ns - vcpu.since_ns
        vcpu.state = RUNNING
        vcpu.since_ns = now_ns
        vcpu.pcpu = pcpu
        vcpu.budget_steps = steps
        self.policy.started(vcpu, now_ns)
        return Grant(pcpu, vcpu, steps, self.spec.ns_for(steps))

    def _queue(self, vcpu: Vcpu, now_ns: int) -> None:
        """Make a vCPU that is not ready ready, or park it when its pool is empty."""
        pool = vcpu.guest.pool
        if pool is not None:
            self._refill_one(vcpu.guest, now_ns)
        self._leave_state(vcpu, now_ns)
        vcpu.state = WAITING
        self.policy.ready(vcpu, now_ns)
        if pool is not None and self._spendable(pool, now_ns) <= 0:
            self._park(vcpu, now_ns)

    def _leave_state(self, vcpu: Vcpu, now_ns: int) -> None:
        passed = now_ns - vcpu.since_ns
        if vcpu.state == WAITING or vcpu.state == PARKED:
            vcpu.steal_ns += passed
        if vcpu.state == PARKED:
            vcpu.throttled_ns += passed
        vcpu.since_ns = now_ns

    def _spendable(self, pool: BudgetPool, now_ns: int) -> int:
        """Steps that a slice that starts now may take: what is left, and not into the next period."""
        return min(pool.left_steps, self.spec.steps_for(pool.end_ns() - now_ns))

    def _park(self, vcpu: Vcpu, now_ns: int) -> None:
        self.policy.blocked(vcpu, now_ns)
        self._leave_state(vcpu, now_ns)
        vcpu.state = PARKED
        pool = vcpu.guest.pool
        assert pool is not None
        if not pool.throttled and pool.left_steps <= 0:
            pool.throttled = True
            pool.throttled_periods += 1
            limit = pool.limit
            cause = f"cpu.max: {limit.quota_us} us of {limit.period_us} us used"
            self.ledger.record(now_ns, events.THROTTLED, vcpu.guest.name, cause)

    def _refill(self, now_ns: int) -> None:
        for guest in self._capped:
            self._refill_one(guest, now_ns)

    def _refill_one(self, guest: GuestCpus, now_ns: int) -> None:
        pool = guest.pool
        assert pool is not None
        pool.refill(now_ns)
        if self._spendable(pool, now_ns) > 0:
            self._unpark(guest, now_ns)

    def _unpark(self, guest: GuestCpus, now_ns: int) -> None:
        for vcpu in guest.vcpus:
            if vcpu.state == PARKED:
                self._leave_state(vcpu, now_ns)
                vcpu.state = WAITING
                self.policy.ready(vcpu, now_ns)

    def _set_pool(self, guest: GuestCpus, now_ns: int) -> None:
        """Begin with the pool that the knobs ask for. What this period has used already counts."""
        limit = guest.knobs.max
        old = guest.pool
        if limit is None:
            guest.pool = None
            if guest in self._capped:
                self._capped.remove(guest)
                self._unpark(guest, now_ns)
            return
        guest.pool = BudgetPool(limit, self.spec, now_ns)
        if old is not None:
            old.refill(now_ns)
            guest.pool.left_steps -= old.quota_steps - old.left_steps
            guest.pool.periods += old.periods
            guest.pool.throttled_periods = old.throttled_periods
        for vcpu in guest.vcpus:
            vcpu.period = -1  # a slice of before gives nothing back to the new pool
        if guest not in self._capped:
            self._capped.append(guest)

    def _check(self, guest: GuestCpus, guests: Iterable[GuestCpus]) -> None:
        """ConfigError or AdmissionError when these knobs cannot be honoured on this host."""
        knobs = guest.knobs
        if knobs.cpuset_cpus is not None and not guest.allowed:
            raise ConfigError(
                f"guest {guest.name!r}: cpuset.cpus: this host has CPUs 0 to {self.spec.cpus - 1}"
            )
        usable = min(len(guest.vcpus), len(guest.allowed)) * MILLI
        if knobs.reserve > usable:
            raise AdmissionError(
                guest.name, "cpu", knobs.reserve, usable, "mCPU",
                "a guest uses at most one CPU per vCPU and those of its cpuset",
            )  # fmt: skip
        if knobs.max is not None:
            capped = knobs.max.quota_us * MILLI // knobs.max.period_us
            if knobs.reserve > capped:
                raise AdmissionError(
                    guest.name, "cpu", knobs.reserve, capped, "mCPU",
                    "cpu.reserve must not exceed cpu.max",
                )  # fmt: skip
        others = [other for other in guests if other is not guest]
        for union in overlapping_unions({other.mask for other in (*others, guest)}):
            if guest.mask & ~union:
                continue
            promised = sum(o.knobs.reserve for o in others if o.mask & ~union == 0)
            available = union.bit_count() * MILLI - promised
            if knobs.reserve > max(available, 0):
                raise AdmissionError(
                    guest.name, "cpu", knobs.reserve, available, "mCPU",
                    "ask for less, or let a guest with a reservation leave",
                )  # fmt: skip

    def _guest(self, name: str) -> GuestCpus:
        guest = self.guests.get(name)
        if guest is None:
            raise ConfigError(f"no guest {name!r} on this host")
        return guest
