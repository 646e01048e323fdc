"""The fluid: weighted max-min fairness between floors and ceilings, within cpusets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.base.errors import ConfigError
from asyncvmm.hypervisor.rates import ONE, Claim, fluid_rates, overlapping_unions

MILLI = ONE // 1000


def rates(cpus: int, *claims: tuple[int, int, int, int]) -> list[int]:
    """Rates in thousandths of a CPU of (weight, floor, vCPUs, mask), rounded."""
    made = [Claim(weight, floor * MILLI, n * ONE, mask) for weight, floor, n, mask in claims]
    return [round(rate / MILLI) for rate, _ in fluid_rates(made, cpus)]


def test_by_weight() -> None:
    assert rates(1, (100, 0, 1, 1), (300, 0, 1, 1)) == [250, 750]


def test_what_one_cannot_use_goes_to_the_others() -> None:
    assert rates(2, (900, 0, 1, 3), (100, 0, 1, 3), (300, 0, 1, 3)) == [1000, 250, 750]


def test_reservations_come_first() -> None:
    assert rates(1, (1, 400, 1, 1), (100, 0, 1, 1), (200, 0, 1, 1)) == [400, 200, 400]


def test_a_crowded_cpu_does_not_slow_the_rest() -> None:
    # Two are pinned to CPU 0; the third may go anywhere and has CPU 1 for itself.
    assert rates(2, (100, 0, 1, 1), (100, 0, 1, 1), (100, 0, 1, 3)) == [500, 500, 1000]
    # A heavy pinned guest pushes the flexible one to CPU 1.
    assert rates(2, (900, 0, 1, 1), (100, 0, 1, 3), (100, 0, 1, 2)) == [1000, 500, 500]


def test_homes_are_disjoint_and_within_cpusets() -> None:
    claims = [Claim(100, 0, ONE, mask) for mask in (0b001, 0b001, 0b011, 0b110, 0b110)]
    results = fluid_rates(claims, 3)
    for (_, home), claim in zip(results, claims, strict=True):
        assert home & claim.mask
    homes = {home for _, home in results}
    assert sum(homes) == 0b111


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 10_000), st.integers(0, 50), st.integers(1, 4), st.integers(1, 15)
        ),
        min_size=1,
        max_size=8,
    )
)
def test_limits_hold_and_nothing_is_wasted(guests: list[tuple[int, int, int, int]]) -> None:
    claims = [Claim(w, floor * MILLI, n * ONE, mask) for w, floor, n, mask in guests]
    result = fluid_rates(claims, 4)
    slack = len(guests)  # each rate is rounded down
    for (rate, _), claim in zip(result, claims, strict=True):
        assert claim.floor <= rate <= claim.ceiling
    for cpus in range(1, 16):
        inside = sum(r for (r, _), c in zip(result, claims, strict=True) if c.mask & ~cpus == 0)
        assert inside <= cpus.bit_count() * ONE
    # Whoever is below his ceiling sits in a set of CPUs that is used up.
    for (rate, home), claim in zip(result, claims, strict=True):
        if rate < claim.ceiling:
            used = sum(r for r, other in result if other == home)
            assert used >= home.bit_count() * ONE - slack


def test_too_many_ways_to_overlap() -> None:
    masks = {(1 << number) | (1 << 63) for number in range(12)}
    with pytest.raises(ConfigError, match="overlap"):
        overlapping_unions(masks)
