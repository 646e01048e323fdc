"""The scheduler under a scripted engine: exact instants, sleeping, quanta, and splitting of runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.arch.code import CodeCache
from asyncvmm.arch.hart import EXIT_BUDGET, EXIT_STOP, EXIT_WFI, STARTED, STOPPED, Hart
from asyncvmm.bus.address_map import Bus
from asyncvmm.engine.interpreter import Engine
from asyncvmm.machine.scheduler import (
    RAN_ASLEEP,
    RAN_IDLE,
    RAN_PAUSE,
    RAN_STEPS,
    RAN_STOP,
    RAN_TIME,
    UNLIMITED,
    Scheduler,
)
from asyncvmm.memory.pages import Ram
from asyncvmm.timeline.clock import Clock
from asyncvmm.timeline.events import Timeline

Action = Callable[[], None]
SSI = 1


class Script(Engine):
    """Does ``actions[hart][n]`` in the hart's n-th step (from 1) and nothing in the others."""

    def __init__(self, actions: dict[int, dict[int, Action]]) -> None:
        self.actions = actions
        self.slices: list[tuple[int, int, int]] = []

    def run(self, hart: Hart, budget: int) -> int:
        assert budget > 0
        number, first = int(hart.hart_id), int(hart.steps)
        hart.steps_end = hart.steps + budget
        reason = self.steps_of(hart)
        self.slices.append((number, first, int(hart.steps)))
        return reason

    def steps_of(self, hart: Hart) -> int:
        mine = self.actions.get(int(hart.hart_id), {})
        while True:
            if hart.stop:
                return EXIT_STOP
            if hart.steps >= hart.steps_end:
                return EXIT_BUDGET
            if hart.waiting:
                if not hart.pending_interrupts():
                    return EXIT_WFI
                hart.waiting = False
            following = min((n for n in mine if n > hart.steps), default=UNLIMITED)
            hart.steps = min(following, hart.steps_end)
            if hart.steps in mine:
                mine[int(hart.steps)]()


class Bench:
    """Harts without code; ``actions`` are what they do."""

    def __init__(self, harts: int = 1, quantum: int = 1000, mips: int = 1000) -> None:
        self.timeline = Timeline()
        self.clock = Clock(self.timeline, mips)
        ram, bus, code = Ram(0x80000000, 4096), Bus(), CodeCache()
        self.harts = [Hart(i, ram, bus, code) for i in range(harts)]
        self.actions: dict[int, dict[int, Action]] = {i: {} for i in range(harts)}
        self.engine = Script(self.actions)
        self.scheduler = Scheduler(self.clock, self.harts, self.engine, quantum)
        self.seen: list[object] = []

    def see(self, *what: object) -> Action:
        return lambda: self.seen.append((*what, int(self.clock.now_ns())))

    def wait(self, hart: int = 0) -> Action:
        def action() -> None:
            self.harts[hart].waiting = not self.harts[hart].pending_interrupts()

        return action

    def interrupt(self, hart: int = 0) -> Action:
        def action() -> None:
            self.harts[hart].mie = 1 << SSI
            self.harts[hart].set_software_pending(SSI, True)

        return action

    def after_230(self, event: Action) -> Action:
        def action() -> None:
            self.clock.after(230, event)

        return action

    def run(self, until_ns: int = UNLIMITED, max_steps: int = UNLIMITED) -> int:
        return int(self.scheduler.run(until_ns, max_steps))


def test_events_happen_at_their_exact_time_between_two_steps() -> None:
    bench = Bench()
    bench.timeline.at(700, bench.see("event"))
    bench.actions[0] = {700: bench.see("before"), 701: bench.see("after")}
    assert bench.run(until_ns=1000) == RAN_TIME
    assert bench.seen == [("before", 700), ("event", 700), ("after", 701)]
    assert (bench.harts[0].steps, bench.timeline.now_ns) == (1000, 1000)


def test_an_event_scheduled_within_the_slice_ends_it_exactly_there() -> None:
    bench = Bench()

    def schedule() -> None:
        bench.timeline.at(250, bench.see("event"))

    bench.actions[0] = {100: schedule, 250: bench.see("before"), 251: bench.see("after")}
    bench.run(until_ns=5000)
    assert bench.seen == [("before", 250), ("event", 250), ("after", 251)]


def test_an_event_in_the_past_happens_after_the_running_step() -> None:
    bench = Bench()

    def schedule() -> None:
        bench.timeline.at(0, lambda: bench.seen.append("event"))

    bench.actions[0] = {100: schedule, 101: bench.see("after")}
    bench.run(until_ns=5000)
    assert bench.seen == ["event", ("after", 101)]


def test_a_cancelled_event_changes_nothing() -> None:
    bench = Bench()
    bench.timeline.at(300, bench.see("event")).cancel()
    assert bench.run(until_ns=1000) == RAN_TIME
    assert bench.seen == []


def test_waiting_jumps_to_the_next_event() -> None:
    bench = Bench()
    bench.timeline.at(1_000_000, bench.interrupt())
    bench.actions[0] = {10: bench.wait(), 11: bench.see("woken")}
    assert bench.run(until_ns=1_000_100) == RAN_TIME
    assert bench.seen == [("woken", 1_000_001)]
    assert bench.harts[0].steps == 110


def test_events_that_do_not_wake_let_the_hart_sleep() -> None:
    bench = Bench()
    bench.timeline.at(500, bench.see("first"))
    bench.timeline.at(900, bench.see("second"))
    bench.actions[0] = {10: bench.wait()}
    assert bench.run() == RAN_IDLE
    assert bench.seen == [("first", 500), ("second", 900)]
    assert bench.harts[0].steps == 10


def test_idle_keeps_the_time_at_which_the_hart_fell_asleep() -> None:
    bench = Bench()
    bench.actions[0] = {10: bench.wait(), 11: bench.see("woken")}
    assert bench.run() == RAN_IDLE
    assert bench.timeline.now_ns == 10
    assert bench.scheduler.pass_by(5000)
    bench.interrupt()()
    bench.run(until_ns=6000)
    assert bench.seen == [("woken", 5001)]


def test_idle_time_does_not_pass_an_event() -> None:
    bench = Bench()
    bench.timeline.at(100, bench.see("event"))
    bench.actions[0] = {1: bench.wait()}
    bench.harts[0].waiting = True
    assert not bench.scheduler.pass_by(100)
    assert bench.timeline.now_ns == 0
    assert bench.scheduler.pass_by(99)
    assert bench.timeline.now_ns == 99


def test_steps_are_limited_exactly() -> None:
    bench = Bench()
    assert bench.run(max_steps=123) == RAN_STEPS
    assert bench.harts[0].steps == 123
    assert bench.scheduler.now_ns() == 123


def test_stop_is_after_the_running_step_and_can_be_gone_on_from() -> None:
    bench = Bench()
    bench.actions[0] = {40: bench.scheduler.request_stop}
    assert bench.run(until_ns=100) == RAN_STOP
    assert bench.harts[0].steps == 40
    assert bench.run(until_ns=100) == RAN_TIME
    assert bench.harts[0].steps == 100


def test_stop_from_an_event() -> None:
    bench = Bench()
    bench.timeline.at(70, bench.scheduler.request_stop)
    assert bench.run(until_ns=100) == RAN_STOP
    assert bench.harts[0].steps == 70


@pytest.mark.parametrize(("mips", "steps"), [(1000, 10_000), (100, 1000), (3, 30), (2500, 25_000)])
def test_mips_relate_steps_to_time(mips: int, steps: int) -> None:
    bench = Bench(mips=mips)
    bench.run(until_ns=10_000)
    assert bench.harts[0].steps == steps


def test_slow_harts_do_not_drift_when_runs_are_split() -> None:
    bench = Bench(mips=7)
    for until in range(100, 1_000_001, 100):
        bench.run(until_ns=until)
    assert bench.harts[0].steps == 7000


def test_harts_run_the_same_interval_in_turn() -> None:
    bench = Bench(harts=2, quantum=1000)
    bench.run(until_ns=2000)
    assert bench.engine.slices == [(0, 0, 1000), (1, 0, 1000), (0, 1000, 2000), (1, 1000, 2000)]


def test_readings_of_time_rise_in_the_order_of_execution_and_never_stand_still() -> None:
    bench = Bench(harts=3, quantum=900)
    for number in range(3):
        bench.actions[number] = {n: bench.see(number) for n in range(50, 2000, 50)}
    bench.run(until_ns=1800)
    times = [entry[-1] for entry in bench.seen]  # type: ignore[index]
    assert times == sorted(times)
    assert len(set(times)) >= len(times) - 3
    assert times[-1] <= 1800


def test_a_hart_alone_reads_its_exact_time() -> None:
    bench = Bench(harts=2, quantum=1000)
    bench.actions[0] = {10: bench.wait(0)}
    bench.actions[1] = {1500: bench.see("alone")}
    bench.run(until_ns=3000)
    assert bench.seen == [("alone", 1500)]


def test_an_event_cuts_the_quantum_for_the_harts_that_follow() -> None:
    bench = Bench(harts=2, quantum=1000)
    bench.actions[1] = {100: lambda: None}

    def schedule() -> None:
        bench.timeline.at(700, lambda: None)

    bench.actions[0] = {600: schedule}
    bench.run(until_ns=1000)
    assert bench.engine.slices[:4] == [(0, 0, 700), (1, 0, 700), (0, 700, 1000), (1, 700, 1000)]


def test_a_hart_that_was_woken_joins_the_next_quantum() -> None:
    bench = Bench(harts=2, quantum=1000)
    bench.harts[1].waiting = True
    bench.actions[0] = {300: bench.interrupt(1)}
    bench.actions[1] = {1: bench.see("woken")}
    bench.run(until_ns=2000)
    assert bench.engine.slices == [(0, 0, 1000), (0, 1000, 2000), (1, 0, 1000)]
    assert bench.seen == [("woken", 1500)]


def test_a_started_hart_begins_now_and_a_stopped_one_does_not_run() -> None:
    bench = Bench(harts=2, quantum=1000)
    bench.harts[1].state = STOPPED

    def start() -> None:
        bench.harts[1].state = STARTED

    def stop() -> None:
        bench.harts[0].state = STOPPED
        bench.harts[0].stop = True

    bench.actions[0] = {500: start, 1200: stop}
    bench.run(until_ns=3000)
    assert bench.engine.slices == [(0, 0, 1000), (0, 1000, 1200), (1, 0, 1000), (1, 1000, 2000)]


def test_reservations_end_with_the_quantum_but_not_with_a_run() -> None:
    bench = Bench(harts=2, quantum=1000)
    bench.harts[0].reservation = 0x80000000
    bench.run(max_steps=999)
    assert bench.harts[0].reservation == 0x80000000
    bench.run(max_steps=2)
    assert bench.harts[0].reservation == -1
    alone = Bench()
    alone.harts[0].reservation = 0x80000000
    alone.run(until_ns=5000)
    assert alone.harts[0].reservation == 0x80000000


def busy_bench(harts: int) -> Bench:
    """Harts that read time, sleep, wake one another and program events."""
    bench = Bench(harts=harts, quantum=1000, mips=300)
    for number in range(harts):
        mine = bench.actions[number]
        for n in range(17 + 5 * number, 3000, 97):
            mine[n] = bench.see(number, n)
        for n in range(300 + 100 * number, 3000, 700):
            mine[n] = bench.wait(number)
        for n in range(250 + 30 * number, 3000, 410):
            mine[n] = bench.interrupt((number + 1) % harts)
        for n in range(90 + number, 3000, 333):
            mine[n] = bench.after_230(bench.see("event", number, n))
    for ns in range(500, 20_000, 1300):
        bench.timeline.at(ns, bench.interrupt(ns % harts))
    return bench


@settings(derandomize=True, deadline=None, max_examples=60)
@given(harts=st.integers(1, 3), chunks=st.lists(st.integers(1, 400), min_size=1, max_size=30))
def test_splitting_a_run_changes_nothing(harts: int, chunks: list[int]) -> None:
    whole, split = busy_bench(harts), busy_bench(harts)
    total = sum(chunks)
    whole.run(until_ns=15_000, max_steps=total)
    for chunk in chunks:
        split.run(until_ns=15_000, max_steps=chunk)
    assert split.seen == whole.seen
    assert [hart.steps for hart in split.harts] == [hart.steps for hart in whole.harts]
    assert split.scheduler.state() == whole.scheduler.state()


def test_a_hosted_hart_that_falls_asleep_gives_its_cpu_back_at_that_instant() -> None:
    bench = Bench(harts=2, quantum=1000)
    scheduler = bench.scheduler
    scheduler.hosted = scheduler.yields = True
    bench.actions[0] = {1234: bench.wait(0)}
    assert bench.run(until_ns=50_000) == RAN_ASLEEP
    # At the end of the quantum of the two, in which the other one ran on.
    assert (bench.timeline.now_ns, int(bench.harts[0].steps)) == (2000, 1234)
    assert int(bench.harts[1].steps) == 2000
    scheduler.granted[0] = 0
    assert bench.run(until_ns=3500) == RAN_TIME
    scheduler.granted[1] = 0
    assert bench.run(until_ns=4000) == RAN_ASLEEP  # nobody who was granted a CPU can run
    scheduler.yields = False
    assert bench.run(until_ns=4000) == RAN_TIME
    assert bench.timeline.now_ns == 4000


class Slow(Script):
    """Comes back after 300 steps when it may."""

    def run(self, hart: Hart, budget: int) -> int:
        return super().run(hart, min(budget, 300) if self.pauses else budget)


@pytest.mark.parametrize("harts", [1, 2])
def test_an_engine_that_pauses_changes_nothing(harts: int) -> None:
    ends = []
    for pauses in (False, True):
        bench = Bench(harts=harts, quantum=1000)
        bench.scheduler.use(Slow(bench.actions))
        bench.scheduler.engine.pauses = pauses
        bench.scheduler.hosted = True
        bench.timeline.at(1700, bench.see("event"))
        bench.actions[0] = {650: bench.after_230(bench.see("later")), 1500: bench.wait(0)}
        calls = 1
        while (why := bench.run(until_ns=5000)) == RAN_PAUSE:
            calls += 1
        assert why == RAN_TIME and (calls > 4) == pauses
        ends.append((bench.seen, [int(hart.steps) for hart in bench.harts], bench.timeline.now_ns))
    assert ends[0] == ends[1]
