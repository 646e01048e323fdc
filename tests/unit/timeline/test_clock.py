"""The clock: exact within a slice, never backwards, steps and nanoseconds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.base.errors import ConfigError
from asyncvmm.timeline.clock import Clock, TimeSource
from asyncvmm.timeline.events import FOREVER, Timeline


class Hand(TimeSource):
    """Time set by hand."""

    def __init__(self, ns: int) -> None:
        self.ns = ns

    def time_ns(self) -> int:
        return self.ns


def test_time_is_the_running_sources_or_the_timelines() -> None:
    timeline = Timeline()
    clock = Clock(timeline)
    timeline.now_ns = 40
    assert clock.now_ns() == 40
    clock.running = Hand(75)
    assert clock.now_ns() == 75


def test_a_reading_is_never_less_than_one_before() -> None:
    timeline = Timeline()
    clock = Clock(timeline)
    first, second = Hand(9000), Hand(2000)
    clock.running = first
    assert clock.now_ns() == 9000
    clock.running = second
    assert clock.now_ns() == 9000
    second.ns = 9001
    assert clock.now_ns() == 9001


def test_events_are_counted_from_the_exact_time() -> None:
    timeline = Timeline()
    clock = Clock(timeline)
    clock.running = Hand(500)
    assert clock.after(10, lambda: None).time_ns == 510
    assert clock.at(3, lambda: None).time_ns == 500


@settings(derandomize=True, deadline=None)
@given(mips=st.integers(1, 5000), ns=st.integers(0, 10**13))
def test_steps_for_is_the_fewest_steps_that_take_as_long(mips: int, ns: int) -> None:
    clock = Clock(Timeline(), mips)
    steps = clock.steps_for(ns)
    assert clock.ns_for(steps) >= ns
    assert steps == 0 or clock.ns_for(steps - 1) < ns


def test_steps_for_a_time_far_away_saturates() -> None:
    assert Clock(Timeline(), 1_000_000).steps_for(FOREVER) > 10**18


def test_when_is_the_inverse_of_mtime() -> None:
    timeline = Timeline()
    clock = Clock(timeline)
    timeline.now_ns = 1234
    clock.set_mtime(1000)
    assert clock.when(1001) == 1300
    assert clock.when(999) == FOREVER
    assert clock.when(-1) == FOREVER


@pytest.mark.parametrize("mips", [0, -5, 1_000_001])
def test_mips_is_checked(mips: int) -> None:
    with pytest.raises(ConfigError, match="mips"):
        Clock(Timeline(), mips)
