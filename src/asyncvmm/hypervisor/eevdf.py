"""Earliest eligible virtual deadline first (Stoica and Abdel-Wahab, 1995), on several CPUs.

The lag of a vCPU is the service that it is entitled to (``rates.py``) less what it received. A vCPU
asks for one slice after the other. It is eligible when its lag is not negative as the request
begins, and of the eligible ones those with the earliest deadlines (when the entitlement reaches the
end of the request) run. Lags then stay within one quantum.

What a vCPU's sleep does to its lag:

- negative: it stays in the competition without running until its lag is zero, so nobody can sleep
  off what he had too much, and the others are repaid exactly what they lost;
- positive: kept, at most a quantum, and given back at the wake-up as far as the others, who had the
  service in the meantime, still have it to give (the sum of lags never becomes positive).

Service is in parts (see ``vcpu.py``), lags in 1/ONE of a part: whole numbers without drift.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import nsmallest
from typing import Any, Final

from asyncvmm.hypervisor.cpu_state import require
from asyncvmm.hypervisor.eevdf_entity import EevdfState, Entity, EntityState
from asyncvmm.hypervisor.placement import place
from asyncvmm.hypervisor.policy import Policy
from asyncvmm.hypervisor.rates import ONE, Claim, fluid_rates
from asyncvmm.hypervisor.vcpu import PARTS_PER_STEP, CpuSpec, GuestCpus, Vcpu

_MILLI_ONE: Final = ONE // 1000
_MAX_CACHED_RATES: Final = 512


_Key = tuple[int, int, tuple[int, int]]


class EevdfPolicy(Policy):
    """The default: proportional shares with |lag| <= one quantum at every decision."""

    def __init__(self, spec: CpuSpec) -> None:
        super().__init__(spec)
        # On several CPUs a deadline is missed by up to a slice, and cpusets that overlap add another
        # one: shorter slices keep the lag within the quantum all the same.
        quantum_parts = max(spec.steps_for(spec.quantum_ns), 4) * PARTS_PER_STEP
        self._longest: Final = _whole_steps(quantum_parts, 1 if spec.cpus == 1 else 2)
        self._shortest: Final = _whole_steps(quantum_parts, 1 if spec.cpus == 1 else 4)
        self.slice_parts = self._longest
        self.quantum_lag: Final = spec.quantum_ns * spec.mips * ONE
        self._far_ahead: Final = -self.quantum_lag + self._longest * ONE
        self._entities: dict[tuple[int, int], Entity] = {}
        self._active: list[Entity] = []
        self._time_ns = 0
        self._stale = False  # the rates are not those of the active ones
        self._leaving = 0
        self._homes = 1  # how many homes the active ones have
        self._pinned = False  # whether any of them may not use all CPUs
        self._cache: dict[tuple[tuple[GuestCpus, int], ...], list[tuple[int, int]]] = {}

    # -- what happens

    def change(self, guest: GuestCpus, now_ns: int) -> None:
        """See Policy."""
        self._advance(now_ns)
        self._cache.clear()
        self._stale = True

    def leave(self, guest: GuestCpus, now_ns: int) -> None:
        """See Policy. Its lag goes with it; ``_balance`` settles what that means for the rest."""
        self._advance(now_ns)
        for vcpu in guest.vcpus:
            entity = self._entities.pop(vcpu.order, None)
            if entity is not None and entity.active:
                self._deactivate(entity)
        self._cache.clear()

    def ready(self, vcpu: Vcpu, now_ns: int) -> None:
        """See Policy."""
        self._advance(now_ns)
        entity = self._entities.get(vcpu.order)
        if entity is None:
            entity = self._entities[vcpu.order] = Entity(vcpu, self.slice_parts)
        entity.started = False
        if entity.leaving:
            entity.leaving = False
            self._leaving -= 1
            entity.left = self.slice_parts
            return
        # What it was behind as it fell asleep makes its first request shorter and so more urgent.
        # Owed service would not do: if everyone woke up to be repaid first, nobody could be.
        saved = entity.lag // (ONE * PARTS_PER_STEP) * PARTS_PER_STEP
        entity.left = max(
            self.slice_parts - saved, _whole_steps(self.slice_parts, 2), PARTS_PER_STEP
        )
        entity.lag = 0
        entity.active = True
        self._active.append(entity)
        self._stale = True

    def blocked(self, vcpu: Vcpu, now_ns: int) -> None:
        """See Policy."""
        self._advance(now_ns)
        entity = self._entities[vcpu.order]
        if entity.lag < 0:
            entity.leaving = True
            self._leaving += 1
            return
        entity.lag = min(entity.lag, self.quantum_lag)
        self._deactivate(entity)

    def started(self, vcpu: Vcpu, now_ns: int) -> None:
        """See Policy."""
        entity = self._entities[vcpu.order]
        entity.running = True
        entity.since_ns = now_ns
        if entity.extra:
            return
        entity.started = True
        if entity.rate == ONE and entity.lag > 0:
            entity.lag = 0  # all of a CPU is its part from now on: nothing is left to repay it

    def stopped(self, vcpu: Vcpu, now_ns: int, steps: int) -> None:
        """See Policy."""
        self._advance(now_ns)
        entity = self._entities[vcpu.order]
        entity.running = False
        ran = steps * PARTS_PER_STEP
        if entity.extra:
            entity.extra = False
            return
        # While it ran, its lag fell with time; now it is known what it really received.
        entity.lag += ((now_ns - entity.since_ns) * self.spec.mips - ran) * ONE
        entity.left -= ran
        if entity.left <= self.slice_parts // 16:  # not worth a slice of its own
            entity.left = self.slice_parts
            entity.started = False

    # -- decisions

    def choose(self, now_ns: int, free: list[int]) -> list[tuple[int, Vcpu, int]]:
        """See Policy."""
        self._advance(now_ns)
        if self._stale:
            self._set_rates()
        waiting = [e for e in self._active if not e.running and not e.leaving]
        if not waiting:
            return []
        self._balance(waiting)
        if self._stale:
            self._set_rates()
        if not self._pinned and len(waiting) > len(free):
            first = self._first_eligible(waiting, len(free))
            if len(first) == len(free):
                everywhere = [(e.vcpu, e.vcpu.guest.mask) for e in first]
                return [
                    (cpu, vcpu, self._slice_steps(vcpu)) for cpu, vcpu in place(everywhere, free)
                ]
        ranked = []
        for entity in waiting:
            entity.extra = False
            lag = entity.lag
            if lag >= 0 or entity.started:
                key = (0, (entity.left * ONE - lag) // entity.rate, entity.order)
            else:
                key = (1, -lag // entity.rate, entity.order)
            ranked.append((key, entity))
        ranked.sort()
        pairs = place([(e.vcpu, e.home & e.vcpu.guest.mask) for _, e in ranked], free)
        unserved = ranked
        if len(pairs) == len(ranked):
            unserved = []
        elif self._homes > 1 or len(free) > 1:
            served = {vcpu.order for _, vcpu in pairs}
            unserved = [item for item in ranked if item[1].vcpu.order not in served]
            if len(pairs) < len(free):
                taken = {cpu for cpu, _ in pairs}
                pairs += self._place_extra(unserved, [cpu for cpu in free if cpu not in taken])
        if self.spec.cpus > 1:
            self._settle(unserved)
        return [(pcpu, vcpu, self._slice_steps(vcpu)) for pcpu, vcpu in pairs]

    def _first_eligible(self, waiting: list[Entity], count: int) -> list[Entity]:
        """The eligible ones with the earliest deadlines: all that matters when nobody is pinned and
        there are enough of them (then somebody waits for every home, so no lag is settled).
        """
        found = [
            ((e.left * ONE - e.lag) // e.rate, e.order, e)
            for e in waiting
            if e.lag >= 0 or e.started
        ]
        first = [min(found)] if count == 1 and found else nsmallest(count, found)
        for _, _, entity in first:
            entity.extra = False
        return [entity for _, _, entity in first]

    def _place_extra(
        self, unserved: list[tuple[_Key, Entity]], free: list[int]
    ) -> list[tuple[int, Vcpu]]:
        """Whoever may use the CPUs that are left over, though they are not their homes."""
        pairs = place([(e.vcpu, e.vcpu.guest.mask) for _, e in unserved], free)
        for _, vcpu in pairs:
            self._entities[vcpu.order].extra = True
        return pairs

    def lag_steps(self, vcpu: Vcpu, now_ns: int) -> int | None:
        """See Policy; rounded away from zero."""
        self._advance(now_ns)
        entity = self._entities.get(vcpu.order)
        if entity is None or not entity.active:
            return 0
        unit = PARTS_PER_STEP * ONE
        return -(-entity.lag // unit) if entity.lag > 0 else entity.lag // unit

    def entitled_steps(self, guest: GuestCpus, now_ns: int) -> int | None:
        """See Policy: what it received and its lag (what it slept through does not count)."""
        self._advance(now_ns)
        parts = 0
        for vcpu in guest.vcpus:
            parts += vcpu.received_steps * PARTS_PER_STEP
            entity = self._entities.get(vcpu.order)
            if entity is not None and entity.active:
                parts += entity.lag // ONE
                if entity.running:
                    parts += (now_ns - entity.since_ns) * self.spec.mips
        return parts // PARTS_PER_STEP

    # -- snapshots

    def state(self) -> EevdfState:
        """See Policy. Rates are kept: those of the moment hold until something happens."""
        active = [entity.vcpu.order for entity in self._active]
        return EevdfState(
            self._time_ns,
            self._stale,
            self._homes,
            self.slice_parts,
            tuple(EntityState.of(entity) for entity in self._entities.values()),
            tuple(active),
        )

    def restore(self, saved: Mapping[str, Any], guests: Mapping[str, GuestCpus]) -> None:
        """See Policy."""
        state = EevdfState.load(saved)
        entities = state.make_entities(guests)
        require(state.slice_parts in (self._longest, self._shortest), "a slice of other CPUs")
        self._entities = entities
        self._active = [entities[order] for order in state.active]
        self._time_ns = state.time_ns
        self._stale = state.stale
        self._leaving = sum(1 for entity in self._active if entity.leaving)
        self._homes = state.homes
        self._pinned = any(len(e.vcpu.guest.allowed) < self.spec.cpus for e in self._active)
        self.slice_parts = state.slice_parts
        self._cache.clear()

    # -- inside

    def _slice_steps(self, vcpu: Vcpu) -> int:
        entity = self._entities[vcpu.order]
        if entity.lag < self._far_ahead and not entity.started:
            # It runs because a CPU would idle otherwise. From here on that is a present.
            entity.extra = True
        return max(entity.left // PARTS_PER_STEP, 1)

    # -- lags

    def _advance(self, now_ns: int) -> None:
        """Let entitlements and the service of the running grow until ``now_ns``."""
        left_ns = now_ns - self._time_ns
        if left_ns <= 0:
            return
        self._time_ns = now_ns
        mips = self.spec.mips
        while left_ns > 0:
            if self._stale:
                self._set_rates()
            ns = left_ns
            if self._leaving:
                for entity in self._active:
                    if entity.leaving:  # the rates change when it is gone
                        ns = min(ns, max(-(entity.lag // (entity.rate * mips)), 1))
            parts = ns * mips
            served = parts * ONE
            for entity in self._active:
                if not entity.running:
                    entity.lag += entity.rate * parts
                elif not entity.extra:
                    entity.lag += entity.rate * parts - served
            left_ns -= ns
            if self._leaving:
                self._drop_settled()

    def _balance(self, waiting: list[Entity]) -> None:
        """Keep the sum of lags of each home at zero or below, and someone eligible.

        The sum is positive when service was lost (a CPU idled because of the caller, or a guest
        left with more than its part): that cannot be repaid, so it is taken off those behind. It is
        negative when someone left with less: when then nobody is eligible, all come nearer.
        """
        if self._homes == 1:
            self._balance_home(self._active, waiting)
            return
        for home in sorted({entity.home for entity in waiting}):
            self._balance_home(
                [entity for entity in self._active if entity.home == home],
                [entity for entity in waiting if entity.home == home],
            )

    def _balance_home(self, members: list[Entity], waiting: list[Entity]) -> None:
        total = sum([entity.lag for entity in members])
        if total > 0:
            behind = sum([entity.lag for entity in members if entity.lag > 0])
            for entity in members:
                if entity.lag > 0:
                    entity.lag -= -(-entity.lag * total // behind)
            return
        while total < 0:
            nearest = -1
            for entity in waiting:
                if entity.lag >= 0 or entity.started:
                    return
                distance = -(entity.lag // entity.rate)
                if nearest < 0 or distance < nearest:
                    nearest = distance
            rates = sum([entity.rate for entity in members if entity.lag < 0])
            parts = min(nearest, -(total // rates))
            for entity in members:
                if entity.leaving:
                    parts = min(parts, -(entity.lag // entity.rate))
            for entity in members:
                if entity.lag < 0:  # those behind need no help
                    entity.lag = min(entity.lag + entity.rate * parts, 0)
            for entity in members:
                if entity.leaving and entity.lag >= 0:
                    self._drop(entity)
            members = [entity for entity in members if entity.active]
            total = sum([entity.lag for entity in members])

    def _settle(self, unserved: list[tuple[_Key, Entity]]) -> None:
        """Clear the lags in the homes that nobody waits for.

        Where everyone who can run does, nobody has a claim on anybody. (Rates of more than there is
        to divide would else pile up lags that no decision can repay.)
        """
        contended = {entity.home for _, entity in unserved}
        for entity in self._active.copy():
            if entity.home not in contended:
                entity.lag = 0
                if entity.leaving:
                    self._deactivate(entity)

    def _drop(self, entity: Entity) -> None:
        entity.lag = 0
        self._deactivate(entity)

    def _drop_settled(self) -> None:
        for entity in [e for e in self._active if e.leaving and e.lag >= 0]:
            self._drop(entity)

    def _deactivate(self, entity: Entity) -> None:
        if entity.leaving:
            entity.leaving = False
            self._leaving -= 1
        entity.active = False
        self._active.remove(entity)
        self._stale = True

    # -- rates

    def _set_rates(self) -> None:
        """Each active vCPU's rate: its guest's, divided equally."""
        self._stale = False
        counts: dict[GuestCpus, int] = {}
        for entity in self._active:
            guest = entity.vcpu.guest
            counts[guest] = counts.get(guest, 0) + 1
        key = tuple(sorted(counts.items(), key=lambda item: item[0].order))
        self._pinned = any(len(guest.allowed) < self.spec.cpus for guest in counts)
        self.slice_parts = self._shortest if self._pinned else self._longest
        rates = self._cache.get(key)
        if rates is None:
            claims = [
                Claim(guest.knobs.weight, guest.knobs.reserve * _MILLI_ONE, count * ONE, guest.mask)
                for guest, count in key
            ]
            rates = fluid_rates(claims, self.spec.cpus)
            if len(self._cache) >= _MAX_CACHED_RATES:
                self._cache.clear()
            self._cache[key] = rates
        # At least 1: a guest that reservations leave nothing to runs when a CPU would idle.
        each = {
            guest: (max(rate // count, 1), home)
            for (guest, count), (rate, home) in zip(key, rates, strict=True)
        }
        for entity in self._active:
            entity.rate, entity.home = each[entity.vcpu.guest]
        self._homes = len({home for _, home in rates})


def _whole_steps(parts: int, divisor: int) -> int:
    return parts // divisor // PARTS_PER_STEP * PARTS_PER_STEP
