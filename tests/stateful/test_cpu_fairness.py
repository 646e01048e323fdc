"""Shares: lag, error, Jain's index and caps, over random weights, sleeps, joins, leaves and pins."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.units import US
from asyncvmm.hypervisor import CpuSpec
from tests.unit.hypervisor.simulated_host import SimulatedHost, habit

QUANTUM_NS = 100_000
quick = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)

weights = st.one_of(st.integers(1, 10_000), st.sampled_from([1, 100, 200, 400, 10_000]))
habits = st.one_of(
    st.none(),
    st.builds(
        habit, st.just(1), st.integers(30_000, 400_000), st.just(1), st.integers(9_000, 400_000)
    ),
    st.just(habit(QUANTUM_NS - 1, QUANTUM_NS - 1, 1, 1)),  # yields just before each tick
)
caps = st.one_of(
    st.none(),
    st.builds(
        lambda quota, period: f"{quota} {period}",
        st.integers(100, 4000),
        st.sampled_from([1000, 3000, 10_000]),
    ),
)


class Watch:
    """Asserts |lag| <= one quantum at every decision, and keeps the worst."""

    def __init__(self, host: SimulatedHost) -> None:
        self.host = host
        self.worst = 0
        host.watcher = self.look

    def look(self) -> None:
        host = self.host
        for guest in host.cpus.guests.values():
            for vcpu in guest.vcpus:
                lag = host.policy.lag_steps(vcpu, host.now_ns)
                assert lag is not None
                assert abs(lag) <= host.quantum_steps, f"{vcpu}: lag {lag} at {host.now_ns}"
                self.worst = max(self.worst, abs(lag))


def check_budgets(host: SimulatedHost) -> None:
    """No capped guest used more than its quota in any period aligned to time 0."""
    used: dict[tuple[str, int], int] = {}
    for start, _, vcpu, steps in host.runs:
        pool = vcpu.guest.pool
        if pool is None:
            continue
        period = start // pool.period_ns
        assert start + steps * 1000 // host.spec.mips <= (period + 1) * pool.period_ns
        key = (vcpu.guest.name, period)
        used[key] = used.get(key, 0) + steps
        assert used[key] <= pool.limit.quota_us * host.spec.mips, f"{key}: {used[key]}"


def check_cpus(host: SimulatedHost) -> None:
    """No CPU and no vCPU did two things at once, and cpusets were kept."""
    last: dict[object, int] = {}
    for start, pcpu, vcpu, steps in sorted(host.runs, key=lambda run: (run[0], run[1])):
        assert pcpu in vcpu.guest.allowed
        end = start + host.spec.ns_for(steps)
        for key in (pcpu, vcpu):
            assert last.get(key, 0) <= start
            last[key] = end


guests = st.lists(
    st.tuples(weights, st.sampled_from([1, 1, 2, 4]), habits, caps), min_size=1, max_size=7
)


@quick
@given(guests=guests, cpus=st.sampled_from([1, 1, 2, 3, 4]), mips=st.sampled_from([1000, 37]))
def test_lag_within_one_quantum_at_every_decision(
    guests: list[tuple[int, int, Any, Any]], cpus: int, mips: int
) -> None:
    host = SimulatedHost(spec=CpuSpec(cpus, mips, QUANTUM_NS))
    watch = Watch(host)
    for number, (weight, vcpus, how, cap) in enumerate(guests):
        host.join(f"g{number}", vcpus, how, weight=weight, max=cap)
    host.run_until(60 * QUANTUM_NS)
    assert watch.worst > 0 or len(guests) == 1 or cpus > 1
    check_budgets(host)
    check_cpus(host)


@quick
@given(
    guests=st.lists(
        st.tuples(
            weights, st.sampled_from([1, 2, 4]), habits, st.sets(st.integers(0, 2), min_size=1)
        ),
        min_size=1,
        max_size=6,
    )
)
def test_lag_with_cpusets(guests: list[tuple[int, int, Any, set[int]]]) -> None:
    host = SimulatedHost(spec=CpuSpec(3, 1000, QUANTUM_NS))
    Watch(host)
    for number, (weight, vcpus, how, cpuset) in enumerate(guests):
        host.join(f"g{number}", vcpus, how, weight=weight, cpuset_cpus=cpuset)
    host.run_until(60 * QUANTUM_NS)
    check_cpus(host)


@settings(quick, max_examples=15)
@given(ws=st.lists(weights, min_size=2, max_size=6), cpus=st.sampled_from([1, 1, 2]))
def test_share_error_over_1000_quanta(ws: list[int], cpus: int) -> None:
    """Against exact fractions that know nothing of the policy (weights capped at one CPU each)."""
    host = SimulatedHost(spec=CpuSpec(cpus, 1000, QUANTUM_NS))
    for number, weight in enumerate(ws):
        host.join(f"g{number}", weight=weight)
    host.run_until(1000 * QUANTUM_NS)
    shares = exact_shares(ws, cpus)
    for number, share in enumerate(shares):
        got = Fraction(host.received_with_running(f"g{number}"), 1000 * host.quantum_steps)
        assert abs(got - share) <= Fraction(1, 1000)


def exact_shares(ws: list[int], cpus: int) -> list[Fraction]:
    """CPUs per single-vCPU guest: by weight, one at most, the rest by weight again."""
    shares: dict[int, Fraction] = {}
    while len(shares) < len(ws):
        room = cpus - sum(shares.values(), Fraction(0))
        rest = [i for i in range(len(ws)) if i not in shares]
        total = sum(ws[i] for i in rest)
        full = [i for i in rest if room * ws[i] / total > 1]
        for i in full or rest:
            shares[i] = Fraction(1) if full else min(room * ws[i] / total, Fraction(1))
    return [shares[i] for i in range(len(ws))]


@pytest.mark.parametrize(("cpus", "count"), [(1, 2), (1, 7), (2, 3), (4, 7), (2, 8)])
def test_jain_index_at_equal_weights(cpus: int, count: int) -> None:
    host = SimulatedHost(spec=CpuSpec(cpus, 1000, QUANTUM_NS))
    for number in range(count):
        host.join(f"g{number}")
    host.run_until(1000 * QUANTUM_NS)
    got = [host.received_with_running(f"g{number}") for number in range(count)]
    jain = Fraction(sum(got) ** 2, count * sum(x * x for x in got))
    assert jain >= Fraction(9999, 10_000)


@settings(quick, max_examples=40)
@given(
    weight=weights,
    others=st.lists(st.tuples(weights, st.sampled_from([1, 2, 4]), habits), min_size=1, max_size=6),
)
def test_busy_guest_gets_its_part_of_everyone(
    weight: int, others: list[tuple[int, int, Any]]
) -> None:
    """Whatever the neighbours do, a guest that never sleeps is at most a quantum behind its part
    of the weights of all guests present, asleep or not: no trick of theirs adds up.
    """
    host = SimulatedHost(spec=CpuSpec(1, 1000, QUANTUM_NS))
    host.join("busy", weight=weight)
    for number, (other, vcpus, how) in enumerate(others):
        host.join(f"g{number}", vcpus, how, weight=other)
    total = weight + sum(other for other, _, _ in others)

    def look() -> None:
        part = Fraction(weight, total) * host.spec.steps_for(host.now_ns)
        assert host.received_with_running("busy") >= part - host.quantum_steps - 1

    host.watcher = look
    host.run_until(100 * QUANTUM_NS)


@settings(quick, max_examples=30)
@given(early=st.integers(1, 50_000), nap=st.integers(1, 200_000), weight=weights)
def test_yielding_before_the_tick_gains_nothing(early: int, nap: int, weight: int) -> None:
    """Sleeping just before the end of each slice brings at most the share and a quantum."""
    host = SimulatedHost(spec=CpuSpec(1, 1000, QUANTUM_NS))
    host.join("cheat", 1, habit(QUANTUM_NS - early, QUANTUM_NS - early, 1, nap), weight=weight)
    host.join("honest", 1, weight=100)

    def look() -> None:
        part = Fraction(weight, weight + 100) * host.spec.steps_for(host.now_ns)
        assert host.received_with_running("cheat") <= part + host.quantum_steps + 1

    host.watcher = look
    host.run_until(150 * QUANTUM_NS)


def test_reservation_is_kept_against_heavy_neighbours() -> None:
    host = SimulatedHost(spec=CpuSpec(2, 1000, QUANTUM_NS))
    host.join("small", 1, weight=1, reserve=300)
    for number in range(4):
        host.join(f"g{number}", 2, weight=10_000)
    host.run_until(1000 * QUANTUM_NS)
    got = Fraction(host.received_with_running("small"), 1000 * host.quantum_steps)
    assert abs(got - Fraction(3, 10)) <= Fraction(1, 1000)


class HostMachine(RuleBasedStateMachine):
    """Joins, leaves, live changes and time in any order."""

    @initialize(cpus=st.sampled_from([1, 2, 3]))
    def start(self, cpus: int) -> None:
        self.host = SimulatedHost(spec=CpuSpec(cpus, 1000, QUANTUM_NS))
        Watch(self.host)
        self.count = 0
        self.changed = False

    @precondition(lambda self: len(self.host.cpus.guests) < 7)
    @rule(
        weight=weights,
        vcpus=st.sampled_from([1, 2, 3]),
        how=habits,
        cap=caps,
        reserve=st.sampled_from([0, 0, 50, 400, 1500]),
    )
    def join(self, weight: int, vcpus: int, how: Any, cap: Any, reserve: int) -> None:
        self.count += 1
        name = f"g{self.count}"
        try:
            self.host.join(name, vcpus, how, weight=weight, max=cap, reserve=reserve)
        except ConfigError:
            assert self.host.ledger.count(name, "refused") == 1

    @precondition(lambda self: self.host.cpus.guests)
    @rule(pick=st.integers(0, 100))
    def leave(self, pick: int) -> None:
        names = list(self.host.cpus.guests)
        self.host.leave(names[pick % len(names)])

    @precondition(lambda self: self.host.cpus.guests)
    @rule(pick=st.integers(0, 100), weight=weights)
    def change_weight(self, pick: int, weight: int) -> None:
        names = list(self.host.cpus.guests)
        guest = self.host.cpus.guests[names[pick % len(names)]]
        knobs = type(guest.knobs)(weight, guest.knobs.max, guest.knobs.reserve)
        self.host.cpus.update(guest.name, knobs, self.host.now_ns)

    @rule(ns=st.integers(1, 8 * QUANTUM_NS))
    def run(self, ns: int) -> None:
        self.host.run_until(self.host.now_ns + ns)

    @invariant()
    def admitted_no_more_than_there_is(self) -> None:
        if hasattr(self, "host"):
            promised = sum(g.knobs.reserve for g in self.host.cpus.guests.values())
            assert promised <= self.host.spec.cpus * 1000

    def teardown(self) -> None:
        if hasattr(self, "host"):
            check_budgets(self.host)
            check_cpus(self.host)


TestHostMachine = HostMachine.TestCase
TestHostMachine.settings = settings(quick, max_examples=120, stateful_step_count=30)


def test_same_calls_same_schedule() -> None:
    def schedule() -> list[tuple[int, int, str, int, int]]:
        host = SimulatedHost(spec=CpuSpec(3, 700, QUANTUM_NS), seed=5)
        for number in range(6):
            how = None if number % 2 else habit(1, 300_000, 1, 300_000)
            host.join(f"g{number}", 1 + number % 3, how, weight=1 + number * 97, max="700 3000")
        host.run_until(100 * QUANTUM_NS)
        return [(s, p, v.guest.name, v.number, n) for s, p, v, n in host.runs]

    first = schedule()
    assert len(first) > 200
    assert schedule() == first


def test_steal_is_what_others_had() -> None:
    host = SimulatedHost(spec=CpuSpec(1, 1000, QUANTUM_NS))
    host.join("a", weight=100)
    host.join("b", weight=300)
    host.run_until(400 * QUANTUM_NS)
    now = host.now_ns
    for name, other in (("a", "b"), ("b", "a")):
        usage = host.cpus.usage(name, now)
        assert usage.steal_ns == host.received_with_running(other)
        assert usage.throttled_ns == 0
    assert host.received("b") > 2 * host.received("a")


def test_throttled_time_is_steal_and_in_the_ledger() -> None:
    host = SimulatedHost(spec=CpuSpec(2, 1000, QUANTUM_NS))
    host.join("capped", 2, max="500 1000")
    host.run_until(10_000 * US)
    usage = host.cpus.usage("capped", host.now_ns)
    # Two vCPUs use 500 us of CPU in 250 us, then wait 750 us, ten times.
    assert usage.received_steps == 5_000_000
    assert usage.throttled_ns == usage.steal_ns == 2 * 10 * 750_000
    assert usage.throttled_periods == 10
    assert host.ledger.count("capped", "throttled") == 10
    assert "500 us of 1000 us" in host.ledger.events("capped")[-1].cause
