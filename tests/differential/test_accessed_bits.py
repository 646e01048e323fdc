"""A and D bits that software clears without a fence: who sets them again depends on the TLB alone.

So the TLB is state of the guest. What engine runs, where its budget is cut, what the host makes it
forget, and a snapshot in between must not show (``arch/tlb.py``).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random
from typing import Final

import pytest

pytest.importorskip("llvmlite")

from asyncvmm.arch.hart import SUPERVISOR, Hart
from asyncvmm.arch.mmu import flush_all, update_context
from asyncvmm.arch.status import ADUE
from asyncvmm.arch.tlb_words import restore_tlb, tlb_words
from asyncvmm.engine.interpreter import Engine, Interpreter
from asyncvmm.engine.jit.build import Native, make_engine
from asyncvmm.engine.jit.engine import TranslatingEngine
from asyncvmm.engine.jit.hot import HotPages
from asyncvmm.engine.jit.translator import Translator
from asyncvmm.isa.asm import assemble
from asyncvmm.machine.registers import hart_values, restore_hart
from tools.differential.engines import optimise
from tools.differential.lockstep import new_hart
from tools.differential.wild import RAM_BASE

V, RWX, A, D = 1, 14, 64, 128
FAR: Final = 4 << 20  # so far apart pages share their places in the tables of loads and stores
NEAR: Final = 1 << 20  # and so far apart in the table of fetches
WINDOW: Final = 0x40000000
DATA_PAGES, LEAVES = 6, 3
# Physical pages.
ROOT, MIDDLE, LEAF, DATA = 0, 1, 2, 2 + LEAVES
CODE: Final = DATA + DATA_PAGES
HANDLER: Final = CODE + 2
PAGES: Final = HANDLER + 1
# Places in the first leaf.
CODE_AT, TABLES_AT, HANDLER_AT = 16, 32, 40
ROUNDS: Final = 60


def entry(page: int, flags: int) -> int:
    return (RAM_BASE >> 12) + page << 10 | V | flags


def memory(code: bytes, handler: bytes, random: Random) -> bytes:
    tables = [[0] * 512 for _ in range(2 + LEAVES)]
    tables[ROOT][WINDOW >> 30] = entry(MIDDLE, 0)
    for leaf in range(LEAVES):
        tables[MIDDLE][leaf * FAR >> 21] = entry(LEAF + leaf, 0)
        for page in range(DATA_PAGES):
            flags = RWX | random.choice((0, A, A | D))
            tables[LEAF + leaf][page] = entry(DATA + random.randrange(DATA_PAGES), flags)
    first = tables[LEAF]
    for page in range(2):
        for alias in range(2):
            first[CODE_AT + page + alias * NEAR // 4096] = entry(CODE + page, RWX)
    for leaf in range(LEAVES):
        first[TABLES_AT + leaf] = entry(LEAF + leaf, RWX | A | D)
    first[HANDLER_AT] = entry(HANDLER, RWX)
    words = [word for table in tables for word in table]
    data = random.randbytes(4096 * DATA_PAGES)
    return (
        struct.pack(f"<{len(words)}Q", *words)
        + data
        + code.ljust(8192, b"\0")
        + handler.ljust(4096, b"\0")
    )


def instruction(random: Random) -> str:
    """One instruction or a few; s2..s9 point to data, t3..t5 to page table entries."""
    where = f"s{random.randrange(2, 10)}"
    value = f"a{random.randrange(8)}"
    pte = f"t{random.randrange(3, 6)}"
    offset = random.choice((0, 8, 16, 3, 4093, 2040, -5)) if random.random() < 0.5 else 0
    offset = max(-2048, min(2047, offset))
    size = random.choice("bhwd")
    return random.choice(
        (
            f"l{size} {value}, {offset}({where})",
            f"l{size} {value}, {offset}({where})",
            f"s{size} {value}, {offset}({where})",
            f"s{size} {value}, {offset}({where})",
            f"amoadd.d {value}, {value}, ({where})",
            f"lr.d {value}, ({where})",
            f"sc.d {value}, {value}, ({where})",
            f"lr.d a0, ({where})\nsc.d a1, a2, ({where})",
            f"ld t6, 0({pte})\nandi t6, t6, -193\nsd t6, 0({pte})",
            f"ld t6, 0({pte})\nandi t6, t6, -193\nsd t6, 0({pte})",
            f"ld t6, 0({pte})\nandi t6, t6, -129\nsd t6, 0({pte})",
            f"lui t6, {FAR >> 12}\nxor {where}, {where}, t6",
            f"lui t6, 1\nxor {where}, {where}, t6",
            f"addi {pte}, {pte}, 8\nandi {pte}, {pte}, -257",
            "auipc t6, 0\nlui t0, 256\nxor t6, t6, t0\njalr x0, 16(t6)",
            random.choice(("sfence.vma", f"sfence.vma {where}", "ebreak", "fence.i", "nop")),
        )
    )


def program(random: Random) -> bytes:
    """A page of code and a little more, one instruction across the boundary, in a loop."""
    lines = ["again:", "c.nop"]
    while sum(0 if line.endswith(":") else 1 for text in lines for line in text.split("\n")) < 1100:
        lines.append(instruction(random))
    lines += ["la t6, again", "jr t6"]
    return assemble("\n".join(lines), WINDOW + CODE_AT * 4096).data


def begin(seed: int, code: bytes = b"") -> Hart:
    """A hart at the start of ``code``, or of the program of ``seed``, in S-mode with Sv39."""
    random = Random(seed)
    handler = assemble("csrr t0, sepc\naddi t0, t0, 4\ncsrw sepc, t0\nsret").data
    hart = new_hart(memory(code or program(random), handler, random))
    hart.menvcfg = ADUE
    hart.medeleg = 0xB3FF
    hart.pmpaddr[0] = 0x3FFFFFFFFFFFFF
    hart.pmpcfg[0] = 0x1F
    hart.pmp_active = True
    hart.stvec = WINDOW + HANDLER_AT * 4096
    hart.satp = -(1 << 63) | RAM_BASE >> 12
    hart.priv = SUPERVISOR
    hart.pc = WINDOW + CODE_AT * 4096
    for number in range(18, 26):
        page = random.randrange(DATA_PAGES) + random.randrange(LEAVES) * FAR // 4096
        hart.x[number] = WINDOW + 4096 * page + 8 * random.randrange(512)
    for number, at in ((28, 0), (29, 4096), (30, 8 * CODE_AT)):
        hart.x[number] = WINDOW + 4096 * TABLES_AT + at
    update_context(hart)
    return hart


def look(hart: Hart) -> tuple[list[int], list[int], bytes]:
    return hart_values(hart), tlb_words(hart.tlb), hart.ram.read(RAM_BASE, PAGES * 4096)


def run(engine: Engine, hart: Hart, steps: int, random: Random) -> None:
    while steps:
        part = random.randrange(1, steps + 1)
        engine.run(hart, part)
        steps -= part


def forget(hart: Hart, random: Random) -> Hart:
    """What a host may do at any time: its tables, rights to store, shared pages, decoded code."""
    what = random.randrange(4)
    if what == 0:
        hart.tlb.drop_all()
    elif what == 1:
        hart.tlb.drop_stores()
    elif what == 2:
        hart.ram.freeze()
    else:
        hart.tlb.drop_fetches()
    return hart


def renew(hart: Hart, random: Random) -> Hart:
    """Another hart with what a snapshot keeps of this one."""
    other = new_hart(hart.ram.read(RAM_BASE, PAGES * 4096))
    restore_hart(other, hart_values(hart))
    assert restore_tlb(other.tlb, tlb_words(hart.tlb))
    assert tlb_words(other.tlb) == tlb_words(hart.tlb)
    return other


def keep(hart: Hart, random: Random) -> Hart:
    return hart


@pytest.fixture(scope="module")
def jit() -> Engine:
    """One engine for all harts."""
    return make_engine(threshold=0)


@pytest.mark.parametrize("between", [keep, forget, renew])
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("translated", [False, True], ids=["interpreter", "jit"])
def test_nothing_but_the_guest_decides(
    jit: Engine, seed: int, translated: bool, between: Callable[[Hart, Random], Hart]
) -> None:
    random = Random(f"{seed} {translated}")
    engine = jit if translated else Interpreter()
    expected, hart = begin(seed), begin(seed)
    for _ in range(ROUNDS):
        steps = random.randrange(1, 700)
        Interpreter().run(expected, steps)
        run(engine, hart, steps, random)
        assert look(hart) == look(expected), f"seed {seed}, after {expected.steps} steps"
        hart = between(hart, random)
    assert expected.traps > 5


@pytest.mark.parametrize("seed", range(3))
def test_a_guest_can_tell_an_empty_table(seed: int) -> None:
    """These programs see it: without that, the test above would say nothing."""
    expected, hart = begin(seed), begin(seed)
    different = 0
    for _ in range(400):
        Interpreter().run(expected, 37)
        Interpreter().run(hart, 37)
        different += look(hart)[2] != look(expected)[2]
        flush_all(hart)
    assert different > 20


@pytest.mark.parametrize("place", range(0, 60, 3))
def test_no_saved_tables_do_harm(place: int) -> None:
    """Any words: taken, or refused with the tables empty."""
    hart = begin(1)
    Interpreter().run(hart, 5000)
    good = tlb_words(hart.tlb)
    empty = begin(1).tlb
    restore_tlb(empty, [])
    for value in (-1, 0, 1, 7, 511, 512, 1 << 20, -(1 << 63), (1 << 63) - 1):
        words = [*good]
        words[place % len(words)] = value
        for bad in (words, words[:place]):
            if not restore_tlb(hart.tlb, bad):
                assert tlb_words(hart.tlb) == tlb_words(empty)
            update_context(hart)
            Interpreter().run(hart, 50)


@pytest.mark.parametrize("between", [keep, forget, renew])
@pytest.mark.parametrize("seed", range(6, 12))
def test_nor_do_regions(seed: int, between: Callable[[Hart, Random], Hart]) -> None:
    """They remember pages of earlier accesses: as long only as the TLB has them."""
    random = Random(f"{seed} regions")
    native = Native(hot=HotPages(), watch=False, threshold=0)
    engine = TranslatingEngine(native, native.enter)
    expected, hart = begin(seed), begin(seed)
    for number in range(ROUNDS):
        steps = random.randrange(1, 1500)
        Interpreter().run(expected, steps)
        run(engine, hart, steps, random)
        assert look(hart) == look(expected), f"seed {seed}, after {expected.steps} steps"
        if number % 8 == 2:
            translator = hart.code.listener
            assert isinstance(translator, Translator)
            for page in translator.pages.values():
                page.tried = set()
            optimise(native, translator)
        hart = between(hart, random)
    assert native.hot is not None
    assert native.hot.regions >= 1


@pytest.mark.parametrize("kind", ["ld", "sd"])
@pytest.mark.parametrize("between", ["", "addi s2, s2, 0", "j next"])
def test_a_page_whose_place_another_took_is_looked_up(kind: str, between: str) -> None:
    """Within a block, and from one turn of a loop to the next."""
    code = assemble(
        f"""
        again: {kind} a0, 0(s2)
        {kind} a1, 0(s3)
        {between}
        next: {kind} a2, 8(s2)
        addi a3, a3, 1
        j again
        """,
        WINDOW + CODE_AT * 4096,
    ).data
    native = Native(hot=HotPages(), watch=False, threshold=0)
    engine = TranslatingEngine(native, native.enter)
    expected, hart = begin(1, code), begin(1, code)
    for one in (expected, hart):
        one.x[18], one.x[19] = WINDOW, WINDOW + FAR
    for number in range(30):
        Interpreter().run(expected, 31 + number)
        engine.run(hart, 31 + number)
        assert look(hart) == look(expected), f"after {expected.steps} steps"
        if number == 5:
            translator = hart.code.listener
            assert isinstance(translator, Translator)
            optimise(native, translator)
    assert native.hot is not None
    assert native.hot.regions == 1
