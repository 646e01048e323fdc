"""Regions that try the page of an earlier access first, and jump to registers within themselves.

Programs walk over the edges of pages: present and absent ones, the end of RAM, a device, the page of
their own code. Whatever a region does about it, the interpreter has the same digest.
"""

from __future__ import annotations

from random import Random
from typing import Final

import pytest

pytest.importorskip("llvmlite")

from asyncvmm.engine.jit.build import Native
from asyncvmm.engine.jit.engine import TranslatingEngine
from asyncvmm.engine.jit.hot import HotPages
from asyncvmm.machine import Machine
from tests.differential.test_jit_regions import translator_of
from tests.unit.machine.guest_machines import program_machine
from tools.differential.engines import optimise

LOADS: Final = ("lb", "lbu", "lh", "lhu", "lw", "lwu", "ld", "ld", "fld")
STORES: Final = ("sb", "sh", "sw", "sd", "sd", "fsd")
TARGETS: Final = ("a0", "a1", "a2", "a3", "a4", "a5")
BASES: Final = ("s0", "s1", "s2", "s3")
PLACES: Final = (
    0x80200FE0,  # two pages that nobody has touched
    0x80300FF0,  # the same, 4 MiB from those of the next line: one entry of the TLB
    0x80700FF0,
    0x807FFFE8,  # the end of RAM
    0x10000FF8,  # the end of the UART
    0x80000FE0,  # from the code's first page into the second
)
UNTOUCHED: Final = 0x80500000
START: Final = """
    la   t0, trapped
    csrw mtvec, t0
    li   t0, 0x6000
    csrs mstatus, t0
    li   s10, 1
outer:
    addi s10, s10, 1
"""
TRAPPED: Final = """
    j    outer
    .align 4
trapped:
    csrr s8, mepc
    csrr s9, mcause
    add  s11, s11, s9
    addi s8, s8, 4
    csrw mepc, s8
    mret
"""


def access(random: Random, base: str) -> str:
    """One load or store, rarely misaligned, rarely far from the base."""
    name = random.choice(LOADS if random.randrange(5) < 3 else STORES)
    offset = random.randrange(-4, 5) * 8 + random.choice((0, 0, 0, 0, 0, 4, 1))
    offset += random.choice((0,) * 12 + (2000, -2000))
    register = ("f" if name.startswith("f") else "") + random.choice(TARGETS)
    return f"    {name} {register}, {offset}({base})"


def body(random: Random) -> list[str]:
    """A few accesses, of which most share a base; some change it."""
    base = random.choice(BASES)
    lines = []
    for _ in range(random.randrange(2, 9)):
        if random.randrange(6) == 0:
            base = random.choice(BASES)
        if random.randrange(8) == 0:
            lines.append(f"    addi {base}, {base}, {random.choice((8, -8, 16, 1, 64))}")
        elif random.randrange(10) == 0:
            lines.append(f"    add  {base}, {base}, x0")
        lines.append(access(random, base))
    return lines


def program(random: Random) -> str:
    """Loops of one block, straight lines, functions called in three ways, and a switch."""
    lines = [START]
    for base in BASES:
        lines.append(f"    li   {base}, {random.choice(PLACES) - random.choice((0, 8, 64, 4096))}")
    for number in range(3):
        lines += body(random)
        lines += [f"    li   t0, {random.choice((1, 3, 20))}", f"loop{number}:", *body(random)]
        base = random.choice(BASES)
        step = random.choice((8, 16, -8, 24, 264, 4, 3))
        lines += [f"    addi {base}, {base}, {step}", "    addi t0, t0, -1"]
        lines.append(f"    bnez t0, loop{number}")
        lines.append(
            random.choice(
                (
                    f"    call function{number}",
                    f"    jal  ra, function{number}",
                    f"    la   t1, function{number}\n    jalr ra, 0(t1)",
                    f"    la   t1, function{number}\n    jalr ra, 1(t1)",
                    "    auipc t1, 0\n    jalr t1, 9(t1)",
                )
            )
        )
    lines += [
        "    la   t1, case0",
        "    andi t2, s10, 3",
        "    slli t2, t2, 4",
        "    add  t1, t1, t2",
        "    jr   t1",
    ]
    for number in range(4):
        lines += [f"case{number}:", access(random, "s0"), access(random, "s1")]
        lines += [f"    addi a7, a7, {number}", "    j    outer"]
    lines.append(TRAPPED)
    for number in range(3):
        lines += [f"function{number}:", *body(random), f"    addi a6, a6, {number}", "    ret"]
    return "\n".join(lines)


def translated(source: str) -> tuple[Machine, Native]:
    """A machine whose pages are optimised when ``optimise`` says so."""
    native = Native(hot=HotPages(), watch=False, threshold=0)
    machine = program_machine(source)
    machine.scheduler.use(TranslatingEngine(native, native.enter))
    return machine, native


@pytest.mark.parametrize("seed", range(40))
def test_programs_at_the_edges_of_pages(seed: int) -> None:
    source = program(Random(f"near {seed}"))
    machine, native = translated(source)
    expected = program_machine(source, engine="interpreter")
    steps = Random(seed)
    done = 0
    for part in range(8):
        count = steps.choice((1, 50, 400, 3000))
        machine.run(max_steps=count)
        expected.run(max_steps=count)
        done += count
        assert machine.digest() == expected.digest(), f"seed {seed}, after {done} steps"
        assert not any(machine.ram.read(UNTOUCHED, 4096)), "the page that all absent ones are"
        if part in (1, 3, 5):
            for page in translator_of(machine).pages.values():
                page.tried = set()
            optimise(native, translator_of(machine))
    assert native.hot is not None
    assert native.hot.regions >= 1


STORES_AFTER_LOADS: Final = {
    "in the page": """
    loop:
        ld   a0, 0(s0)
        sd   s0, 8(s0)
        ld   a1, 0(s0)
        ld   a2, 8(s0)
        add  s0, s0, t0
        ld   a3, 8(s0)
        add  a4, a4, a3
        add  a5, a5, a2
        j    loop
    """,
    "over the edge": """
        addi s0, s0, -8
    loop:
        sd   s0, 0(s0)
        ld   a3, 8(s0)
        add  a4, a4, a3
        sd   s0, 8(s0)
        add  s0, s0, t0
        j    loop
    """,
}


@pytest.mark.parametrize("name", STORES_AFTER_LOADS)
def test_a_page_that_was_loaded_from_is_no_page_to_store_to(name: str) -> None:
    """Absent pages share one page of zeros, which stays so."""
    source = "li s0, 0x80100000\nli t0, 4096\n" + STORES_AFTER_LOADS[name]
    machine, native = translated(source)
    expected = program_machine(source, engine="interpreter")
    for steps in (100, 1000, 1000):
        machine.run(max_steps=steps)
        expected.run(max_steps=steps)
        optimise(native, translator_of(machine))
    assert machine.digest() == expected.digest()
    assert machine.harts[0].x[14] == 0
    assert not any(machine.ram.read(UNTOUCHED, 4096))
    assert native.hot is not None
    assert native.hot.regions >= 1


def test_calls_stay_in_their_region() -> None:
    """A call by a register, a return and a switch within a page do not leave optimised code."""
    source = """
        la   s1, leaf
        la   s2, table
    loop:
        addi s0, s0, 1
        call leaf
        jalr ra, 0(s1)
        andi t0, s0, 3
        slli t0, t0, 3
        add  t0, t0, s2
        jr   t0
    table:
        addi a0, a0, 1
        j    loop
        addi a1, a1, 1
        j    loop
        addi a2, a2, 1
        j    loop
        addi a3, a3, 1
        j    loop
    leaf:
        addi a4, a4, 1
        ret
    """
    machine, native = translated(source)
    expected = program_machine(source, engine="interpreter")
    machine.run(max_steps=1000)
    optimise(native, translator_of(machine))
    machine.run(max_steps=1)
    page = next(iter(translator_of(machine).pages.values()))
    assert native.hot is not None
    assert native.hot.regions == 1
    before = machine.scheduler.engine.statistics()["entries"]
    # Nobody finds the way from the page's table any more: what runs on is the region alone.
    for slot in range(2048):
        page.entries[slot] = translator_of(machine).missing
    machine.run(max_steps=100_000)
    assert machine.scheduler.engine.statistics()["entries"] < before + 60
    expected.run(max_steps=101_001)
    assert machine.digest() == expected.digest()
