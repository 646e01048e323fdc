"""Memory: admission, charges of shared pages, and who is stopped when the host is full."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.units import MIB, PAGE_SIZE
from asyncvmm.hypervisor import AdmissionError, HostMemory, Ledger, MemoryKnobs
from asyncvmm.hypervisor.memory import HOST_FULL, OVER_MAX


def host(pages: int, overcommit: bool = True) -> HostMemory:
    return HostMemory(pages * PAGE_SIZE, Ledger(), overcommit=overcommit)


def add(memory: HostMemory, name: str, ram: int, group: str = "", **pages: int) -> None:
    knobs = MemoryKnobs(**{key: value * PAGE_SIZE for key, value in pages.items()})
    memory.add(name, ram * PAGE_SIZE, knobs, 0, group)


def test_without_overcommit_the_limits_must_fit() -> None:
    memory = host(100, overcommit=False)
    add(memory, "a", 60)
    with pytest.raises(
        AdmissionError, match="wants 204800 bytes, 163840 left, 40960 short"
    ) as info:
        add(memory, "b", 50)
    assert info.value.shortfall == 10 * PAGE_SIZE
    assert memory.ledger.count("b", "refused") == 1
    add(memory, "b", 50, max=40)


def test_with_overcommit_only_the_promises_must_fit() -> None:
    memory = host(100)
    add(memory, "a", 90, low=60)
    with pytest.raises(AdmissionError):
        add(memory, "b", 90, low=41)
    add(memory, "b", 90, low=40)
    with pytest.raises(AdmissionError):
        memory.update("b", MemoryKnobs(low=41 * PAGE_SIZE), 5)
    assert memory.promised_pages == 100


def test_the_one_above_its_entitlement_goes_never_a_neighbour() -> None:
    memory = host(100)
    add(memory, "quiet", 90, low=50)
    add(memory, "greedy", 90)
    memory.set_private("quiet", 60)
    memory.set_private("greedy", 40)
    assert memory.enforce(0) == []
    memory.set_private("greedy", 41)
    (error,) = memory.enforce(7)
    assert (error.guest, error.limit, error.resident_bytes) == ("greedy", HOST_FULL, 41 * PAGE_SIZE)
    event = memory.ledger.events("greedy")[-1]
    assert (event.kind, event.time_ns) == ("stopped", 7)
    assert "the host is full" in event.cause


def test_above_its_own_limit() -> None:
    memory = host(100)
    add(memory, "a", 90, max=10)
    memory.set_private("a", 11)
    (error,) = memory.enforce(0)
    assert error.limit == OVER_MAX


def test_shared_pages_count_once_for_the_host_and_whole_for_each_guest() -> None:
    memory = host(100)
    for name in ("a", "b", "c"):
        add(memory, name, 50, group="image")
        memory.set_shared(name, 10)
    add(memory, "stranger", 50)
    memory.set_group("image", 10)
    memory.set_private("a", 5)
    assert memory.resident_pages == 15
    assert [memory.charged_pages(n) for n in ("a", "b", "c", "stranger")] == [15, 10, 10, 0]
    usage = memory.usage("a")
    assert usage.private_bytes == 5 * PAGE_SIZE
    assert usage.shared_bytes == 10 * PAGE_SIZE
    assert usage.saved_bytes == 6 * PAGE_SIZE  # its part of the ten is four, rounded up
    memory.remove("a")
    assert [memory.charged_pages(n) for n in ("b", "c")] == [10, 10]
    memory.remove("b")
    assert memory.usage("c").saved_bytes == 0
    memory.remove("c")
    assert memory.resident_pages == 0
    with pytest.raises(ConfigError):
        memory.set_group("image", 1)


def test_a_guest_is_not_stopped_for_what_its_group_does() -> None:
    memory = host(100)
    for name in ("a", "b"):
        add(memory, name, 50, group="image", max=20)
        memory.set_shared(name, 20)
    memory.set_group("image", 20)
    assert memory.enforce(0) == []
    memory.remove("b")  # its part falls to nobody
    assert memory.enforce(0) == []


def test_stopping_one_frees_the_pages_that_only_it_shared() -> None:
    memory = host(100)
    add(memory, "quiet", 50, low=40, group="g")
    add(memory, "greedy", 90, group="g")
    add(memory, "other", 90, low=40)
    memory.set_private("other", 40)
    memory.set_shared("quiet", 10)
    memory.set_shared("greedy", 70)
    memory.set_group("g", 75)
    assert [error.guest for error in memory.enforce(0)] == ["greedy"]


def test_high_is_recorded_once_per_excess() -> None:
    memory = host(100)
    add(memory, "a", 50, high=10)
    for pages in (9, 12, 14, 8, 11):
        memory.set_private("a", pages)
        assert memory.enforce(0) == []
    assert memory.ledger.count("a", "pressure") == 2
    assert memory.usage("a").over_high_bytes == PAGE_SIZE


def test_knobs_from_a_mapping() -> None:
    knobs = MemoryKnobs.from_mapping({"memory.max": "64M", "low": "1M", "memory.high": "max"})
    assert knobs == MemoryKnobs(64 * MIB, None, MIB)
    with pytest.raises(ConfigError, match="did you mean 'low'"):
        MemoryKnobs.from_mapping({"memory.lo": 1})


class MemoryMachine(RuleBasedStateMachine):
    """Guests come, grow, share and go; the host is enforced after every step."""

    @initialize(pages=st.integers(50, 400), overcommit=st.booleans())
    def start(self, pages: int, overcommit: bool) -> None:
        self.memory = host(pages, overcommit)
        self.capacity = pages
        self.names: list[str] = []
        self.count = 0

    @rule(ram=st.integers(1, 300), low=st.integers(0, 100), group=st.sampled_from(["", "x", "y"]))
    def join(self, ram: int, low: int, group: str) -> None:
        self.count += 1
        name = f"g{self.count}"
        try:
            add(self.memory, name, ram, group, low=low)
        except ConfigError:
            return
        self.names.append(name)

    @precondition(lambda self: self.names)
    @rule(data=st.data(), pages=st.integers(0, 400))
    def grow(self, data: Any, pages: int) -> None:
        self.memory.set_private(data.draw(st.sampled_from(self.names)), pages)

    @rule(group=st.sampled_from(["x", "y"]), data=st.data())
    def share(self, group: str, data: Any) -> None:
        members = [name for name in self.names if self.memory._guests[name].group == group]
        if not members:
            with pytest.raises(ConfigError):
                self.memory.set_group(group, 1)
            return
        for name in members:
            self.memory.set_shared(name, data.draw(st.integers(0, 60)))
        self.recount(group, data.draw(st.integers(0, 60)))

    def recount(self, group: str, more: int = 0) -> None:
        """A group keeps every page that a member refers to, and none that nobody does."""
        shared = [g.shared for g in self.memory._guests.values() if g.group == group]
        if shared:
            self.memory.set_group(group, min(max(shared) + more, sum(shared)))

    def remove(self, name: str) -> None:
        self.names.remove(name)
        self.memory.remove(name)
        for group in ("x", "y"):
            self.recount(group)

    @precondition(lambda self: self.names)
    @rule(data=st.data())
    def leave(self, data: Any) -> None:
        name = data.draw(st.sampled_from(self.names))
        self.remove(name)

    @rule()
    def enforce(self) -> None:
        entitled = {name: self.memory.entitled_pages(name) for name in self.names}
        charged = {name: self.memory.charged_pages(name) for name in self.names}
        assert sum(entitled.values()) <= self.capacity
        for error in self.memory.enforce(0):
            assert charged[error.guest] > entitled[error.guest]
            self.remove(error.guest)
        assert self.memory.enforce(0) == []
        assert self.memory.resident_pages <= self.capacity

    @invariant()
    def admitted_no_more_than_there_is(self) -> None:
        if hasattr(self, "memory"):
            assert self.memory.promised_pages <= self.capacity
            total = sum(self.memory.charged_pages(name) for name in self.names)
            assert total >= self.memory.resident_pages
            for name in self.names:
                usage = self.memory.usage(name)
                assert 0 <= usage.saved_bytes <= usage.shared_bytes


TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(
    max_examples=80, stateful_step_count=30, deadline=None, derandomize=True, database=None
)
