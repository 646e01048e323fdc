"""Physical memory protection (3.7). Entry 15 opens everything; tests put others before it."""

from __future__ import annotations

import pytest

from tests.conformance.paging import RWX, Tables, V
from tests.conformance.program import (
    DATA,
    FETCH_ACCESS,
    ILLEGAL,
    LOAD_ACCESS,
    MPP,
    MPRV,
    STORE_ACCESS,
    Program,
    Run,
)

R, W, X, L = 1, 2, 4, 0x80
OFF, TOR, NA4, NAPOT = 0, 8, 16, 24
VIRTUAL = 0xC000_0000
MARK = 0x1234_5678_9ABC_DEF0


def napot(base: int, size: int) -> int:
    """pmpaddr for a naturally aligned region of 8 bytes or more."""
    return base >> 2 | (size >> 3) - 1


def entry(p: Program, index: int, address: int, config: int) -> None:
    """Set one of the first eight entries."""
    p.write(f"pmpaddr{index}", address)
    p.clear("pmpcfg0", 0xFF << 8 * index)
    p.set("pmpcfg0", config << 8 * index)


def works(p: Program, address: int, *, load: bool = True, store: bool = True) -> None:
    p.li("a0", address)
    if load:
        p.asm("lbu a1, 0(a0)")
    if store:
        p.asm("sb a1, 0(a0)")


def refused(
    p: Program, address: int, *, load: bool = True, store: bool = True, what: str = ""
) -> None:
    p.li("a0", address)
    if load:
        p.trap("lbu a1, 0(a0)", LOAD_ACCESS, tval=address, what=f"{what}: load at {address:#x}")
    if store:
        p.trap("sb a1, 0(a0)", STORE_ACCESS, tval=address, what=f"{what}: store at {address:#x}")


@pytest.mark.parametrize("mode", ["S", "U"])
@pytest.mark.parametrize(
    ("low", "size"),
    [(DATA + 0x1000, 8), (DATA + 0x1000, 64), (DATA + 0x2000, 4096), (DATA, 0x10000)],
)
def test_priv_3_7_1_napot_covers_its_power_of_two(run: Run, mode: str, low: int, size: int) -> None:
    p = Program()
    entry(p, 0, napot(low, size), NAPOT)
    p.enter(mode)
    works(p, low - 1)
    refused(p, low, what="first byte")
    refused(p, low + size - 1, what="last byte")
    works(p, low + size)
    p.leave()
    works(p, low)  # M-mode is not concerned
    run(p)


def test_priv_3_7_1_na4_covers_four_bytes(run: Run) -> None:
    p = Program()
    entry(p, 0, DATA + 0x104 >> 2, NA4)
    p.enter("S")
    works(p, DATA + 0x103)
    refused(p, DATA + 0x104)
    refused(p, DATA + 0x107)
    works(p, DATA + 0x108)
    run(p)


def test_priv_3_7_1_tor_covers_from_the_address_before(run: Run) -> None:
    p = Program()
    entry(p, 0, DATA + 0x1004 >> 2, OFF)
    entry(p, 1, DATA + 0x3008 >> 2, TOR)
    p.enter("S")
    works(p, DATA + 0x1003)
    refused(p, DATA + 0x1004, what="first byte")
    refused(p, DATA + 0x2000, what="inside")
    refused(p, DATA + 0x3007, what="last byte")
    works(p, DATA + 0x3008)
    run(p)


def test_priv_3_7_1_tor_in_entry_0_starts_at_zero(run: Run) -> None:
    p = Program()
    p.write("pmpaddr0", DATA >> 2)
    p.set("pmpcfg0", TOR | R | X)
    p.enter("S")
    works(p, DATA - 1, store=False)
    refused(p, DATA - 1, load=False, what="just below")
    refused(p, 0x8000_0000, load=False, what="the program")
    p.li("a0", 0x0200_4000)
    p.trap("sd a1, 0(a0)", STORE_ACCESS, tval=0x0200_4000, what="a device below")
    works(p, DATA)
    run(p)


def test_priv_3_7_1_an_empty_tor_range_matches_nothing(run: Run) -> None:
    p = Program()
    entry(p, 0, DATA + 0x2000 >> 2, OFF)
    entry(p, 1, DATA + 0x1000 >> 2, TOR)
    p.enter("S")
    works(p, DATA + 0x1800)
    works(p, DATA + 0x1000)
    works(p, DATA + 0x2000)
    run(p)


@pytest.mark.parametrize("mode", ["S", "U"])
@pytest.mark.parametrize("rights", [0, R, R | W, X, R | X, R | W | X])
def test_priv_3_7_1_rights(run: Run, mode: str, rights: int) -> None:
    p = Program()
    p.store(DATA, 0x8582, width=2)  # c.jr a1
    p.asm("fence.i")
    entry(p, 0, napot(DATA, 4096), NAPOT | rights)
    p.enter(mode)
    p.li("a0", DATA)
    if rights & R:
        p.asm("lw a2, 0(a0)")
    else:
        p.trap("lw a2, 0(a0)", LOAD_ACCESS, tval=DATA)
        p.trap("lr.w a2, (a0)", LOAD_ACCESS, tval=DATA)
    if rights & W:
        p.asm("sw a2, 8(a0)")
    else:
        p.trap("sw a2, 8(a0)", STORE_ACCESS, tval=DATA + 8)
    if rights & X:
        p.asm("jalr a1, 0(a0)")
    else:
        p.trap("jr a0", FETCH_ACCESS, epc="a0", tval=DATA)
    run(p)


@pytest.mark.deviates("qemu", "7.2 reports an AMO's fault as a load's")
@pytest.mark.parametrize("rights", [0, R, X])
def test_priv_3_7_1_an_amo_needs_both_rights(run: Run, rights: int) -> None:
    p = Program()
    entry(p, 0, napot(DATA, 4096), NAPOT | rights)
    p.enter("S")
    p.li("a0", DATA)
    p.trap("amoadd.w a2, a2, (a0)", STORE_ACCESS, tval=DATA)
    run(p)


def test_priv_3_7_1_the_lowest_matching_entry_decides(run: Run) -> None:
    p = Program()
    entry(p, 0, napot(DATA + 0x1000, 4096), NAPOT | R | W)
    entry(p, 1, napot(DATA, 0x8000), NAPOT)
    entry(p, 2, napot(DATA, 0x10000), NAPOT | R)
    p.enter("S")
    works(p, DATA + 0x1000)
    refused(p, DATA + 0xFFF, what="entry 1")
    refused(p, DATA + 0x2000, what="entry 1")
    works(p, DATA + 0x8000, store=False)
    refused(p, DATA + 0x8000, load=False, what="entry 2")
    works(p, DATA + 0x10000)
    run(p)


def test_priv_3_7_1_without_a_match_only_m_succeeds(run: Run) -> None:
    p = Program()
    p.write("pmpcfg2", 0)  # no entry 15
    entry(p, 0, napot(0x8000_0000, 0x10000), NAPOT | R | W | X)
    works(p, DATA)
    p.enter("S")
    refused(p, DATA, what="S, no match")
    p.leave()
    p.enter("U")
    refused(p, DATA, what="U, no match")
    run(p)


def test_priv_3_7_1_an_access_must_match_whole(run: Run) -> None:
    """Even when both parts would be allowed on their own."""
    p = Program()
    entry(p, 0, DATA + 0x104 >> 2, NA4 | R | W)
    p.enter("S")
    p.li("a0", DATA + 0x100)
    p.asm("lw a1, 0(a0)\nlw a1, 4(a0)")
    p.trap("ld a1, 0(a0)", LOAD_ACCESS, what="half in, half out")
    p.trap("sd a1, 0(a0)", STORE_ACCESS, what="half in, half out")
    run(p)


def test_priv_3_7_1_m_mode_obeys_locked_entries_only(run: Run) -> None:
    p = Program()
    entry(p, 0, napot(DATA, 4096), NAPOT | R)
    works(p, DATA)
    entry(p, 0, napot(DATA, 4096), NAPOT | R | L)
    works(p, DATA, store=False)
    refused(p, DATA, load=False, what="locked, M")
    p.trap("jr a0", FETCH_ACCESS, epc="a0", tval=DATA, what="locked, M: fetch")
    p.enter("S")
    works(p, DATA, store=False)
    refused(p, DATA, load=False, what="locked, S")
    run(p)


def test_priv_3_7_1_2_locked_entries_ignore_writes(run: Run) -> None:
    p = Program()
    address = napot(DATA, 4096)
    entry(p, 1, address, NAPOT | R | L)
    p.write("pmpaddr1", 0)
    p.check_csr("pmpaddr1", address, what="address of a locked entry")
    p.write("pmpcfg0", 0)
    p.check_csr("pmpcfg0", (NAPOT | R | L) << 8, what="configuration of a locked entry")
    p.write("pmpcfg0", (R | W) | (R | W | X) << 8 | R << 16)
    p.check_csr("pmpcfg0", (R | W) | (NAPOT | R | L) << 8 | R << 16, what="its neighbours change")
    p.write("pmpaddr0", 0x1234)
    p.check_csr("pmpaddr0", 0x1234, what="the address before a NAPOT entry is free")
    run(p)


def test_priv_3_7_1_2_a_locked_tor_entry_locks_the_address_before(run: Run) -> None:
    p = Program()
    p.write("pmpaddr0", DATA >> 2)
    p.write("pmpaddr1", DATA + 0x1000 >> 2)
    p.write("pmpcfg0", (TOR | R | L) << 8)
    p.write("pmpaddr0", 0)
    p.check_csr("pmpaddr0", DATA >> 2, what="lower bound of a locked TOR entry")
    p.write("pmpcfg0", (TOR | R | L) << 8 | R)
    p.check_csr("pmpcfg0", (TOR | R | L) << 8 | R, what="its configuration is free")
    refused(p, DATA, load=False, what="locked TOR, M")
    run(p)


@pytest.mark.deviates("qemu", "7.2 keeps W without R")
def test_priv_3_7_1_reserved_fields(run: Run) -> None:
    p = Program()
    p.write("pmpcfg0", W)
    p.check_csr("pmpcfg0", 0, R | W, what="W without R is never read")
    p.write("pmpcfg0", 0x60)
    p.check_csr("pmpcfg0", 0, what="bits 5 and 6 read zero")
    p.write("pmpaddr0", -1)
    p.check_csr("pmpaddr0", (1 << 54) - 1, what="bits 63 to 54 read zero")
    for csr in ("0x3a1", "0x3a3"):
        p.trap(f"csrr a0, {csr}", ILLEGAL, what="odd pmpcfg on RV64")
    run(p)


def test_priv_3_7_2_pmp_judges_the_frame_of_a_translated_access(run: Run) -> None:
    p = Program()
    tables = Tables(p)
    tables.map(VIRTUAL, DATA, RWX)
    tables.map(VIRTUAL + 4096, DATA + 4096, RWX)
    entry(p, 0, napot(DATA, 4096), NAPOT)
    tables.enable()
    p.enter("S")
    p.li("a0", VIRTUAL + 16)
    p.trap("ld a1, 0(a0)", LOAD_ACCESS, tval=VIRTUAL + 16, what="an access fault, virtual address")
    p.trap("sd a1, 0(a0)", STORE_ACCESS, tval=VIRTUAL + 16)
    p.trap("jr a0", FETCH_ACCESS, epc="a0", tval=VIRTUAL + 16)
    works(p, VIRTUAL + 4096)
    run(p)


def test_priv_3_7_2_pmp_judges_the_page_tables(run: Run) -> None:
    p = Program()
    tables = Tables(p)
    tables.map(VIRTUAL, DATA, RWX)
    table = tables.entry(VIRTUAL) & -4096
    entry(p, 0, napot(table, 4096), NAPOT)
    tables.enable()
    p.enter("S")
    p.li("a0", VIRTUAL + 16)
    p.trap("ld a1, 0(a0)", LOAD_ACCESS, tval=VIRTUAL + 16)
    p.trap("sd a1, 0(a0)", STORE_ACCESS, tval=VIRTUAL + 16)
    p.trap("jr a0", FETCH_ACCESS, epc="a0", tval=VIRTUAL + 16)
    run(p)


@pytest.mark.deviates("qemu", "7.2 asks for the right to read only")
def test_svadu_an_update_needs_the_right_to_write_the_table(run: Run) -> None:
    p = Program()
    p.write("menvcfg", 1 << 61)
    tables = Tables(p)
    address = tables.map(VIRTUAL, DATA, V | 6)  # R and W, A and D clear
    entry(p, 0, napot(address & -4096, 4096), NAPOT | R)
    tables.enable()
    p.enter("S")
    p.li("a0", VIRTUAL)
    p.trap("ld a1, 0(a0)", LOAD_ACCESS, tval=VIRTUAL)
    p.trap("sd a1, 0(a0)", STORE_ACCESS, tval=VIRTUAL)
    p.leave()
    p.check_memory(address, DATA >> 2 | V | 6, what="the entry is as it was")
    run(p)


def test_priv_3_7_2_a_change_is_seen_after_a_fence(run: Run) -> None:
    p = Program()
    tables = Tables(p)
    tables.map(VIRTUAL, DATA, RWX)
    tables.enable()
    for turn in range(2):
        entry(p, 0, napot(DATA, 4096), NAPOT | R | W)
        p.asm("sfence.vma")
        p.enter("S")
        works(p, VIRTUAL)
        p.leave()
        entry(p, 0, napot(DATA, 4096), NAPOT | R)
        p.asm("sfence.vma")
        p.enter("S")
        works(p, VIRTUAL, store=False)
        refused(p, VIRTUAL, load=False, what=f"W withdrawn, turn {turn}")
        p.leave()
    run(p)


@pytest.mark.parametrize("mode", [0, 1])
def test_priv_3_7_1_mprv_is_judged_as_the_mode_of_mpp(run: Run, mode: int) -> None:
    p = Program()
    entry(p, 0, napot(DATA, 4096), NAPOT | R)
    p.clear("mstatus", MPP)
    p.set("mstatus", mode << 11)
    p.li("a0", DATA)
    p.li("t0", MPRV)
    p.asm("csrs mstatus, t0\nld a1, 0(a0)\ncsrc mstatus, t0")
    p.trap("csrs mstatus, t0\nsd a1, 0(a0)", STORE_ACCESS, tval=DATA)
    p.clear("mstatus", MPRV)
    p.asm("sd a1, 0(a0)")
    run(p)


@pytest.mark.deviates("qemu", "7.2 goes on past the end of a region within a page")
def test_priv_3_7_1_a_fetch_is_judged_within_its_page(run: Run) -> None:
    """Code on one page: the part that may be executed runs, and ends where its region ends."""
    p = Program()
    for offset in range(0x7F0, 0x810, 2):
        p.store(DATA + offset, 0x0505, width=2)  # c.addi a0, 1
    p.asm("fence.i")
    entry(p, 0, napot(DATA + 0x800, 0x100), NAPOT | R)
    p.enter("S")
    for start, steps in ((0x7F0, 8), (0x7FC, 2), (0x7FE, 1)):
        p.li("a0", 0)
        p.li("a2", DATA + start)
        end = DATA + 0x800
        p.trap("jr a2", FETCH_ACCESS, epc=end, tval=end, what=f"from {start:#x}")
        p.check("a0", steps, what=f"from {start:#x}: all before it has run")
    run(p)


@pytest.mark.parametrize(
    "boundary",
    [
        pytest.param(DATA + 0x800, marks=pytest.mark.deviates("qemu", "7.2 does not end")),
        DATA + 0x1000,
    ],
)
def test_priv_3_7_1_an_instruction_may_straddle_the_end_of_a_region(
    run: Run, boundary: int
) -> None:
    p = Program()
    p.store(boundary - 2, 0x0513, width=2)  # addi a0, zero, 77
    p.store(boundary, 77 << 4, width=2)
    p.store(boundary + 2, 0x8582, width=2)  # c.jr a1
    p.asm("fence.i")
    p.li("a2", boundary - 2)
    p.enter("S")
    p.asm("li a0, 0\njalr a1, 0(a2)")
    p.check("a0", 77, what="both halves may be executed")
    p.leave()
    entry(p, 0, napot(boundary, 8), NAPOT | R)
    p.asm("sfence.vma")
    p.enter("S")
    p.trap("jr a2", FETCH_ACCESS, epc="a2", tval=boundary, what="the second half may not")
    run(p)


def test_priv_3_7_1_regions_share_a_page(run: Run) -> None:
    """Rights inside one 4 KiB page differ, whatever a TLB holds of it."""
    p = Program()
    p.store(DATA + 0x800, MARK)
    entry(p, 0, napot(DATA + 0x800, 0x100), NAPOT)
    entry(p, 1, napot(DATA + 0x900, 0x100), NAPOT | R)
    tables = Tables(p)
    tables.map(VIRTUAL, DATA, RWX)
    tables.enable()
    p.enter("S")
    for _ in range(2):
        works(p, VIRTUAL + 0x7FF)
        refused(p, VIRTUAL + 0x800, what="no rights")
        works(p, VIRTUAL + 0x9F0, store=False)
        refused(p, VIRTUAL + 0x9F0, load=False, what="read only")
        works(p, VIRTUAL + 0xA00)
    p.leave()
    p.check_memory(DATA + 0x800, MARK, what="nothing was stored")
    run(p)
