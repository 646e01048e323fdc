"""Optimised regions: what went wrong once, and what becomes of them when pages or memory change."""

from __future__ import annotations

from random import Random

import pytest

pytest.importorskip("llvmlite")

from asyncvmm.engine.interpreter import Interpreter
from asyncvmm.engine.jit.build import Native
from asyncvmm.engine.jit.engine import TranslatingEngine
from asyncvmm.engine.jit.hot import HotPages, compile_request
from asyncvmm.engine.jit.llvm import compile_ir
from asyncvmm.engine.jit.objects import LinkError, parse_object
from asyncvmm.engine.jit.translator import Translator
from asyncvmm.machine import Machine
from tests.differential.test_budgets import snapshot, start
from tests.differential.test_jit import cut, run_in_parts
from tests.unit.machine.guest_machines import program_machine
from tools.differential.engines import optimise
from tools.differential.wild import WildSequences

SMALL_ARENA = 320 << 10

CONFLICT = """
    li   s0, 0x80100000
    li   t0, 0x400000
    add  s1, s0, t0
    li   t1, 1
    sd   t1, 0(s0)
    li   t1, 100
    sd   t1, 0(s1)
loop:
    lui  t0, 0x400
    add  s1, s0, t0
    ld   a0, 0(s0)
    ld   a1, 0(s1)
    add  a2, a2, a0
    add  a3, a3, a1
    sd   a2, 8(s1)
    sd   a3, 8(s0)
    j    loop
"""


def translated(source: str, **options: object) -> tuple[Machine, Native]:
    """A machine whose pages are optimised when ``optimise`` says so."""
    native = Native(hot=HotPages(), watch=False)
    machine = program_machine(source, **options)
    machine.scheduler.use(TranslatingEngine(native, native.enter))
    return machine, native


def translator_of(machine: Machine) -> Translator:
    """What translates for the machine's harts."""
    found = machine.code.listener
    assert isinstance(found, Translator)
    return found


def test_pages_that_share_a_tlb_entry() -> None:
    """Two pages 4 MiB apart evict each other: a tag and an addend must be of one instant."""
    machine, native = translated(CONFLICT)
    expected = program_machine(CONFLICT, engine="interpreter")
    for steps in (1000, 12_345, 1):
        machine.run(max_steps=steps)
        expected.run(max_steps=steps)
        assert machine.digest() == expected.digest()
        optimise(native, translator_of(machine))
    assert native.hot is not None
    assert native.hot.regions >= 1


def test_wide_constants_are_aligned() -> None:
    """Stores of neighbouring registers become one of 32 bytes, from a constant that is aligned so."""
    text = "".join(
        f" %p{i} = getelementptr i8, ptr %s, i64 {8 * i}\n store i64 {i + 7}, ptr %p{i}\n"
        for i in range(8)
    )
    part = parse_object(compile_ir(f"define void @f(ptr %s) {{\n{text} ret void\n}}\n"))
    assert part.align in (16, 32, 64)
    part.link(part.align * 3, {})
    with pytest.raises(LinkError, match="multiple"):
        part.link(part.align * 3 + 8, {})


def test_a_page_that_changed_meanwhile_is_not_replaced() -> None:
    """Code that was made of old bytes is thrown away."""
    machine, native = translated(CONFLICT)
    machine.run(max_steps=1000)
    optimise(native, translator_of(machine))
    addi = 0x00150513  # addi a0, a0, 1, over the first load of the loop
    loop = next(slot for slot in range(2048) if _entry(machine, slot)) * 2
    machine.ram.write(0x80000000 + loop, addi.to_bytes(4, "little"))
    expected = program_machine(CONFLICT, engine="interpreter")
    expected.run(max_steps=1000)
    expected.ram.write(0x80000000 + loop, addi.to_bytes(4, "little"))
    machine.run(max_steps=5000)
    expected.run(max_steps=5000)
    assert machine.digest() == expected.digest()
    assert native.hot is not None
    assert (native.hot.stale, native.hot.regions) == (1, 0)


def _entry(machine: Machine, slot: int) -> bool:
    translator = translator_of(machine)
    page = next(iter(translator.pages.values()))
    return page.table[slot] != translator.missing


def test_a_region_made_before_its_memory_was_reset() -> None:
    """It finds its page gone."""
    machine, native = translated(CONFLICT)
    machine.run(max_steps=1000)
    translator = translator_of(machine)
    optimise(native, translator)
    native.arena.reset()
    expected = program_machine(CONFLICT, engine="interpreter")
    expected.run(max_steps=1000)
    for one in (machine, expected):
        one.run(max_steps=5000)
    assert machine.digest() == expected.digest()
    assert native.hot is not None
    assert (native.hot.stale, native.hot.regions) == (1, 0)
    assert translator.evicted == 1


@pytest.mark.parametrize("regions", [False, True], ids=["blocks", "regions"])
def test_wild_programs_in_a_small_memory(regions: bool) -> None:
    """Code is thrown away again and again, at any place, and nothing else happens."""
    native = Native(arena_bytes=SMALL_ARENA, hot=HotPages(), watch=False, threshold=0)
    engine = TranslatingEngine(native, native.enter)
    supply = WildSequences(7200, True)
    choice = Random(1)
    most = 0
    for number in range(200):
        memory = supply.memory()
        sequence = supply.sequence(120)
        expected = start(memory, sequence, number + 1)
        goes_on = run_in_parts(Interpreter(), expected, [120])
        hart = start(memory, sequence, number + 1)
        went_on = True
        for part in cut(choice, 120):
            went_on = went_on and run_in_parts(engine, hart, [part])
            most = max(most, int(native.arena.used))
            if regions and number % 8 == 0:
                translator = hart.code.listener
                assert isinstance(translator, Translator)
                optimise(native, translator)
        assert went_on == goes_on
        assert snapshot(hart) == snapshot(expected), f"program {number}"
    counted = engine.statistics()
    assert counted["resets"] >= 2
    assert counted["evictions"] >= 1
    assert most <= SMALL_ARENA
    assert counted["code_bytes_most"] <= SMALL_ARENA


def test_requests_are_copies() -> None:
    """What the background thread gets does not change with the guest."""
    machine, native = translated(CONFLICT)
    machine.run(max_steps=1000)
    translator = translator_of(machine)
    page = next(iter(translator.pages.values()))
    assert native.hot is not None
    request = native.hot.request(translator, page)
    assert request is not None
    assert native.hot.request(translator, page) is None
    words = bytes(request.words)
    machine.ram.write(0x80000000, bytes(4096))
    assert request.words == words
    assert page.version == request.version + 1
    made = compile_request(request, native.parts.rounds)
    assert made is not None
    assert len(made.region.slots) > 8
