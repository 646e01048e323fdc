"""Translated code gives the states that the interpreter gives, wherever the budget is cut."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

pytest.importorskip("llvmlite")

from asyncvmm.arch.coherence import Coherence
from asyncvmm.arch.hart import EXIT_WFI, Hart
from asyncvmm.engine.interpreter import Engine, Interpreter
from asyncvmm.engine.jit.build import Native, make_engine
from asyncvmm.engine.jit.engine import TranslatingEngine
from asyncvmm.engine.jit.hot import HotPages
from asyncvmm.engine.jit.translator import Translator
from tests.differential.test_budgets import snapshot, start
from tools.differential.engines import ENGINES, Improving, optimise
from tools.differential.lockstep import Lockstep
from tools.differential.mapped import MappedLockstep
from tools.differential.wild import RAM_BASE, RAM_SIZE, Sequence, WildSequences

STEPS = 120


@pytest.fixture(scope="module")
def jit() -> Iterator[Engine]:
    """One engine for all harts: their code shares its memory."""
    yield make_engine(threshold=0)


def run_in_parts(engine: Engine, hart: Hart, parts: list[int]) -> bool:
    """Whether the hart could go on to the end."""
    return all(engine.run(hart, part) != EXIT_WFI for part in parts)


def cut(choice: Random, steps: int) -> list[int]:
    """``steps`` as a sum of random parts."""
    parts = []
    while steps:
        parts.append(choice.randrange(1, steps + 1))
        steps -= parts[-1]
    return parts


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("system", [False, True], ids=["user", "system"])
def test_wild_programs(jit: Engine, seed: int, system: bool) -> None:
    """Any bytes as instructions: traps, odd addresses, modes, interrupts, code that stores to itself."""
    supply = WildSequences(7000 + seed, system)
    choice = Random(seed)
    for number in range(100):
        memory = supply.memory()
        sequence = supply.sequence(STEPS)
        modes = number + 1 if system else 0
        expected = start(memory, sequence, modes)
        goes_on = run_in_parts(Interpreter(), expected, [STEPS])
        for parts in ([STEPS], cut(choice, STEPS), [1] * STEPS):
            hart = start(memory, sequence, modes)
            assert run_in_parts(jit, hart, parts) == goes_on
            assert snapshot(hart) == snapshot(expected), f"seed {seed}, program {number}"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("system", [False, True], ids=["user", "system"])
def test_wild_programs_in_optimised_regions(seed: int, system: bool) -> None:
    """The same when every page is compiled again after a part of the run."""
    hot = HotPages()
    native = Native(hot=hot, watch=False, threshold=0)
    engine = TranslatingEngine(native, native.enter)
    supply = WildSequences(7100 + seed, system)
    choice = Random(seed)
    for number in range(12):
        memory = supply.memory()
        sequence = supply.sequence(STEPS)
        modes = number + 1 if system else 0
        expected = start(memory, sequence, modes)
        goes_on = run_in_parts(Interpreter(), expected, [STEPS])
        warm = start(memory, sequence, modes)
        run_in_parts(engine, warm, [STEPS])
        hart = start(memory, sequence, modes)
        went_on, left = True, STEPS
        while left and went_on:
            part = choice.randrange(1, left + 1)
            went_on = run_in_parts(engine, hart, [part])
            left -= part
            translator = hart.code.listener
            assert isinstance(translator, Translator)
            optimise(native, translator)
        assert went_on == goes_on
        assert snapshot(hart) == snapshot(expected), f"seed {seed}, program {number}"
    assert hot.regions > 10


@pytest.mark.parametrize("kind", [Lockstep, MappedLockstep], ids=["bare", "sv39"])
@pytest.mark.parametrize(("name", "sessions"), [("jit", 200), ("regions", 20)])
def test_translated_code_equals_the_reference(
    kind: type[Lockstep], name: str, sessions: int
) -> None:
    """The interpreter takes no part; ``python -m tools.differential`` goes on with this for hours."""
    engine = ENGINES[name](11)
    lockstep = kind(23, engine=engine)
    for session in range(sessions):
        lockstep.session(session)
    assert lockstep.steps > 20 * lockstep.sequences
    assert not isinstance(engine, Improving) or engine.hot.regions > sessions


def assemble(*words: int) -> bytes:
    """Instruction words as bytes."""
    return b"".join(word.to_bytes(4, "little") for word in words)


def program(code: bytes) -> Hart:
    """A hart in M-mode at the start of RAM, stores to its own code seen at once."""
    supply = WildSequences(3)
    base = supply.sequence(1)
    sequence = Sequence(RAM_BASE, code, [0] * 32, base.f, 0, 1, RAM_BASE, RAM_BASE, 1000)
    return start(bytes(RAM_SIZE), sequence)


def test_code_that_changes_itself_in_a_loop(jit: Engine) -> None:
    """The loop stores over an instruction of its own page; no FENCE.I is needed for the next turn."""
    code = assemble(
        0x00000297,  # auipc t0, 0
        0x0202A303,  # lw t1, 32(t0): the instruction to change
        0x00100393,  # li t2, 1
        0x01439393,  # slli t2, t2, 20
        0x007303B3,  # add t2, t1, t2: one more in the immediate
        0x0272A023,  # sw t2, 32(t0)
        0x00000013,  # nop
        0x00000013,  # nop
        0x00050513,  # addi a0, a0, 0: changed
        0xFDDFF06F,  # j -36
    )
    expected, hart = program(code), program(code)
    choice = Random(1)
    for _ in range(200):
        budget = choice.randrange(1, 300)
        Interpreter().run(expected, budget)
        jit.run(hart, budget)
        assert snapshot(hart) == snapshot(expected)
    assert hart.x[10] > 1000


def test_coherence_is_kept(jit: Engine) -> None:
    """What the host writes into a page with translated code is what runs next."""
    code = assemble(0x00150513, 0xFFDFF06F)  # addi a0, a0, 1; j -4
    hart = program(code)
    assert isinstance(hart.ram.watcher, Coherence)
    jit.run(hart, 1000)
    assert hart.x[10] == 500
    hart.ram.write(RAM_BASE, assemble(0x00350513))  # addi a0, a0, 3
    jit.run(hart, 1000)
    assert hart.x[10] == 500 + 1500
