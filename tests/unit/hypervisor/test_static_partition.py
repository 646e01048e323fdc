"""Static partition: what a guest gets depends on itself alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.hypervisor import AdmissionError, CpuKnobs, CpuSpec
from asyncvmm.hypervisor.static_partition import FRAME_SLOTS, StaticPartitionPolicy
from tests.unit.hypervisor.simulated_host import SimulatedHost, habit

QUANTUM_NS = 100_000
SPEC = CpuSpec(2, 1000, QUANTUM_NS)


def periodic(run_ns: int, sleep_ns: int) -> Any:
    """A habit that draws no random numbers."""
    return habit(run_ns, run_ns, sleep_ns, sleep_ns)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(
    own=st.tuples(st.integers(10, 900), st.integers(1, 2), st.booleans()),
    neighbours=st.lists(
        st.tuples(st.integers(10, 400), st.integers(1, 3), st.integers(1000, 400_000)), max_size=7
    ),
)
def test_neighbours_cannot_be_felt(own: Any, neighbours: list[Any]) -> None:
    """The same slices at the same times alone and beside seven that do as they like."""

    def slices(others: list[Any]) -> list[tuple[int, int, int, int]]:
        host = SimulatedHost("static-partition", SPEC)
        reserve, vcpus, sleeps = own
        host.join("own", vcpus, periodic(70_001, 30_011) if sleeps else None, reserve=reserve)
        for number, (part, count, how) in enumerate(others):
            try:
                host.join(f"g{number}", count, periodic(how, how // 2 + 1), reserve=part)
            except AdmissionError:
                continue
        host.run_until(2 * FRAME_SLOTS * QUANTUM_NS)
        return [(s, p, v.number, n) for s, p, v, n in host.runs if v.guest.name == "own"]

    alone = slices([])
    assert alone
    assert slices(neighbours) == alone


def test_the_reservation_is_what_it_gets() -> None:
    host = SimulatedHost("static-partition", SPEC)
    host.join("a", 1, reserve=250)
    host.join("b", 2, reserve=1200)
    host.run_until(10 * FRAME_SLOTS * QUANTUM_NS)
    frames = 10 * FRAME_SLOTS * QUANTUM_NS
    assert host.received("a") == frames // 4
    assert host.received("b") == frames * 12 // 10


def test_slots_are_unique_and_spread() -> None:
    host = SimulatedHost("static-partition", SPEC)
    host.join("a", 4, reserve=1000)
    host.join("b", 1, reserve=1000)
    policy = host.policy
    assert isinstance(policy, StaticPartitionPolicy)
    seen = [policy.slots(host.cpus.guests[name]) for name in "ab"]
    places = [(pcpu, slot) for slots in seen for pcpu, slot, _ in slots]
    assert len(places) == len(set(places)) == 2 * FRAME_SLOTS
    for slots in seen:
        moments = [(slot, number) for _, slot, number in slots]
        assert len(moments) == len(set(moments))  # no vCPU on two CPUs at once


def test_a_guest_without_reservation_is_refused() -> None:
    host = SimulatedHost("static-partition", SPEC)
    with pytest.raises(AdmissionError, match=r"set cpu\.reserve"):
        host.join("a")


def test_changes_keep_or_restore_the_slots() -> None:
    host = SimulatedHost("static-partition", SPEC)
    host.join("a", 1, reserve=500)
    host.join("b", 1, reserve=900, cpuset_cpus=[1])
    policy = host.policy
    assert isinstance(policy, StaticPartitionPolicy)
    guest = host.cpus.guests["a"]
    before = policy.slots(guest)
    host.cpus.update("a", CpuKnobs(weight=7, reserve=500), 0)
    assert policy.slots(guest) == before
    with pytest.raises(AdmissionError):
        host.cpus.update("a", CpuKnobs(reserve=500, cpuset_cpus="1"), 0)
    assert policy.slots(guest) == before
    host.cpus.update("a", CpuKnobs(reserve=700), 0)
    assert len(policy.slots(guest)) == 70
    host.leave("a")
    assert policy.slots(guest) == []
