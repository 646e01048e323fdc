"""The books as values: run N, save, restore in fresh objects, run M is run N + M; bad states change
nothing.
"""

from __future__ import annotations

import heapq
import json
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.units import PAGE_SIZE, SECOND
from asyncvmm.hypervisor import (
    CpuKnobs,
    Cpus,
    CpuSpec,
    DiskRates,
    HostMemory,
    IoKnobs,
    Ledger,
    MemoryKnobs,
    Policy,
    make_policy,
)
from asyncvmm.hypervisor.book_state import DiskRatesState, HostMemoryState, LedgerState
from asyncvmm.hypervisor.cpu_state import CpusState
from asyncvmm.hypervisor.sharing import MergePace, MergePaceState
from asyncvmm.plugin import VersionedState
from tests.unit.hypervisor.simulated_host import SimulatedHost, habit

QUANTUM_NS = 100_000
POLICIES = ("eevdf", "round-robin", "static-partition")
quick = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


State = TypeVar("State", bound=VersionedState)


def through_json(state: State) -> State:
    return type(state).load(json.loads(json.dumps(state.save())))


# -- CPUs and policies


def copy_host(host: SimulatedHost, policy: str) -> SimulatedHost:
    """A host with fresh books, restored from the other's through JSON, and the same sleepers."""
    copy = SimulatedHost(policy, host.spec)
    copy.ledger.restore(through_json(host.ledger.state()))
    vcpus = copy.cpus.restore(through_json(host.cpus.state()))
    assert copy.cpus.state() == host.cpus.state()

    def twin(vcpu: Any) -> Any:
        return vcpus[vcpu.guest.name][vcpu.number]

    copy.rng.setstate(host.rng.getstate())
    copy.now_ns = host.now_ns
    copy.habits = {twin(vcpu): how for vcpu, how in host.habits.items()}
    copy._left_ns = {twin(vcpu): left for vcpu, left in host._left_ns.items()}
    copy._running = {twin(vcpu): what for vcpu, what in host._running.items()}
    copy._sequence = host._sequence
    copy._events = [(at, seq, what, twin(v), n) for at, seq, what, v, n in host._events]
    heapq.heapify(copy._events)
    return copy


def runs(host: SimulatedHost) -> list[tuple[int, int, str, int]]:
    return [(start, pcpu, repr(vcpu), steps) for start, pcpu, vcpu, steps in host.runs]


guests = st.lists(
    st.tuples(
        st.sampled_from([1, 100, 200, 10_000]),
        st.sampled_from([1, 1, 2, 3]),
        st.one_of(
            st.none(),
            st.builds(
                habit, st.just(1), st.integers(3_000, 400_000), st.just(1), st.integers(9, 400_000)
            ),
        ),
        st.sampled_from([None, None, "300 1000", "1500 2000"]),
        st.sampled_from([None, None, "0", "0-1"]),
    ),
    min_size=1,
    max_size=5,
)


@pytest.mark.parametrize("policy", POLICIES)
@quick
@given(
    guests=guests,
    cpus=st.sampled_from([1, 2, 3]),
    before=st.integers(0, 40 * QUANTUM_NS),
    after=st.integers(1, 40 * QUANTUM_NS),
)
def test_cpus_go_on_from_their_state(
    policy: str, guests: list[tuple[Any, ...]], cpus: int, before: int, after: int
) -> None:
    host = SimulatedHost(policy, CpuSpec(cpus, 1000, QUANTUM_NS))
    for number, (weight, vcpus, how, cap, cpuset) in enumerate(guests):
        reserve = 30 * vcpus if policy == "static-partition" else 0
        host.join(
            f"g{number}", vcpus, how, weight=weight, max=cap, cpuset_cpus=cpuset, reserve=reserve
        )
    host.run_until(before)
    copy = copy_host(host, policy)
    host.runs.clear()
    for each in (host, copy):
        each.run_until(before + after)
        each.join("late", 1, None, reserve=10 if policy == "static-partition" else 0)
        each.leave("g0")
        each.run_until(before + 2 * after)
    assert runs(copy) == runs(host)
    assert copy.cpus.state() == host.cpus.state()
    assert copy.ledger.state() == host.ledger.state()
    for name in host.cpus.guests:
        assert copy.cpus.usage(name, host.now_ns) == host.cpus.usage(name, host.now_ns)


def test_cpus_of_another_host_are_refused() -> None:
    host = SimulatedHost(spec=CpuSpec(2, 1000, QUANTUM_NS))
    host.join("a", 2, None)
    host.run_until(QUANTUM_NS * 7 // 2)
    state = host.cpus.state()
    for spec in (CpuSpec(1, 1000, QUANTUM_NS), CpuSpec(2, 999, QUANTUM_NS)):
        with pytest.raises(ConfigError, match="these are"):
            Cpus(spec, make_policy("eevdf", spec), Ledger()).restore(state)
    other = Cpus(host.spec, make_policy("round-robin", host.spec), Ledger())
    with pytest.raises(ConfigError, match="RoundRobinState: saved fields differ"):
        other.restore(state)
    assert other.guests == {}


def test_a_policy_without_state_says_so() -> None:
    class Plain(Policy):
        ready = blocked = choose = started = stopped = None  # type: ignore[assignment]

    spec = CpuSpec()
    with pytest.raises(ConfigError, match="Plain cannot be saved"):
        Cpus(spec, Plain(spec), Ledger()).state()


# -- memory, ledger, disk rates, pace

memory_steps = st.lists(
    st.tuples(
        st.sampled_from(["join", "private", "shared", "group", "leave", "enforce"]),
        st.integers(0, 5),
        st.integers(0, 80),
    ),
    max_size=40,
)


def run_memory(memory: HostMemory, steps: list[tuple[str, int, int]]) -> list[object]:
    said: list[object] = []
    for what, number, pages in steps:
        name, group = f"g{number}", "x" if number % 2 else ""
        try:
            if what == "join":
                knobs = MemoryKnobs(low=pages * PAGE_SIZE // 4, high=pages * PAGE_SIZE)
                memory.add(name, (pages + 1) * PAGE_SIZE, knobs, number, group)
            elif what == "private":
                memory.set_private(name, pages)
            elif what == "shared":
                memory.set_shared(name, pages if group else 0)
            elif what == "group":
                memory.set_group(group, pages)
            elif what == "leave":
                memory.remove(name)
            else:
                said += [str(error) for error in memory.enforce(number)]
        except ConfigError as error:
            said.append(str(error))
    return said


@quick
@given(before=memory_steps, after=memory_steps, overcommit=st.booleans())
def test_memory_and_ledger_go_on_from_their_state(
    before: list[tuple[str, int, int]], after: list[tuple[str, int, int]], overcommit: bool
) -> None:
    memory = HostMemory(150 * PAGE_SIZE, Ledger(8), overcommit=overcommit)
    run_memory(memory, before)
    copy = HostMemory(150 * PAGE_SIZE, Ledger(8), overcommit=overcommit)
    copy.restore(through_json(memory.state()))
    copy.ledger.restore(through_json(memory.ledger.state()))
    assert run_memory(copy, after) == run_memory(memory, after)
    assert copy.state() == memory.state()
    assert copy.ledger.state() == memory.ledger.state()
    assert copy.ledger.events() == memory.ledger.events()


requests = st.lists(
    st.tuples(
        st.integers(0, SECOND // 50), st.integers(0, 1), st.integers(0, 1 << 18), st.booleans()
    ),
    max_size=30,
)
LIMITS = st.sampled_from(
    ["", "rbps=1M", "wiops=100 riops=50", "rbps=1M wbps=100K burst_bytes=2M", "max"]
)


def run_disks(
    rates: DiskRates, now: int, steps: list[tuple[int, int, int, bool]]
) -> tuple[int, list[int]]:
    said = []
    for passed, disk, size, write in steps:
        now += passed
        said.append(rates.disks[disk].take(now, size, write))
    return now, said


@quick
@given(before=requests, after=requests, one=LIMITS, all_disks=LIMITS)
def test_disk_rates_go_on_from_their_state(
    before: list[Any], after: list[Any], one: str, all_disks: str
) -> None:
    knobs = IoKnobs.from_mapping({"io.max": all_disks or "max", "io.max.1": one or "max"})
    ledger, copy_ledger = Ledger(), Ledger()
    rates = DiskRates("g", ["g/disk0", "g/disk1"], ledger.record, 12)
    rates.change(0, knobs)
    now, _ = run_disks(rates, 0, before)
    copy = DiskRates("g", ["g/disk0", "g/disk1"], copy_ledger.record, 0)
    copy.restore(through_json(rates.state()))
    copy_ledger.restore(ledger.state())
    assert [disk.tokens() for disk in copy.disks] == [disk.tokens() for disk in rates.disks]
    assert run_disks(copy, now, after) == run_disks(rates, now, after)
    assert copy.state() == rates.state()
    assert copy.usage() == rates.usage()
    assert copy_ledger.state() == ledger.state()


def test_disk_rates_of_other_disks_are_refused() -> None:
    rates = DiskRates("g", ["g/disk0"], Ledger().record, 0)
    with pytest.raises(ConfigError, match="the disks are"):
        rates.restore(DiskRates("g", ["g/disk1"], Ledger().record, 0).state())


@quick
@given(
    steps=st.lists(st.tuples(st.integers(0, 3_000_000), st.integers(0, 99)), max_size=40),
    cut=st.integers(0, 40),
)
def test_merge_pace_goes_on_from_its_state(steps: list[tuple[int, int]], cut: int) -> None:
    def run(pace: MergePace, now: int, part: list[tuple[int, int]]) -> tuple[int, list[Any]]:
        said = []
        for passed, resident in part:
            now += passed
            start, pages = pace.budget(now, resident)
            said.append((start, pages))
            assert 0 <= pages <= 1024
            if pages:
                pace.reached(now, start + pages if start + pages < 300 else -1)
        return now, said

    pace, copy = MergePace(), MergePace()
    now, _ = run(pace, 0, steps[:cut])
    copy.restore(through_json(pace.state()))
    assert run(copy, now, steps[cut:]) == run(pace, now, steps[cut:])
    assert copy.state() == pace.state()


# -- bad states


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value within plain data."""
    found = [path] if path else []
    if isinstance(value, dict):
        items: Any = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        items = ()
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


def spoil(saved: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        saved = saved[key]
    saved[path[-1]] = value


wrong = st.one_of(
    st.integers(-(1 << 70), 1 << 70),
    st.sampled_from([None, True, "x", [], {}, [1, 2, 3], 0, -1, 1, 1.5, [[]], [{}]]),
)


def a_busy_host() -> SimulatedHost:
    host = SimulatedHost(spec=CpuSpec(2, 1000, QUANTUM_NS))
    host.join("a", 2, habit(1, 90_000, 1, 90_000), weight=300)
    host.join("b", 1, None, max="300 1000")
    host.join("c", 2, None, cpuset_cpus="1")
    host.run_until(QUANTUM_NS * 15 // 2)
    return host


@settings(quick, max_examples=400)
@given(data=st.data(), value=wrong)
def test_spoiled_books_are_refused_or_whole(data: st.DataObject, value: Any) -> None:
    host = a_busy_host()
    memory = HostMemory(150 * PAGE_SIZE, host.ledger)
    run_memory(memory, [("join", 1, 20), ("shared", 1, 5), ("group", 1, 4), ("join", 2, 30)])
    rates = DiskRates("g", ["d"], host.ledger.record, 0)
    rates.change(0, IoKnobs.from_mapping({"io.max": "rbps=1M wiops=9"}))
    rates.disks[0].take(5, 1 << 20, False)
    saved = {
        "cpus": host.cpus.state().save(),
        "ledger": host.ledger.state().save(),
        "memory": memory.state().save(),
        "rates": rates.state().save(),
        "pace": MergePace().state().save(),
    }
    saved = json.loads(json.dumps(saved))
    path = data.draw(st.sampled_from([path for path in places(saved) if len(path) > 1]))
    spoil(saved, path, value)
    fresh = {
        "cpus": Cpus(host.spec, make_policy("eevdf", host.spec), Ledger()),
        "ledger": Ledger(),
        "memory": HostMemory(150 * PAGE_SIZE, Ledger()),
        "rates": DiskRates("g", ["d"], Ledger().record, 0),
        "pace": MergePace(),
    }
    kinds: dict[str, type[VersionedState]] = {
        "cpus": CpusState,
        "ledger": LedgerState,
        "memory": HostMemoryState,
        "rates": DiskRatesState,
        "pace": MergePaceState,
    }
    for name, book in fresh.items():
        before = book.state()  # type: ignore[attr-defined]
        try:
            state = kinds[name].load(saved[name])
            book.restore(state)  # type: ignore[attr-defined]
        except ConfigError:
            assert name == path[0]
            assert book.state() == before  # type: ignore[attr-defined]
        else:
            assert book.state() == state  # type: ignore[attr-defined]


def test_reservations_that_do_not_fit_are_refused() -> None:
    host = SimulatedHost(spec=CpuSpec(1, 1000, QUANTUM_NS))
    host.cpus.add("a", 1, CpuKnobs(reserve=600), 0)
    host.cpus.add("b", 1, CpuKnobs(reserve=400), 0)
    saved = json.loads(json.dumps(host.cpus.state().save()))
    saved["guests"][1]["knobs"]["reserve"] = 500
    with pytest.raises(ConfigError, match="100 short"):
        Cpus(host.spec, make_policy("eevdf", host.spec), Ledger()).restore(CpusState.load(saved))
