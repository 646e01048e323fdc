"""RISC-V ACLINT specification 1.0-rc4, chapters 2 (MTIMER) and 3 (MSWI), in the CLINT's layout."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.base.errors import GuestError
from asyncvmm.interrupts.lines import InterruptSink
from asyncvmm.platform.aclint import MTIME, MTIMECMP, Aclint
from asyncvmm.timeline.clock import Clock
from asyncvmm.timeline.events import FOREVER, Timeline

MSI, MTI = 3, 7


class Pins(InterruptSink):
    """A hart's interrupt inputs, as the numbers that are high."""

    def __init__(self) -> None:
        self.high: set[int] = set()

    def set_level(self, number: int, level: bool) -> None:
        (self.high.add if level else self.high.discard)(number)


class Bench:
    """An ACLINT with hand-driven time."""

    def __init__(self, harts: int = 1) -> None:
        self.timeline = Timeline()
        self.clock = Clock(self.timeline)
        self.harts = [Pins() for _ in range(harts)]
        self.aclint = Aclint(self.clock, list(self.harts))

    def go_to(self, ns: int) -> None:
        while self.timeline.next_time_ns() <= ns:
            self.timeline.now_ns = self.timeline.next_time_ns()
            self.timeline.run_due()
        self.timeline.now_ns = ns


def test_2_1_mtime_counts_at_the_timebase_frequency() -> None:
    bench = Bench()
    bench.go_to(99)
    assert bench.aclint.read(MTIME, 8) == 0
    bench.go_to(1_000_000_000)
    assert bench.aclint.read(MTIME, 8) == 10_000_000


def test_2_1_mtime_is_writable_and_counts_on() -> None:
    bench = Bench()
    bench.aclint.write(MTIME, 8, 5000)
    bench.go_to(1000)
    assert bench.aclint.read(MTIME, 8) == 5010


def test_2_1_mtime_halves_are_written_alone() -> None:
    bench = Bench()
    bench.aclint.write(MTIME + 4, 4, 7)
    bench.aclint.write(MTIME, 4, 9)
    assert bench.aclint.read(MTIME, 8) == (7 << 32) | 9
    assert bench.aclint.read(MTIME + 4, 4) == 7


def test_2_2_interrupt_rises_exactly_when_mtime_reaches_mtimecmp() -> None:
    bench = Bench()
    bench.aclint.write(MTIMECMP, 8, 10)
    bench.go_to(999)
    assert bench.harts[0].high == set()
    bench.go_to(1000)
    assert bench.harts[0].high == {MTI}


def test_2_2_interrupt_stays_until_mtimecmp_is_greater() -> None:
    bench = Bench()
    bench.aclint.write(MTIMECMP, 8, 0)
    assert bench.harts[0].high == {MTI}
    bench.go_to(1_000_000)
    assert bench.harts[0].high == {MTI}
    bench.aclint.write(MTIMECMP, 8, 20_000)
    assert bench.harts[0].high == set()


def test_2_2_comparison_is_unsigned() -> None:
    bench = Bench()
    bench.aclint.write(MTIMECMP, 8, -1)
    assert bench.harts[0].high == set()
    bench.aclint.write(MTIME, 8, -2)
    assert bench.harts[0].high == set()
    bench.go_to(100)
    assert bench.harts[0].high == {MTI}


def test_2_2_interrupt_falls_when_mtime_wraps() -> None:
    bench = Bench()
    bench.aclint.write(MTIMECMP, 8, 5)
    bench.aclint.write(MTIME, 8, -2)
    assert bench.harts[0].high == {MTI}
    bench.go_to(200)
    assert bench.harts[0].high == set()
    bench.go_to(700)
    assert bench.harts[0].high == {MTI}


def test_2_2_writing_mtime_moves_the_interrupt() -> None:
    bench = Bench()
    bench.aclint.write(MTIMECMP, 8, 1000)
    bench.aclint.write(MTIME, 8, 999)
    assert bench.harts[0].high == set()
    bench.go_to(100)
    assert bench.harts[0].high == {MTI}


def test_2_2_each_hart_has_its_own_mtimecmp() -> None:
    bench = Bench(harts=3)
    bench.aclint.write(MTIMECMP + 16, 8, 1)
    bench.go_to(100)
    assert [pins.high for pins in bench.harts] == [set(), set(), {MTI}]
    assert bench.aclint.read(MTIMECMP + 16, 8) == 1
    assert bench.aclint.read(MTIMECMP + 8, 4) == 0xFFFFFFFF


def test_2_2_mtimecmp_written_in_halves_as_the_privileged_manual_shows() -> None:
    bench = Bench()
    bench.go_to(5000)
    for offset, value in ((0, 0xFFFFFFFF), (4, 0), (0, 60)):
        bench.aclint.write(MTIMECMP + offset, 4, value)
        assert bench.harts[0].high == set()
    bench.go_to(6000)
    assert bench.harts[0].high == {MTI}


def test_2_2_mtimecmp_zero_with_mtime_zero_schedules_nothing() -> None:
    bench = Bench()
    bench.aclint.write(MTIMECMP, 8, 0)
    assert bench.timeline.next_time_ns() == FOREVER


def test_3_1_msip_bit_0_drives_the_software_interrupt() -> None:
    bench = Bench(harts=2)
    bench.aclint.write(4, 4, 0xFFFFFFFF)
    assert [pins.high for pins in bench.harts] == [set(), {MSI}]
    assert bench.aclint.read(4, 4) == 1
    bench.aclint.write(4, 4, 2)
    assert bench.harts[1].high == set()


def test_3_1_registers_of_absent_harts_read_zero() -> None:
    bench = Bench()
    bench.aclint.write(4 * 9, 4, 1)
    bench.aclint.write(MTIMECMP + 8 * 9, 8, 1)
    assert bench.aclint.read(4 * 9, 4) == 0
    assert bench.aclint.read(MTIMECMP + 8 * 9, 8) == 0


@pytest.mark.parametrize(("offset", "size"), [(0, 1), (0, 8), (MTIMECMP, 2), (MTIME, 1)])
def test_other_widths_are_refused(offset: int, size: int) -> None:
    bench = Bench()
    with pytest.raises(GuestError):
        bench.aclint.read(offset, size)
    with pytest.raises(GuestError):
        bench.aclint.write(offset, size, 0)


def test_a_guest_that_rearms_for_ever_costs_no_memory() -> None:
    bench = Bench()
    for i in range(20_000):
        bench.aclint.write(MTIMECMP, 8, 1_000_000 - i)
    assert len(bench.timeline) < 3000


values = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-3, 300))
offsets = st.one_of(st.sampled_from([MTIME, MTIMECMP, MTIMECMP + 8]), st.integers(0, 0xFFF8))


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    writes=st.lists(st.tuples(offsets, st.sampled_from([4, 8]), values), max_size=12),
    steps=st.lists(st.integers(0, 20_000), min_size=1, max_size=6),
)
def test_2_2_the_line_is_high_exactly_while_mtime_has_reached_mtimecmp(
    writes: list[tuple[int, int, int]], steps: list[int]
) -> None:
    bench = Bench(harts=2)
    for number, (offset, size, value) in enumerate(writes):
        if offset % size == 0 and (offset >= MTIMECMP or size == 4):
            bench.aclint.write(offset, size, value)
        bench.go_to(bench.timeline.now_ns + steps[number % len(steps)])
        mtime = bench.aclint.read(MTIME, 8) % 2**64
        for hart, pins in enumerate(bench.harts):
            compare = bench.aclint.read(MTIMECMP + 8 * hart, 8) % 2**64
            assert (MTI in pins.high) == (mtime >= compare)
