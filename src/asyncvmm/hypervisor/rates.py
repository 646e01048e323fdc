"""Who is entitled to how much of the CPUs at this moment: the fluid that EEVDF approximates.

Weighted max-min fairness: as if all vCPUs ran at once, each guest gets its weight's part, but at
least its reservation, at most one CPU per runnable vCPU, and only from the CPUs of its cpuset. What
a guest cannot use goes to the others. Rates are whole numbers of 1/ONE of one CPU.
"""

from __future__ import annotations

from typing import Final

from asyncvmm.base.errors import ConfigError

ONE: Final = 1 << 40

MAX_UNIONS: Final = 256
_LEVEL_SHIFT: Final = 24  # precision with which the levels of two bottlenecks are compared


class Claim:
    """One guest's: ``weight``, the least and the most it can use (1/ONE CPUs), its CPUs."""

    __slots__ = ("ceiling", "floor", "mask", "weight")

    def __init__(self, weight: int, floor: int, ceiling: int, mask: int) -> None:
        self.weight = weight
        self.floor = floor if floor < ceiling else ceiling
        self.ceiling = ceiling
        self.mask = mask


def fluid_rates(claims: list[Claim], cpus: int) -> list[tuple[int, int]]:
    """(rate, home) of each claim on ``cpus`` CPUs. The floors fit: admission saw to that.

    ``home`` is the mask of the CPUs that the rate comes from. Claims of one home share it among
    themselves; homes are disjoint, and those of a claim lie within its cpuset.
    """
    everywhere = (1 << cpus) - 1
    if all(claim.mask == everywhere for claim in claims):
        return [(rate, everywhere) for rate in _fill(claims, cpus * ONE)[0]]
    return _fill_cpusets(claims, everywhere)


def _fill(claims: list[Claim], capacity: int) -> tuple[list[int], int | None]:
    """Rates by weight between floor and ceiling, and the level (rate per weight, scaled) at which
    ``capacity`` is used up; None when all reach their ceilings first.

    Freezes the claims on one side of their limits, whichever side is violated more in sum, and
    divides the rest again: each round freezes at least one.
    """
    rates = [0] * len(claims)
    free = list(range(len(claims)))
    room = capacity
    top = 0  # the highest level at which a claim was frozen at its ceiling
    while free:
        total = sum(claims[i].weight for i in free)
        low: list[int] = []
        high: list[int] = []
        missing = surplus = 0
        for i in free:
            claim = claims[i]
            rate = claim.weight * room // total
            rates[i] = rate
            if rate < claim.floor:
                low.append(i)
                missing += claim.floor - rate
            elif rate > claim.ceiling:
                high.append(i)
                surplus += rate - claim.ceiling
        if not low and not high:
            return rates, (room << _LEVEL_SHIFT) // total
        frozen = low if missing > surplus else high
        for i in frozen:
            claim = claims[i]
            rates[i] = claim.floor if frozen is low else claim.ceiling
            room -= rates[i]
            if frozen is high:
                top = max(top, (claim.ceiling << _LEVEL_SHIFT) // claim.weight)
            free.remove(i)
    return rates, None if room > 0 else top


def _fill_cpusets(claims: list[Claim], everywhere: int) -> list[tuple[int, int]]:
    """Raise everyone's level together; the set of CPUs that is used up first is the home of its
    guests and closed to the others.

    Enough constraints are the unions of overlapping cpusets (Hall's theorem; a vCPU may move
    between CPUs but not run on two at once, hence the ceilings).
    """
    results = [(0, 0)] * len(claims)
    masks = [claim.mask for claim in claims]
    waiting = list(range(len(claims)))
    left = everywhere
    while waiting:
        best: tuple[int, int] | None = None
        best_members: list[int] = []
        best_rates: list[int] = []
        for union in overlapping_unions({masks[i] for i in waiting}):
            members = [i for i in waiting if masks[i] & ~union == 0]
            rates, level = _fill([claims[i] for i in members], union.bit_count() * ONE)
            if level is not None and (best is None or (level, union) < best):
                best, best_members, best_rates = (level, union), members, rates
        if best is None:  # there is room for everyone to reach the ceiling
            for i in waiting:
                results[i] = (claims[i].ceiling, left)
            break
        home = best[1]
        for i, rate in zip(best_members, best_rates, strict=True):
            results[i] = (rate, home)
            waiting.remove(i)
        left &= ~home
        masks = [mask & left for mask in masks]
    return results


def overlapping_unions(masks: set[int]) -> list[int]:
    """All unions of overlapping masks, ascending. ConfigError when there are too many."""
    found = set(masks)
    fresh = list(masks)
    while fresh:
        mask = fresh.pop()
        for other in masks:
            union = mask | other
            if mask & other and union not in found:
                found.add(union)
                fresh.append(union)
                if len(found) > MAX_UNIONS:
                    raise ConfigError(
                        f"cpuset.cpus: the sets of this host's guests overlap in more than "
                        f"{MAX_UNIONS} ways: use fewer different ones"
                    )
    return sorted(found)
