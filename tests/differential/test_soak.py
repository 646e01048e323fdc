"""The soak on a small scale, and that it would notice what it is for."""

from __future__ import annotations

import gc
import json
import tracemalloc
from dataclasses import replace
from random import Random

import pytest

pytest.importorskip("llvmlite")

from asyncvmm.arch.code import LENGTH, CodeCache
from asyncvmm.arch.hart import Hart
from asyncvmm.engine.interpreter import Engine, Interpreter
from asyncvmm.engine.jit.build import Native
from asyncvmm.engine.jit.engine import TranslatingEngine
from asyncvmm.engine.jit.hot import HotPages, compile_request
from asyncvmm.engine.jit.regions import RegionStore
from asyncvmm.engine.jit.translator import Translator
from asyncvmm.isa.asm import assemble
from asyncvmm.isa.elf_writer import to_elf
from asyncvmm.machine import BootFile, BootFiles, GuestConfig, Machine
from tests.unit.machine.guest_machines import device_types, program_machine
from tools.differential.lockstep import new_hart
from tools.soak import guest_compiler
from tools.soak.__main__ import main
from tools.soak.bare import self_modifying
from tools.soak.rounds import MOST_GROWTH_BYTES, Trial, compare, growth, plan
from tools.soak.work import Work, WorkFailedError, perform

RAM = 0x80000000
SEED = 20_261


def trial(work: Work, harts: int = 1) -> Trial:
    return Trial(work, SEED, harts, 400 << 10, True, 0)


@pytest.mark.parametrize("harts", [1, 3])
def test_code_that_changes_is_the_same_on_both_engines(harts: int) -> None:
    """In a small arena, with pages optimised at once and runs cut anywhere."""
    result = compare(trial(self_modifying(SEED, 3_000_000, 6, harts), harts), RegionStore(None))
    assert result.failure == ""
    assert result.compared == 6
    assert result.counters["changed"] > 1000
    assert result.counters["resets"] > 0


def test_the_program_does_what_it_is_for() -> None:
    """It spends its time in the functions that it wrote, which are everywhere, and some of them trap."""
    machine = self_modifying(SEED, 1, 1).make(Interpreter())
    hart = machine.harts[0]
    inside = 0
    for _ in range(1000):
        machine.run(max_steps=997)
        inside += 0x40000000 <= hart.pc < 0x40010000
    assert inside > 300
    assert hart.x[27] == hart.traps > 100  # as it has counted them
    for frame in range(16):
        assert any(machine.ram.read(0x80200000 + 4096 * frame, 4096))


def test_a_difference_is_reported() -> None:
    """One bit of memory that only one of the engines sees."""
    work = self_modifying(SEED, 400_000, 4)

    def make(engine: Engine) -> Machine:
        machine = work.make(engine)
        if isinstance(engine, Interpreter):
            machine.ram.write(0x80300000, b"\1")
        return machine

    result = compare(trial(replace(work, make=make)), RegionStore(None))
    assert result.failure == "DIFFERENT at step 100000"


def test_a_guest_that_stops_is_reported() -> None:
    """With the engine that it stopped on."""

    def make(engine: Engine) -> Machine:
        elf = to_elf(assemble("li t0, 0x100000\nli t1, 0x5555\nsw t1, 0(t0)\n1: j 1b\n", RAM))
        files = BootFiles(elf=BootFile("stops.elf", elf))
        config = GuestConfig(elf="stops.elf", memory="8M")
        return Machine(config, files, device_types(), engine=engine)

    result = compare(trial(Work("stops", make, 1000, 3)), RegionStore(None))
    assert result.failure.startswith("jit: stops: it stopped")


def test_a_session_without_an_end_is_reported() -> None:
    def make(engine: Engine) -> Machine:
        return program_machine("1: j 1b\n", engine="interpreter")

    with pytest.raises(WorkFailedError, match="does not come to its end"):
        perform(Work("waits", make, 1000, 3, b"true\n"), Interpreter())


def test_growth() -> None:
    """Medians of the halves count; the first round does not."""
    mib = 1 << 20
    assert growth([100 * mib]) == ""
    assert growth([1 * mib, *[400 * mib] * 20]) == ""
    assert (
        growth([400 * mib, 300 * mib, 900 * mib, 300 * mib, 310 * mib, 300 * mib, 300 * mib]) == ""
    )
    leak = [(400 + 10 * number) * mib for number in range(30)]
    assert "grows from" in growth(leak)
    assert leak[-1] - leak[0] > MOST_GROWTH_BYTES


def settings(number: int) -> list[tuple[int, int, int, bool, int]]:
    """Of a round's trials."""
    return [
        (one.seed, one.harts, one.arena_bytes, one.eager, one.threshold)
        for one in plan(SEED, number, None)
    ]


def test_the_same_seed_is_the_same_plan() -> None:
    assert settings(3) == settings(3) != settings(4)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Every line is JSON; the last one sums up."""
    assert main(["--bare", "--rounds", "1", "--scale", "0.02", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["failure"] for line in lines] == ["", "", ""]
    assert lines[-1]["rounds"] == 1


@pytest.mark.parametrize("seed", range(20))
def test_the_guests_compiler(seed: int) -> None:
    """What it makes computes what Python computes, on our hart."""
    choice = Random(seed)
    tree = guest_compiler.make_tree(choice, 5)
    code = guest_compiler.compile_tree(tree)
    hart: Hart = new_hart(code.ljust(0x4000, b"\0"))
    a, b = choice.getrandbits(64), choice.getrandbits(64)
    hart.pc = RAM
    for register, value in ((10, a), (11, b), (12, 7)):
        hart.x[register] = value - (value >> 63 << 64)
    hart.x[1] = 0
    Interpreter().run(hart, 7 * (len(code) // 4 - 1) + 1)
    assert hart.pc == 0
    assert hart.x[10] & guest_compiler.MASK == guest_compiler.interpret(tree, a, b, 7)


def pages_kept() -> int:
    """Blocks of memory of a code page's size; tracemalloc must run."""
    sizes = [int(trace.size) for trace in tracemalloc.take_snapshot().traces]
    return sum(8 * LENGTH <= size < 8 * LENGTH + 64 for size in sizes)


def spin(store: RegionStore) -> Native:
    """A guest that is there for a moment; its one page is optimised, or found in the store."""
    native = Native(hot=HotPages(store=store), watch=False, threshold=0)
    # The last two instructions are not decoded yet when the region is put into place.
    source = "1: addi a0, a0, 1\nandi t0, a0, 64\nbeqz t0, 1b\nxor a1, a1, a0\nj 1b\n"
    elf = to_elf(assemble(source, RAM))
    files = BootFiles(elf=BootFile("spin.elf", elf))
    config = GuestConfig(elf="spin.elf", memory="8M")
    machine = Machine(config, files, {}, engine=TranslatingEngine(native, native.enter))
    machine.run(max_steps=2000)
    translator = machine.code.listener
    assert isinstance(translator, Translator)
    assert native.hot is not None
    if not native.hot.hits:
        for page in translator.pages.values():
            request = native.hot.request(translator, page)
            made = request and compile_request(request, native.parts.rounds)
            assert made
            store.add(made.request.key, made.region)
    return native


def test_a_guest_leaves_no_memory_behind() -> None:
    """Code pages go with it, also those that regions from the store were put into."""
    store = RegionStore(None)
    spin(store)
    tracemalloc.start()
    try:
        cache = CodeCache()
        before = pages_kept()
        cache.create(1)
        assert pages_kept() == before + 1  # they are found
        for _ in range(8):
            assert spin(store).statistics()["cache_hits"] == 1
        gc.collect()
        assert pages_kept() <= before + 2
    finally:
        tracemalloc.stop()
