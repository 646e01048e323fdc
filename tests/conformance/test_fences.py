"""When a changed translation or changed code is seen: SFENCE.VMA, ASIDs, satp, FENCE.I."""

from __future__ import annotations

import pytest

from tests.conformance.paging import RW, RWX, Tables
from tests.conformance.program import (
    DATA,
    FETCH_PAGE,
    LOAD_PAGE,
    RAM,
    STORE_PAGE,
    TABLES,
    Program,
    Run,
)

VIRTUAL = 0xC000_0000
ONE, TWO = 0x1111, 0x2222


def two_frames(p: Program) -> None:
    p.store(DATA, ONE)
    p.store(DATA + 4096, TWO)


@pytest.mark.parametrize(
    "fence", ["sfence.vma", "sfence.vma a0", "sfence.vma zero, a1", "sfence.vma a0, a1"]
)
@pytest.mark.parametrize("level", [0, 1])
def test_priv_4_2_1_sfence_makes_a_changed_entry_seen(run: Run, fence: str, level: int) -> None:
    asid = 5
    p = Program()
    tables = Tables(p)
    p.store(DATA, ONE)
    p.store(DATA + 0x20_0000, TWO)
    entry = tables.map(VIRTUAL, DATA, RW, level=level)
    if level == 0:
        p.store(DATA + 4096, TWO)
    frame = DATA + (0x20_0000 if level else 4096)
    tables.enable(asid)
    p.enter("S")
    p.check_memory(VIRTUAL, ONE, what="before")
    p.store(entry, frame >> 2 | RW)
    p.li("a0", VIRTUAL)
    p.li("a1", asid)
    p.asm(fence)
    p.check_memory(VIRTUAL, TWO, what=f"after {fence}")
    p.store(entry, 0)
    p.asm(fence)
    p.trap("ld a2, 0(a0)", LOAD_PAGE, tval=VIRTUAL, what=f"removed, after {fence}")
    p.leave()
    run(p)


def test_priv_4_2_1_sfence_makes_withdrawn_rights_seen(run: Run) -> None:
    p = Program()
    tables = Tables(p)
    entry = tables.map(VIRTUAL, DATA, RW)
    tables.enable()
    p.enter("S")
    p.li("a0", VIRTUAL)
    p.asm("ld a1, 0(a0)\nsd a1, 0(a0)")
    p.store(entry, DATA >> 2 | RW & ~4)
    p.asm("sfence.vma a0")
    p.asm("ld a1, 0(a0)")
    p.trap("sd a1, 0(a0)", STORE_PAGE, tval=VIRTUAL, what="W withdrawn")
    p.leave()
    run(p)


@pytest.mark.parametrize(
    ("level", "other"),
    [(1, 0x12_3456), (1, 0x1F_F000), (2, 0x3000_0000), (3, 0x1000_0000), (3, 0x70_0000_0000)],
)
def test_priv_4_2_1_sfence_by_any_address_of_a_superpage_reaches_it(
    run: Run, level: int, other: int
) -> None:
    """The leaf that translates the address is meant, not one of its 4 KiB."""
    p = Program()
    tables = Tables(p, "sv48" if level == 3 else "sv39", program_mapped=False)
    tables.map(RAM, RAM, RWX, level=1)
    tables.map(TABLES, TABLES, RW, level=1)
    virtual = {1: 0x10_0C40_0000, 2: 0x10_0000_0000, 3: 0x1000_0000_0000}[level]
    frame = DATA & -(4096 << 9 * level)
    inside = DATA - frame + 0x5008
    entry = tables.map(virtual, frame, RW, level=level)
    tables.enable()
    p.enter("S")
    p.li("a0", virtual + inside)
    p.asm("sd zero, 0(a0)")
    p.store(entry, frame >> 2 | RW & ~4)
    p.li("a1", virtual + other)
    p.asm("sfence.vma a1\nld a2, 0(a0)")
    p.trap("sd a2, 0(a0)", STORE_PAGE, tval=virtual + inside, what="W withdrawn")
    p.leave()
    run(p)


def test_priv_4_1_11_address_spaces_are_kept_apart_by_asid(run: Run) -> None:
    """No fence is needed when satp changes to another ASID's tables."""
    p = Program()
    two_frames(p)
    first = Tables(p)
    second = Tables(p, at=TABLES + 0x8_0000)
    first.map(VIRTUAL, DATA, RW)
    second.map(VIRTUAL, DATA + 4096, RW)
    first.enable(1)
    p.enter("S")
    for turn in range(3):
        p.write("satp", first.satp(1))
        p.check_memory(VIRTUAL, ONE, what=f"ASID 1, turn {turn}")
        p.write("satp", second.satp(2))
        p.check_memory(VIRTUAL, TWO, what=f"ASID 2, turn {turn}")
    p.store(VIRTUAL + 8, 0x33)
    p.write("satp", first.satp(1))
    p.store(VIRTUAL + 8, 0x44)
    p.leave()
    p.check_memory(DATA + 8, 0x44, what="stored in ASID 1")
    p.check_memory(DATA + 4096 + 8, 0x33, what="stored in ASID 2")
    run(p)


def test_priv_4_2_1_sfence_of_one_asid_leaves_the_others_right(run: Run) -> None:
    p = Program()
    two_frames(p)
    first = Tables(p)
    second = Tables(p, at=TABLES + 0x8_0000)
    entry = first.map(VIRTUAL, DATA, RW)
    second.map(VIRTUAL, DATA + 4096, RW)
    first.enable(1)
    p.enter("S")
    p.check_memory(VIRTUAL, ONE, what="ASID 1")
    p.write("satp", second.satp(2))
    p.check_memory(VIRTUAL, TWO, what="ASID 2")
    p.write("satp", first.satp(1))
    p.store(entry, 0)
    p.li("a0", VIRTUAL)
    p.li("a1", 1)
    p.asm("sfence.vma zero, a1")
    p.trap("ld a2, 0(a0)", LOAD_PAGE, what="ASID 1 after its fence")
    p.write("satp", second.satp(2))
    p.check_memory(VIRTUAL, TWO, what="ASID 2 afterwards")
    p.leave()
    run(p)


@pytest.mark.parametrize(
    "fence", ["sfence.vma", "sfence.vma a2", "sfence.vma zero, a3", "sfence.vma a2, a3"]
)
def test_priv_4_2_1_sfence_counts_for_fetches(run: Run, fence: str) -> None:
    virtual = VIRTUAL + 0x12_3000  # no likely TLB has it in the program's place
    p = Program()
    tables = Tables(p)
    for number, frame in enumerate((DATA, DATA + 4096)):
        p.store(frame + 8, 0x0000_0513 | number + 1 << 20, width=4)  # addi a0, zero, number + 1
        p.store(frame + 12, 0x8582, width=2)  # c.jr a1
    entry = tables.map(virtual, DATA, RWX)
    tables.enable(3)
    p.asm("fence.i")
    p.enter("S")
    p.li("a2", virtual + 8)
    p.li("a3", 3)
    p.asm("jalr a1, 0(a2)")
    p.check("a0", 1, what="the first frame's code")
    p.store(entry, DATA + 4096 >> 2 | RWX)
    p.asm(f"{fence}\njalr a1, 0(a2)")
    p.check("a0", 2, what=f"the second frame's code after {fence}")
    p.store(entry, DATA >> 2 | RW)
    p.asm(fence)
    p.trap("jr a2", FETCH_PAGE, epc="a2", tval=virtual + 8, what=f"X withdrawn, after {fence}")
    p.leave()
    run(p)


def test_priv_4_2_1_sfence_in_machine_mode_counts_below(run: Run) -> None:
    p = Program()
    two_frames(p)
    tables = Tables(p)
    entry = tables.map(VIRTUAL, DATA, RW)
    tables.enable()
    p.enter("S")
    p.check_memory(VIRTUAL, ONE, what="before")
    p.leave()
    p.store(entry, DATA + 4096 >> 2 | RW)
    p.asm("sfence.vma")
    p.enter("S")
    p.check_memory(VIRTUAL, TWO, what="after")
    p.leave()
    run(p)


def test_priv_4_1_11_bare_to_paged_and_back_needs_a_fence_only(run: Run) -> None:
    p = Program()
    tables = Tables(p)
    p.store(DATA, ONE)
    tables.map(VIRTUAL, DATA, RW)
    p.enter("S")
    p.check_memory(DATA, ONE, what="bare")
    p.write("satp", tables.satp())
    p.asm("sfence.vma")
    p.check_memory(VIRTUAL, ONE, what="paged")
    p.write("satp", 0)
    p.asm("sfence.vma")
    p.check_memory(DATA, ONE, what="bare again")
    p.leave()
    run(p)


def test_zifencei_3_1_fence_i_makes_stored_code_seen(run: Run) -> None:
    p = Program()
    p.li("a0", DATA)
    for value in (1, 2, 3):
        p.store(DATA, 0x0000_0513 | value << 20, width=4)  # addi a0, zero, value
        p.store(DATA + 4, 0x8582, width=2)  # c.jr a1
        p.asm("fence.i")
        p.li("a2", DATA)
        p.asm("jalr a1, 0(a2)")
        p.check("a0", value, what=f"version {value}")
    run(p)


def test_zifencei_3_1_code_stored_through_another_mapping(run: Run) -> None:
    """Virtual aliases: stored at one address, executed at another."""
    p = Program()
    tables = Tables(p)
    tables.map(VIRTUAL, DATA, RW)
    tables.map(VIRTUAL + 4096, DATA, RWX)
    tables.enable()
    p.enter("S")
    for value in (7, 8, 9):
        p.store(VIRTUAL + 0xFF8, 0x0000_0513 | value << 20, width=4)
        p.store(VIRTUAL + 0xFFC, 0x8582, width=2)
        p.asm("fence.i")
        p.li("a2", VIRTUAL + 4096 + 0xFF8)
        p.asm("jalr a1, 0(a2)")
        p.check("a0", value, what=f"version {value}")
    p.leave()
    run(p)
