"""RISC-V PLIC specification 1.0.0, tests named after its chapters."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from asyncvmm.base.errors import ConfigError, GuestError
from asyncvmm.interrupts.lines import InterruptSink
from asyncvmm.platform.plic import Plic

MEI, SEI = 11, 9
M0, S0, M1, S1 = 0, 1, 2, 3


class Pins(InterruptSink):
    """A hart's interrupt inputs, as the numbers that are high."""

    def __init__(self) -> None:
        self.high: set[int] = set()

    def set_level(self, number: int, level: bool) -> None:
        (self.high.add if level else self.high.discard)(number)


class Bench:
    """A PLIC with two harts and a driver's view of it."""

    def __init__(self, sources: int = 127) -> None:
        self.harts = [Pins(), Pins()]
        self.plic = Plic(list(self.harts), sources)

    def priority(self, source: int, value: int) -> None:
        self.plic.write(4 * source, 4, value)

    def enable(self, context: int, *sources: int) -> None:
        words = [0, 0, 0, 0]
        for source in sources:
            words[source // 32] |= 1 << (source % 32)
        for i, word in enumerate(words):
            self.plic.write(0x2000 + 0x80 * context + 4 * i, 4, word)

    def threshold(self, context: int, value: int) -> None:
        self.plic.write(0x200000 + 0x1000 * context, 4, value)

    def line(self, source: int, level: bool) -> None:
        self.plic.input.set_level(source, level)

    def claim(self, context: int) -> int:
        return self.plic.read(0x200004 + 0x1000 * context, 4)

    def complete(self, context: int, source: int) -> None:
        self.plic.write(0x200004 + 0x1000 * context, 4, source)

    def pending(self) -> set[int]:
        words = [self.plic.read(0x1000 + 4 * i, 4) for i in range(4)]
        return {32 * i + b for i, word in enumerate(words) for b in range(32) if word >> b & 1}

    def ready(self, context: int, *sources: int) -> None:
        for source in sources:
            self.priority(source, 1)
        self.enable(context, *sources)


def test_4_priority_zero_never_interrupts() -> None:
    bench = Bench()
    bench.enable(S0, 10)
    bench.line(10, True)
    assert bench.pending() == {10}
    assert bench.harts[0].high == set()
    assert bench.claim(S0) == 0
    bench.priority(10, 1)
    assert bench.harts[0].high == {SEI}


def test_4_priority_is_warl_with_three_bits() -> None:
    bench = Bench()
    bench.priority(5, 0xFFFFFFFF)
    assert bench.plic.read(4 * 5, 4) == 7
    bench.priority(0, 3)
    assert bench.plic.read(0, 4) == 0


def test_5_pending_bits_are_read_only() -> None:
    bench = Bench()
    bench.ready(S0, 3)
    bench.plic.write(0x1000, 4, 0xFFFFFFFF)
    assert bench.pending() == set()
    assert bench.harts[0].high == set()


def test_6_enables_are_per_context_and_source_zero_does_not_exist() -> None:
    bench = Bench()
    bench.enable(M1, 0, 1, 33, 64, 127)
    reads = [bench.plic.read(0x2000 + 0x80 * M1 + 4 * i, 4) for i in range(4)]
    assert reads == [2, 2, 1, 0x80000000]
    assert bench.plic.read(0x2000 + 0x80 * S0, 4) == 0


def test_6_enables_of_absent_sources_stay_zero() -> None:
    bench = Bench(sources=31)
    bench.enable(S0, 30, 31, 32, 100)
    reads = [bench.plic.read(0x2000 + 0x80 * S0 + 4 * i, 4) for i in range(4)]
    assert reads == [0xC0000000, 0, 0, 0]


def test_6_contexts_drive_mei_and_sei_of_their_hart() -> None:
    bench = Bench()
    bench.ready(M1, 7)
    bench.line(7, True)
    assert [pins.high for pins in bench.harts] == [set(), {MEI}]
    bench.enable(M1)
    bench.enable(S0, 7)
    assert [pins.high for pins in bench.harts] == [{SEI}, set()]


def test_7_threshold_masks_priorities_up_to_it() -> None:
    bench = Bench()
    bench.ready(S0, 9)
    bench.priority(9, 3)
    bench.threshold(S0, 3)
    bench.line(9, True)
    assert bench.harts[0].high == set()
    bench.threshold(S0, 2)
    assert bench.harts[0].high == {SEI}


def test_8_claim_is_not_affected_by_the_threshold() -> None:
    bench = Bench()
    bench.ready(S0, 9)
    bench.threshold(S0, 7)
    bench.line(9, True)
    assert bench.claim(S0) == 9


def test_8_claim_returns_highest_priority_then_lowest_number() -> None:
    bench = Bench()
    bench.ready(S0, 4, 8, 70, 100)
    bench.priority(70, 5)
    bench.priority(100, 5)
    for source in (100, 70, 8, 4):
        bench.line(source, True)
    assert [bench.claim(S0) for _ in range(5)] == [70, 100, 4, 8, 0]


def test_8_claim_clears_pending_and_the_notification() -> None:
    bench = Bench()
    bench.ready(S0, 10)
    bench.line(10, True)
    assert bench.claim(S0) == 10
    assert bench.pending() == set()
    assert bench.harts[0].high == set()


def test_8_claim_by_one_context_takes_it_from_the_others() -> None:
    bench = Bench()
    bench.ready(S0, 10)
    bench.enable(S1, 10)
    bench.line(10, True)
    assert [pins.high for pins in bench.harts] == [{SEI}, {SEI}]
    assert bench.claim(S1) == 10
    assert [pins.high for pins in bench.harts] == [set(), set()]
    assert bench.claim(S0) == 0


def test_9_gateway_waits_for_completion_before_the_next_request() -> None:
    bench = Bench()
    bench.ready(S0, 10)
    bench.line(10, True)
    bench.claim(S0)
    bench.line(10, False)
    bench.line(10, True)
    assert bench.pending() == set()
    bench.complete(S0, 10)
    assert bench.pending() == {10}
    assert bench.harts[0].high == {SEI}


def test_9_completion_of_a_low_line_requests_nothing() -> None:
    bench = Bench()
    bench.ready(S0, 10)
    bench.line(10, True)
    bench.claim(S0)
    bench.line(10, False)
    bench.complete(S0, 10)
    assert bench.pending() == set()
    bench.line(10, True)
    assert bench.pending() == {10}


def test_9_completion_for_a_source_not_enabled_is_ignored() -> None:
    bench = Bench()
    bench.ready(S0, 10)
    bench.line(10, True)
    bench.claim(S0)
    bench.complete(S1, 10)
    bench.complete(S0, 11)
    bench.complete(S0, 4096)
    assert bench.pending() == set()
    bench.complete(S0, 10)
    assert bench.pending() == {10}


def test_2_request_stays_pending_when_the_line_falls_before_the_claim() -> None:
    bench = Bench()
    bench.ready(S0, 10)
    bench.line(10, True)
    bench.line(10, False)
    assert bench.claim(S0) == 10


def test_3_absent_registers_read_zero_and_ignore_writes() -> None:
    bench = Bench()
    for offset in (
        0x1010,
        0x2010,
        0x2000 + 0x80 * 4,
        0x200008,
        0x204000,
        0x204004,
        0x5FFFFC,
        128 * 4,
    ):
        bench.plic.write(offset, 4, 0xFFFFFFFF)
        assert bench.plic.read(offset, 4) == 0


@pytest.mark.parametrize("size", [1, 2, 8])
def test_registers_are_32_bits_wide(size: int) -> None:
    plic = Bench().plic
    with pytest.raises(GuestError):
        plic.read(0, size)
    with pytest.raises(GuestError):
        plic.write(0x200000, size, 0)


@pytest.mark.parametrize("sources", [0, 128])
def test_source_count_is_checked(sources: int) -> None:
    with pytest.raises(ConfigError, match="1 to 127"):
        Plic([Pins()], sources)


class PlicAgainstModel(RuleBasedStateMachine):
    """Random drivers and devices, against a model made of Python sets."""

    sources = st.sampled_from([1, 2, 31, 32, 63, 64, 127])
    contexts = st.sampled_from([M0, S0, S1])

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.high: set[int] = set()
        self.requested: set[int] = set()
        self.served: set[int] = set()
        self.priorities = dict.fromkeys(range(128), 0)
        self.enables: dict[int, set[int]] = {context: set() for context in range(4)}
        self.thresholds = dict.fromkeys(range(4), 0)

    def best(self, context: int, above: int) -> int:
        ready = [s for s in self.requested & self.enables[context] if self.priorities[s] > above]
        return min(ready, key=lambda s: (-self.priorities[s], s), default=0)

    @rule(source=sources, level=st.booleans())
    def drive(self, source: int, level: bool) -> None:
        if level == (source in self.high):
            return
        self.bench.line(source, level)
        if level:
            self.high.add(source)
            if source not in self.served:
                self.requested.add(source)
        else:
            self.high.discard(source)

    @rule(source=sources, value=st.integers(0, 7))
    def set_priority(self, source: int, value: int) -> None:
        self.bench.priority(source, value)
        self.priorities[source] = value

    @rule(context=contexts, chosen=st.sets(sources))
    def set_enables(self, context: int, chosen: set[int]) -> None:
        self.bench.enable(context, *chosen)
        self.enables[context] = chosen

    @rule(context=contexts, value=st.integers(0, 7))
    def set_threshold(self, context: int, value: int) -> None:
        self.bench.threshold(context, value)
        self.thresholds[context] = value

    @rule(context=contexts)
    def claim(self, context: int) -> None:
        expected = self.best(context, 0)
        assert self.bench.claim(context) == expected
        if expected:
            self.requested.discard(expected)
            self.served.add(expected)

    @rule(context=contexts, source=sources)
    def complete(self, context: int, source: int) -> None:
        self.bench.complete(context, source)
        if source in self.enables[context]:
            self.served.discard(source)
            if source in self.high:
                self.requested.add(source)

    @invariant()
    def notifications_agree(self) -> None:
        assert self.bench.pending() == self.requested
        for context in range(4):
            number = SEI if context & 1 else MEI
            expected = self.best(context, self.thresholds[context]) != 0
            assert (number in self.bench.harts[context >> 1].high) == expected


TestPlicAgainstModel = PlicAgainstModel.TestCase
TestPlicAgainstModel.settings = settings(
    max_examples=60, stateful_step_count=40, derandomize=True, deadline=None
)
