"""Profiles: the hot function is found, counts repeat, and the guest cannot tell."""

from __future__ import annotations

import pytest

from asyncvmm.api import Profiler, SymbolTable
from asyncvmm.api.profile import Profile, Sample, program_symbols
from asyncvmm.base.errors import ConfigError
from asyncvmm.firmware.symbols import Symbol
from asyncvmm.machine import EngineStats, Machine
from asyncvmm.machine.engines import why_not_jit
from tests.unit.machine.guest_machines import program_machine

ENGINES = [
    "interpreter",
    pytest.param("jit", marks=pytest.mark.skipif(bool(why_not_jit()), reason=why_not_jit())),
]

LOOPS = """
_start: li s0, 500
1:      call hot
        call cold
        addi s0, s0, -1
        bnez s0, 1b
        j    .
hot:    li t0, 500
2:      addi t0, t0, -1
        bnez t0, 2b
        ret
cold:   li t0, 5
3:      addi t0, t0, -1
        bnez t0, 3b
        ret
"""
LOOPS_STEPS = 500 * (2 + 1000 + 2 + 10 + 2 + 2)  # two calls and returns, loops, the outer loop

# Two harts store what they read of the time; hart 0 takes a timer interrupt every 700 ns or so.
INTERRUPTED = """
_start: la   t0, handler
        csrw mtvec, t0
        csrr s0, mhartid
        li   s1, 0x80010000
        slli t0, s0, 12
        add  s1, s1, t0
        bnez s0, work
        call again
        li   t0, 0x80
        csrw mie, t0
        csrsi mstatus, 8
work:   rdtime t1
        mul  t2, t1, t1
        addi s2, s2, 1
        andi t3, s2, 511
        slli t3, t3, 3
        add  t3, t3, s1
        sd   t2, 0(t3)
        andi t4, s2, 63
        bnez t4, work
        bnez s0, work
        wfi
        j    work
again:  li   t5, 0x200bff8
        ld   t5, 0(t5)
        addi t5, t5, 7
        li   t6, 0x2004000
        sd   t5, 0(t6)
        ret
        .balign 4
handler:
        addi s3, s3, 1
        mv   s4, ra
        call again
        mv   ra, s4
        mret
"""


def profiled(source: str, period: int, steps: int, **options: object) -> tuple[Machine, Profile]:
    """A machine after so many steps, and its profile."""
    machine = program_machine(source, **options)
    profiler = Profiler(machine, period=period)
    profiler.resume()
    machine.run(max_steps=steps)
    return machine, profiler.profile()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_hot_loop_has_its_function_s_name(engine: str) -> None:
    machine, profile = profiled(LOOPS, 101, LOOPS_STEPS, engine=engine)
    assert profile.steps == LOOPS_STEPS
    assert profile.count == LOOPS_STEPS // 101
    symbols = SymbolTable(program_symbols(machine))
    rows = {row.name: row for row in profile.by_symbol(symbols)}
    assert next(iter(rows)) == "hot" and set(rows) == {"hot", "cold", "_start"}
    assert 0.97 < rows["hot"].share < 0.99  # 1002 of 1018 steps
    assert 0.005 < rows["cold"].share < 0.02
    assert sum(row.samples for row in rows.values()) == profile.count
    assert sum(row.wall_ns for row in rows.values()) <= profile.wall_ns
    assert [row.name for row in profile.by_privilege()] == ["machine"]
    lines = [line.rsplit(" ", 1) for line in profile.collapsed(symbols).splitlines()]
    hot = {stack.split(";")[1]: int(count) for stack, count in lines if stack.endswith(";hot")}
    assert sum(hot.values()) == rows["hot"].samples
    assert max(hot, key=hot.__getitem__) == profile.by_tier()[0].name


def places(profile: Profile) -> dict[str, int]:
    """Samples by place, of all tiers: which code is optimised when is nothing that repeats."""
    return {row.name: row.samples for row in profile.rows(lambda s: f"{s.pc:x} {s.hart}")}


def test_tiers_are_told_apart() -> None:
    _, slow = profiled(LOOPS, 1009, LOOPS_STEPS, engine="interpreter")
    assert [row.name for row in slow.by_tier()] == ["interpreter"]
    assert slow.interpreted_steps == slow.steps == LOOPS_STEPS
    if not why_not_jit():
        _, fast = profiled(LOOPS, 1009, LOOPS_STEPS, engine="jit")
        shares = {row.name: row.share for row in fast.by_tier()}
        assert shares.get("translated", 0) + shares.get("optimised", 0) > 0.9
        assert fast.interpreted_steps < LOOPS_STEPS // 10
        assert places(slow) == places(fast)


@pytest.mark.skipif(bool(why_not_jit()), reason=why_not_jit())
def test_optimised_code_is_told_apart() -> None:
    from asyncvmm.engine.jit.build import Native
    from asyncvmm.engine.jit.engine import TranslatingEngine
    from asyncvmm.engine.jit.hot import HotPages
    from asyncvmm.engine.jit.translator import Translator
    from tests.differential.test_jit import optimise

    machine = program_machine(LOOPS)
    native = Native(hot=HotPages(), watch=False)
    machine.scheduler.use(TranslatingEngine(native, native.enter))
    profiler = Profiler(machine, period=101)
    profiler.resume()
    machine.run(max_steps=100_000)
    assert [row.optimised for row in profiler.profile().by_tier()] == [0.0, 0.0]
    translator = machine.code.listener
    assert isinstance(translator, Translator)
    optimise(native, translator)
    machine.run(max_steps=LOOPS_STEPS - 100_000)
    profile = profiler.profile()
    tiers = {row.name: row for row in profile.by_tier()}
    assert 0.7 < tiers["optimised"].share < 0.85
    assert tiers["optimised"].optimised == 1.0
    rows = profile.by_symbol(SymbolTable(program_symbols(machine)))
    assert rows[0].name == "hot" and 0.7 < rows[0].optimised < 0.85
    assert profile.engine.regions == 1
    assert profile.engine.steps == LOOPS_STEPS


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("period", [1, 7, 64, 1009, 10_000_000])
def test_a_profiled_guest_is_the_same_guest(engine: str, period: int) -> None:
    plain = program_machine(INTERRUPTED, engine=engine, harts=2, quantum=500)
    watched = program_machine(INTERRUPTED, engine=engine, harts=2, quantum=500)
    Profiler(watched, period=period).resume()
    for steps in (1, 499, 3_000, 30_011):
        assert plain.run(max_steps=steps) == watched.run(max_steps=steps)
        assert plain.digest() == watched.digest()
    assert plain.harts[0].interrupts_taken > 10
    assert plain.harts[0].steps and plain.harts[1].steps


@pytest.mark.parametrize("engine", ENGINES)
def test_counts_repeat_and_every_hart_is_sampled(engine: str) -> None:
    def counts() -> dict[str, int]:
        options = {"engine": engine, "harts": 2, "quantum": 500}
        machine, profile = profiled(INTERRUPTED, 97, 40_000, **options)
        by_hart = profile.rows(lambda sample: str(sample.hart))
        for row in by_hart:
            assert row.samples == machine.harts[int(row.name)].steps // 97
        assert len(by_hart) == 2
        return places(profile)

    assert counts() == counts()


def test_nothing_is_counted_while_paused() -> None:
    machine = program_machine(LOOPS)
    profiler = Profiler(machine, period=100)
    machine.run(max_steps=10_050)
    nothing = profiler.profile()
    assert (nothing.steps, nothing.interpreted_steps, nothing.wall_ns) == (0, 0, 0)
    assert nothing.samples == () and nothing.engine.steps == 10_050
    profiler.resume()
    machine.run(max_steps=1_000)
    profiler.pause()
    machine.run(max_steps=1_000)
    assert (profiler.profile().steps, profiler.profile().count) == (1_000, 10)
    profiler.close()
    assert machine.scheduler.runner is machine.scheduler.engine


def test_one_profiler_a_machine_and_a_sensible_period() -> None:
    machine = program_machine(LOOPS)
    for period in (0, -1, 10**13):
        with pytest.raises(ConfigError, match="the period must be 1 to"):
            Profiler(machine, period=period)
    Profiler(machine)
    with pytest.raises(ConfigError, match="is profiled already"):
        Profiler(machine)


def test_code_without_a_symbol_is_shown_by_its_page() -> None:
    samples = (
        Sample(0x1234, "user", 0, "translated", 3, 3000),
        Sample(0x1FFE, "user", 1, "interpreter", 1, 0),
        Sample(0xFFFFFFFF80000010, "supervisor", 0, "translated", 1, 250),
        Sample(0xFFFFFFFF80000010, "supervisor", 0, "optimised", 3, 750),
    )
    profile = Profile(1000, 9000, 0, 5000, samples, EngineStats("jit"))
    rows = profile.by_symbol(SymbolTable([Symbol(0xFFFFFFFF80000000, "start")]))
    assert [(row.name, row.samples, row.share) for row in rows] == [
        ("[user] 0x1000", 4, 0.5),
        ("start", 4, 0.5),
    ]
    assert [row.optimised for row in rows] == [0.0, 0.75]
    assert rows[1].mips == 4000.0  # 4 samples of 1000 steps in 1 us
