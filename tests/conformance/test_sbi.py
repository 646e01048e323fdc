"""RISC-V SBI specification 2.0, tests named after its chapters; harts are set up by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.arch.code import CodeCache
from asyncvmm.arch.hart import STARTED, STOPPED, Hart
from asyncvmm.bus.address_map import Bus
from asyncvmm.firmware.sbi import Sbi, SbiConsole, SystemReset
from asyncvmm.memory.pages import Ram
from asyncvmm.timeline.clock import Clock
from asyncvmm.timeline.events import Timeline

RAM = 0x80000000
SSI, STI = 1 << 1, 1 << 5
NOT_SUPPORTED, INVALID_PARAM, INVALID_ADDRESS, ALREADY_AVAILABLE = -2, -3, -5, -6
BASE, TIME, IPI, RFENCE = 0x10, 0x54494D45, 0x735049, 0x52464E43
HSM, SRST, DBCN, STA = 0x48534D, 0x53525354, 0x4442434E, 0x535441


class Terminal(SbiConsole):
    """Keeps what is written and gives what was typed."""

    def __init__(self) -> None:
        self.written = b""
        self.typed = b""

    def write(self, data: bytes) -> int:
        self.written += data
        return len(data)

    def read(self, limit: int) -> bytes:
        data, self.typed = self.typed[:limit], self.typed[limit:]
        return data


class Resets(SystemReset):
    """Keeps the resets asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def system_reset(self, reset_type: int, reason: int) -> None:
        self.asked.append((reset_type, reason))


class Bench:
    """SBI under harts in S-mode; ``call`` is an ECALL of hart 0 unless told otherwise."""

    def __init__(self, harts: int = 3) -> None:
        self.timeline = Timeline()
        self.clock = Clock(self.timeline)
        self.ram = Ram(RAM, 1 << 20)
        bus, code = Bus(), CodeCache()
        self.harts = [Hart(i, self.ram, bus, code) for i in range(harts)]
        for hart in self.harts:
            hart.priv = 1
        self.terminal, self.resets = Terminal(), Resets()
        self.sbi = Sbi(self.clock, self.harts, self.terminal, self.resets)

    def call(
        self, extension: int, function: int, *arguments: int, hart: int = 0
    ) -> tuple[int, int]:
        x = self.harts[hart].x
        for i in range(6):
            x[10 + i] = arguments[i] if i < len(arguments) else 0
        x[16], x[17] = function, extension
        assert self.sbi.ecall(self.harts[hart])
        return x[10], x[11]

    def go_to(self, ns: int) -> None:
        while self.timeline.next_time_ns() <= ns:
            self.timeline.now_ns = self.timeline.next_time_ns()
            self.timeline.run_due()
        self.timeline.now_ns = ns

    def pending(self, bit: int) -> list[bool]:
        return [hart.mip_soft & bit != 0 for hart in self.harts]


def test_3_ecalls_of_other_modes_are_not_served() -> None:
    bench = Bench()
    for priv in (0, 3):
        bench.harts[0].priv = priv
        assert not bench.sbi.ecall(bench.harts[0])


def test_3_only_a0_and_a1_change() -> None:
    bench = Bench()
    for i in range(1, 32):
        bench.harts[0].x[i] = 1000 + i
    bench.call(BASE, 0, *range(1010, 1016))
    kept = [bench.harts[0].x[i] for i in range(1, 32) if i not in (10, 11, 16, 17)]
    assert kept == [1000 + i for i in range(1, 32) if i not in (10, 11, 16, 17)]


def test_3_1_unknown_extensions_and_functions_are_not_supported() -> None:
    bench = Bench()
    assert bench.call(0x0A000000, 0) == (NOT_SUPPORTED, 0)
    assert bench.call(-1, 0) == (NOT_SUPPORTED, 0)
    for extension in (BASE, TIME, IPI, RFENCE, HSM, SRST, DBCN, STA):
        assert bench.call(extension, 99) == (NOT_SUPPORTED, 0)
        assert bench.call(extension, -1) == (NOT_SUPPORTED, 0)


def test_4_base() -> None:
    bench = Bench()
    assert bench.call(BASE, 0) == (0, 2 << 24)
    for extension in (BASE, TIME, IPI, RFENCE, HSM, SRST, DBCN, STA, 0, 1, 2):
        assert bench.call(BASE, 3, extension) == (0, 1)
    for extension in (0x504D55, 4, -1):
        assert bench.call(BASE, 3, extension) == (0, 0)
    for function in (4, 5, 6):
        assert bench.call(BASE, function) == (0, 0)


def test_16_steal_time_shared_memory() -> None:
    bench = Bench()
    ram = bench.harts[0].ram
    at = int(ram.base) + 0x4000
    ram.write(at, b"\xff" * 64)
    assert bench.call(STA, 0, at + 1, 0, 0)[0] == -3  # not on 64 bytes
    assert bench.call(STA, 0, at, 0, 1)[0] == -3  # flags are reserved
    assert bench.call(STA, 0, at, 1, 0)[0] == -5  # not in memory
    assert not bench.sbi.reports_steal()
    assert bench.call(STA, 0, at, 0, 0) == (0, 0)
    assert bench.sbi.reports_steal()
    assert ram.read(at, 64) == bytes(64)
    bench.sbi.set_steal(0, 123_456)
    assert ram.load(at, 4) == 2  # even: stable
    assert ram.load(at + 8, 8) == 123_456
    assert bench.call(STA, 0, -1, -1, 0) == (0, 0)
    bench.sbi.set_steal(0, 999_999)
    assert ram.load(at + 8, 8) == 123_456
    assert bench.call(STA, 1)[0] == -2


def test_5_legacy_console() -> None:
    bench = Bench()
    bench.harts[0].x[11] = 77
    assert bench.call(1, 0, ord("A"))[0] == 0
    assert bench.terminal.written == b"A"
    assert bench.call(2, 0)[0] == -1
    bench.terminal.typed = b"xy"
    assert bench.call(2, 0, 0, 77) == (ord("x"), 77)


def test_5_legacy_timer_and_shutdown() -> None:
    bench = Bench()
    bench.call(0, 0, 7)
    bench.go_to(700)
    assert bench.pending(STI) == [True, False, False]
    bench.call(8, 0)
    assert bench.resets.asked == [(0, 0)]


def test_6_timer_rises_exactly_at_its_time_on_the_calling_hart() -> None:
    bench = Bench()
    assert bench.call(TIME, 0, 50, hart=1) == (0, 0)
    bench.go_to(4999)
    assert bench.pending(STI) == [False, False, False]
    bench.go_to(5000)
    assert bench.pending(STI) == [False, True, False]


def test_6_setting_the_timer_clears_the_pending_bit_and_replaces_the_time() -> None:
    bench = Bench()
    bench.go_to(1000)
    bench.call(TIME, 0, 3)
    assert bench.pending(STI)[0]
    bench.call(TIME, 0, 100)
    assert not bench.pending(STI)[0]
    bench.call(TIME, 0, -1)
    bench.go_to(10**15)
    assert not bench.pending(STI)[0]


def test_7_ipi_masks() -> None:
    bench = Bench()
    assert bench.call(IPI, 0, 0b110, 0) == (0, 0)
    assert bench.pending(SSI) == [False, True, True]
    bench = Bench()
    assert bench.call(IPI, 0, 1, 2) == (0, 0)
    assert bench.pending(SSI) == [False, False, True]
    bench = Bench()
    assert bench.call(IPI, 0, 0, -1) == (0, 0)
    assert bench.pending(SSI) == [True, True, True]


@pytest.mark.parametrize(("mask", "base"), [(0b1000, 0), (1, 3), (0b10, 2), (-1, 0), (1, -2)])
def test_7_ipi_to_a_hart_that_does_not_exist_is_refused_whole(mask: int, base: int) -> None:
    bench = Bench()
    assert bench.call(IPI, 0, mask, base) == (INVALID_PARAM, 0)
    assert bench.pending(SSI) == [False, False, False]


def test_8_remote_fences_reach_the_harts_of_the_mask() -> None:
    bench = Bench()
    before = [hart.tlb.flushes for hart in bench.harts]
    assert bench.call(RFENCE, 1, 0b101, 0, 0, -1) == (0, 0)
    grown = [hart.tlb.flushes > was for hart, was in zip(bench.harts, before, strict=True)]
    assert grown == [True, False, True]
    assert bench.call(RFENCE, 2, 0b010, 0, 0x1000, 0x3000, 5) == (0, 0)
    assert bench.harts[1].tlb.flushes == before[1] + 3
    assert bench.call(RFENCE, 0, 0, -1) == (0, 0)
    assert bench.call(RFENCE, 1, 0b1000, 0, 0, 0) == (INVALID_PARAM, 0)
    assert bench.call(RFENCE, 3, 1, 0, 0, 0) == (NOT_SUPPORTED, 0)


def test_8_fences_of_wild_ranges_end() -> None:
    bench = Bench()
    for start, size in (
        (0, -1),
        (-4096, 1 << 62),
        (5, 1 << 40),
        ((1 << 63) - 1, 8),
        (-1, 1),
        (0, 0),
    ):
        assert bench.call(RFENCE, 1, 1, 0, start, size) == (0, 0)


def test_9_1_hart_start() -> None:
    bench = Bench()
    target = bench.harts[2]
    target.state, target.priv, target.satp = STOPPED, 3, -1
    target.mstatus = 2
    assert bench.call(HSM, 2, 2) == (0, 1)
    assert bench.call(HSM, 0, 2, RAM + 0x100, 0x1234) == (0, 0)
    assert (target.state, target.priv, target.satp, target.pc) == (STARTED, 1, 0, RAM + 0x100)
    assert (target.x[10], target.x[11], target.mstatus & 2) == (2, 0x1234, 0)
    assert bench.call(HSM, 2, 2) == (0, 0)


def test_9_1_hart_start_errors() -> None:
    bench = Bench()
    bench.harts[1].state = STOPPED
    assert bench.call(HSM, 0, 3, RAM, 0) == (INVALID_PARAM, 0)
    assert bench.call(HSM, 0, -1, RAM, 0) == (INVALID_PARAM, 0)
    assert bench.call(HSM, 0, 2, RAM, 0) == (ALREADY_AVAILABLE, 0)
    for address in (0, RAM - 2, RAM + (1 << 20), RAM + 1, -2):
        assert bench.call(HSM, 0, 1, address, 0) == (INVALID_ADDRESS, 0)
    assert bench.harts[1].state == STOPPED


def test_9_2_hart_stop() -> None:
    bench = Bench()
    bench.call(TIME, 0, 50, hart=1)
    bench.call(HSM, 1, hart=1)
    assert (bench.harts[1].state, bench.harts[1].stop) == (STOPPED, True)
    bench.go_to(10_000)
    assert bench.pending(STI) == [False, False, False]
    assert bench.call(IPI, 0, 0b10, 0) == (0, 0)
    assert bench.pending(SSI) == [False, False, False]


def test_9_3_status_of_absent_harts() -> None:
    bench = Bench()
    assert bench.call(HSM, 2, 3) == (INVALID_PARAM, 0)
    assert bench.call(HSM, 2, -1) == (INVALID_PARAM, 0)


def test_9_4_retentive_suspend_waits_for_an_interrupt() -> None:
    bench = Bench()
    assert bench.call(HSM, 3, 0, hart=1) == (0, 0)
    assert bench.harts[1].waiting
    assert bench.call(HSM, 2, 1) == (0, 4)
    bench.harts[1].waiting = False
    bench.sbi.wakes(bench.harts[1])
    assert bench.call(HSM, 2, 1) == (0, 0)


def test_9_4_suspend_with_a_pending_interrupt_returns_at_once() -> None:
    bench = Bench()
    bench.harts[0].mie = SSI
    bench.call(IPI, 0, 1, 0)
    assert bench.call(HSM, 3, 0) == (0, 0)
    assert not bench.harts[0].waiting


def test_9_4_non_retentive_suspend_resumes_at_the_given_address() -> None:
    bench = Bench()
    hart = bench.harts[1]
    hart.satp, hart.mstatus = 5, 2
    bench.call(HSM, 3, 0x80000000, RAM + 0x40, 77, hart=1)
    assert (hart.waiting, hart.pc, hart.satp, hart.mstatus & 2) == (True, RAM + 0x40, 0, 0)
    assert (hart.x[10], hart.x[11]) == (1, 77)
    assert bench.call(HSM, 3, 0x80000000, 3, 77) == (INVALID_ADDRESS, 0)


@pytest.mark.parametrize(
    ("kind", "error"),
    [(0x90000000, NOT_SUPPORTED), (0x10000000, NOT_SUPPORTED), (1, INVALID_PARAM)],
)
def test_9_4_other_suspend_types(kind: int, error: int) -> None:
    assert Bench().call(HSM, 3, kind) == (error, 0)


def test_10_system_reset() -> None:
    bench = Bench()
    for kind, reason in ((0, 0), (1, 1), (2, 0)):
        bench.call(SRST, 0, kind, reason)
    assert bench.resets.asked == [(0, 0), (1, 1), (2, 0)]
    assert bench.call(SRST, 0, 3, 0) == (INVALID_PARAM, 0)
    assert bench.call(SRST, 0, 0xF0000000, 0) == (NOT_SUPPORTED, 0)
    assert bench.call(SRST, 0, 0, 2) == (INVALID_PARAM, 0)
    assert len(bench.resets.asked) == 3


def test_12_console_write() -> None:
    bench = Bench()
    bench.ram.write(RAM + 0xFFD, b"hello")
    assert bench.call(DBCN, 0, 5, RAM + 0xFFD, 0) == (0, 5)
    assert bench.terminal.written == b"hello"
    assert bench.call(DBCN, 2, 0x141) == (0, 0)
    assert bench.terminal.written == b"helloA"


def test_12_console_read() -> None:
    bench = Bench()
    assert bench.call(DBCN, 1, 8, RAM, 0) == (0, 0)
    bench.terminal.typed = b"typed"
    assert bench.call(DBCN, 1, 3, RAM + 1, 0) == (0, 3)
    assert bench.ram.read(RAM, 8) == b"\0typ\0\0\0\0"


@pytest.mark.parametrize("function", [0, 1])
@pytest.mark.parametrize(
    ("length", "low", "high"),
    [
        (1, RAM - 1, 0),
        (2, RAM + (1 << 20) - 1, 0),
        (-1, RAM, 0),
        (1, -1, 0),
        (1, RAM, 1),
        ((1 << 63) - 1, RAM, 0),
    ],
)
def test_12_buffers_outside_ram_are_refused(
    function: int, length: int, low: int, high: int
) -> None:
    bench = Bench()
    bench.terminal.typed = b"x"
    assert bench.call(DBCN, function, length, low, high) == (INVALID_PARAM, 0)
    assert bench.terminal.written == b""


words = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.integers(-2, 5), st.integers(RAM - 8, RAM + (1 << 20) + 8)
)
extensions = st.one_of(
    st.sampled_from([0, 1, 2, 3, 8, BASE, TIME, IPI, RFENCE, HSM, SRST, DBCN]), words
)


@settings(derandomize=True, deadline=None, max_examples=400)
@given(
    calls=st.lists(
        st.tuples(extensions, st.one_of(st.integers(0, 7), words), st.lists(words, max_size=5)),
        max_size=12,
    )
)
def test_wild_calls_are_answered_and_change_nothing_outside_ram(
    calls: list[tuple[int, int, list[int]]],
) -> None:
    bench = Bench()
    bench.terminal.typed = b"typed" * 100
    for extension, function, arguments in calls:
        error, _ = bench.call(extension, function, *arguments)
        assert extension in (2, 3) or -8 <= error <= 0 or extension == HSM
    assert bench.timeline.now_ns == 0
    assert len(bench.timeline) <= 12
