"""The books of the CPUs: admission, grants, caps at their edges, live changes, the ledger."""

from __future__ import annotations

import types

import pytest

from asyncvmm.base.errors import ConfigError, InternalError
from asyncvmm.hypervisor import (
    AdmissionError,
    CpuKnobs,
    CpuMax,
    Cpus,
    CpuSpec,
    Ledger,
    Vcpu,
    find_policies,
    make_policy,
)
from asyncvmm.hypervisor.eevdf import EevdfPolicy
from asyncvmm.plugin import PluginManager, hookimpl
from asyncvmm.timeline.events import FOREVER
from tests.unit.hypervisor.simulated_host import SimulatedHost

MS = 1_000_000


def cpus(policy: str = "eevdf", count: int = 2, mips: int = 1000) -> Cpus:
    spec = CpuSpec(count, mips, MS)
    return Cpus(spec, make_policy(policy, spec), Ledger())


@pytest.mark.parametrize("policy", ["eevdf", "static-partition"])
def test_reservations_never_exceed_the_host(policy: str) -> None:
    host = cpus(policy)
    host.add("a", 2, CpuKnobs(reserve=1500), 0)
    with pytest.raises(AdmissionError, match="wants 600 mCPU, 500 left, 100 short") as info:
        host.add("b", 1, CpuKnobs(reserve=600), 3)
    assert (info.value.shortfall, info.value.unit) == (100, "mCPU")
    assert host.ledger.events("b")[0].cause == str(info.value)
    host.add("b", 1, CpuKnobs(reserve=500), 3)
    with pytest.raises(AdmissionError):
        host.update("b", CpuKnobs(reserve=501), 4)
    assert host.guests["b"].knobs.reserve == 500
    host.remove("a", 5, "shut down")
    host.update("b", CpuKnobs(reserve=1000), 6)


def test_reservations_within_cpusets() -> None:
    host = cpus()
    host.add("a", 1, CpuKnobs(reserve=700, cpuset_cpus="0"), 0)
    with pytest.raises(AdmissionError, match="300 left"):
        host.add("b", 1, CpuKnobs(reserve=400, cpuset_cpus="0"), 0)
    host.add("b", 1, CpuKnobs(reserve=1000, cpuset_cpus="1"), 0)
    with pytest.raises(AdmissionError, match="300 left"):
        host.add("c", 2, CpuKnobs(reserve=301), 0)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        (CpuKnobs(reserve=1001), "at most one CPU per vCPU"),
        (CpuKnobs(reserve=300, max="20000 100000"), "must not exceed cpu.max"),
        (CpuKnobs(cpuset_cpus="5"), "this host has CPUs 0 to 1"),
    ],
)
def test_impossible_knobs(knobs: CpuKnobs, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cpus().add("a", 1, knobs, 0)


def test_round_robin_keeps_no_reservation() -> None:
    with pytest.raises(AdmissionError, match="round-robin"):
        cpus("round-robin").add("a", 1, CpuKnobs(reserve=1), 0)


def test_knobs_from_a_mapping() -> None:
    knobs = CpuKnobs.from_mapping(
        {"cpu.weight": 200, "cpu.max": "50000 100000", "cpuset.cpus": "0-1,3", "cpu.reserve": 5}
    )
    assert knobs == CpuKnobs(200, CpuMax(50_000), 5, frozenset({0, 1, 3}))
    assert CpuKnobs.from_mapping({"max": "max 20000"}).max is None


@pytest.mark.parametrize(
    "values",
    [
        {"cpu.weight": 0},
        {"cpu.weight": 10_001},
        {"cpu.weight": "heavy"},
        {"cpu.weight": True},
        {"cpu.wieght": 1},
        {"cpu.max": "1 2 3"},
        {"cpu.max": "fast"},
        {"cpu.max": "99"},
        {"cpu.max": "1000 999"},
        {"cpuset.cpus": "1-99"},
        {"cpuset.cpus": "a"},
        {"cpu.reserve": -1},
    ],
)
def test_wrong_knobs(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="cpu"):
        CpuKnobs.from_mapping(values)


def test_grants_and_their_answers() -> None:
    host = cpus(count=1)
    (a,) = host.add("a", 1, CpuKnobs(), 0)
    (b,) = host.add("b", 1, CpuKnobs(), 0)
    assert host.decide(0) == [] and host.idle
    host.wake(a, 0)
    host.wake(b, 0)
    (grant,) = host.decide(0)
    assert (grant.pcpu, grant.vcpu, grant.steps, grant.slice_ns) == (0, a, 1_000_000, MS)
    assert host.decide(0) == []
    with pytest.raises(InternalError):
        host.stop(b, 10, 0, asleep=False)
    with pytest.raises(InternalError):
        host.stop(a, 10, 1_000_001, asleep=False)
    with pytest.raises(InternalError):
        host.remove("a", 10, "")
    host.stop(a, 400_000, 400_000, asleep=True)
    assert host.steal_ns(b, 400_000) == 400_000
    (grant,) = host.decide(400_000)
    assert grant.vcpu is b
    usage = host.usage("a", 400_000)
    assert (usage.received_steps, usage.received_ns, usage.steal_ns) == (400_000, 400_000, 0)


def test_cut_slices_go_on_with_the_same_request() -> None:
    """The runtime may cut slices at events: who runs does not change with it."""
    whole, cut = cpus(count=1), cpus(count=1)
    order: list[list[str]] = []
    for host, cuts in ((whole, 1), (cut, 10)):
        for name, weight in (("a", 100), ("b", 300), ("c", 250)):
            host.wake(host.add(name, 1, CpuKnobs(weight=weight), 0)[0], 0)
        ran: list[str] = []
        for now in range(0, 200 * MS, MS):
            for piece in range(cuts):
                start = now + piece * MS // cuts
                (grant,) = host.decide(start)
                steps = min(grant.steps, 1_000_000 // cuts)
                host.stop(grant.vcpu, start + steps, steps, asleep=False)
                ran.append(grant.vcpu.guest.name)
        order.append(ran)
    shares = [[ran.count(n) * 1000 // len(ran) for n in "abc"] for ran in order]
    for expected, *got in zip((153, 461, 384), *shares, strict=True):
        assert all(abs(share - expected) <= 5 for share in got)


def test_cap_is_not_carried_over_and_returned_budget_is_used() -> None:
    host = cpus(count=1)
    (a,) = host.add("a", 1, CpuKnobs(max="400 1000"), 0)
    host.wake(a, 0)
    (grant,) = host.decide(0)
    assert grant.steps == 400_000
    host.stop(a, 100_000, 100_000, asleep=True)
    host.wake(a, 200_000)
    (grant,) = host.decide(200_000)
    assert grant.steps == 300_000
    host.stop(a, 500_000, 300_000, asleep=False)
    assert host.decide(500_000) == []
    assert host.next_ns(500_000) == MS
    (grant,) = host.decide(MS)
    assert grant.steps == 400_000
    host.stop(a, MS, 0, asleep=True)
    host.wake(a, 2 * MS - 50_000)  # a slice does not reach into the next period
    (grant,) = host.decide(2 * MS - 50_000)
    assert grant.steps == 50_000


def test_slow_cpu_and_the_edge_of_a_period() -> None:
    """At 1 MIPS a step is 1000 ns: nothing starts that would end in the next period."""
    host = cpus(count=1, mips=1)
    (a,) = host.add("a", 1, CpuKnobs(max="1000 1000"), 0)
    host.wake(a, MS - 999)
    assert host.decide(MS - 999) == []
    assert host.next_ns(MS - 999) == MS
    assert [g.steps for g in host.decide(MS)] == [1000]


def test_cap_set_and_lifted_live() -> None:
    host = SimulatedHost(spec=CpuSpec(1, 1000, MS))
    host.join("a")
    host.run_until(10 * MS)
    assert host.received("a") == 10_000_000
    host.cpus.update("a", CpuKnobs(max="500 10000"), host.now_ns)
    host.run_until(30 * MS)
    assert host.received("a") <= 11_000_000 + 2 * 500_000
    host.cpus.update("a", CpuKnobs(), host.now_ns)
    before = host.received("a")
    host.run_until(40 * MS)
    assert host.received("a") - before >= 9_000_000
    assert [event.kind for event in host.ledger.events("a")].count("changed") == 2


def test_weight_changed_live() -> None:
    host = SimulatedHost(spec=CpuSpec(1, 1000, MS))
    host.join("a")
    host.join("b")
    host.run_until(100 * MS)
    host.cpus.update("b", CpuKnobs(weight=300), host.now_ns)
    before = host.received("b")
    host.run_until(300 * MS)
    assert abs(host.received("b") - before - 150_000_000) <= 2_000_000


def test_ledger_keeps_kills_whatever_else_happens() -> None:
    ledger = Ledger(events_per_kind=8)
    ledger.record(1, "stopped", "a", "why")
    for time in range(1000):
        ledger.record(time, "throttled", "b", "x" * 10_000)
    kept = ledger.events()
    assert [event.kind for event in kept].count("stopped") == 1
    assert len(kept) == 9
    assert all(len(event.cause) <= 500 for event in kept)
    assert ledger.count("b", "throttled") == 1000
    assert ledger.events(since=kept[-1].sequence) == [kept[-1]]
    with pytest.raises(InternalError):
        ledger.record(0, "nonsense", "a", "")


class Greedy(EevdfPolicy):
    """A plugin's policy that grants what does not belong to anyone."""

    def choose(self, now_ns: int, free: list[int]) -> list[tuple[int, Vcpu, int]]:
        """Everyone on CPU 0."""
        return [(0, entity.vcpu, 10) for entity in self._active]


def test_a_policy_cannot_break_the_books() -> None:
    spec = CpuSpec(2, 1000, MS)
    host = Cpus(spec, Greedy(spec), Ledger())
    for name in ("a", "b"):
        host.wake(host.add(name, 1, CpuKnobs(), 0)[0], 0)
    with pytest.raises(InternalError, match="the policy grants"):
        host.decide(0)


def test_policies_of_plugins() -> None:
    manager = PluginManager()
    module = types.ModuleType("greedy")

    @hookimpl
    def asyncvmm_policies() -> dict[str, object]:
        return {"greedy": Greedy, "eevdf": Greedy, "odd": lambda spec: 5}

    module.asyncvmm_policies = asyncvmm_policies  # type: ignore[attr-defined]
    manager.register(module, "greedy")
    assert manager.problems == []
    assert find_policies(manager)["eevdf"] is EevdfPolicy
    assert isinstance(make_policy("greedy", CpuSpec(), manager), Greedy)
    with pytest.raises(InternalError, match="odd"):
        make_policy("odd", CpuSpec(), manager)
    with pytest.raises(ConfigError, match="did you mean 'greedy'"):
        make_policy("gredy", CpuSpec(), manager)


def test_round_robin_takes_turns() -> None:
    host = SimulatedHost("round-robin", CpuSpec(2, 1000, MS))
    for name in "abcde":
        host.join(name, weight=1 + 99 * "abcde".index(name))
    host.run_until(500 * MS)
    got = [host.received_with_running(name) for name in "abcde"]
    assert max(got) - min(got) <= 1_000_000
    assert host.cpus.usage("a", host.now_ns).entitled_steps is None


def test_idle_host_has_nothing_to_decide() -> None:
    for policy in find_policies():
        host = cpus(policy)
        host.add("a", 1, CpuKnobs(reserve=0 if policy == "round-robin" else 100), 0)
        assert host.idle
        assert host.next_ns(0) == FOREVER


def test_standing_by_leaves_no_trace_where_there_is_no_cpu() -> None:
    host = cpus()
    pinned = CpuKnobs(cpuset_cpus="0")
    (busy,) = host.add("busy", 1, pinned, 0)
    (idle,) = host.add("idle", 1, pinned, 0)
    (free,) = host.add("free", 1, CpuKnobs(), 0)
    (capped,) = host.add("capped", 1, CpuKnobs(max="1000 10000"), 0)
    host.wake(busy, 0)
    assert [grant.vcpu for grant in host.decide(0)] == [busy]
    assert host.stand_by(idle, 0) == [] and host.usage("idle", MS).steal_ns == 0
    (grant,) = host.stand_by(free, 0)
    assert (grant.vcpu, grant.pcpu) == (free, 1) and host.free == 0
    host.stop(free, MS, 0, asleep=True)
    spent = 0
    while grants := host.stand_by(capped, MS):
        spent += grants[0].steps
        host.stop(capped, MS, grants[0].steps, asleep=True)
    assert spent == 1_000_000  # its pool is empty
    assert host.usage("capped", 3 * MS).steal_ns == 0
    assert host.next_ns(2 * MS) == FOREVER


def test_standing_by_in_the_slots_of_a_partition() -> None:
    host = cpus("static-partition", 1)
    (a,) = host.add("a", 1, CpuKnobs(reserve=500), 0)
    (b,) = host.add("b", 1, CpuKnobs(reserve=500), 0)
    for slot in range(100):
        now = slot * MS
        granted = [grant.vcpu for vcpu in (a, b) for grant in host.stand_by(vcpu, now)]
        assert len(granted) == 1
        host.stop(granted[0], now + MS, 0, asleep=True)
    assert host.usage("a", 100 * MS).steal_ns == host.usage("b", 100 * MS).steal_ns == 0
