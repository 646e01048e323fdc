"""Sv39 and Sv48: where an address leads, and what is no translation (4.3.2, 4.4, 4.5)."""

from __future__ import annotations

import pytest

from tests.conformance.paging import LEVELS, PAGE, RW, RWX, A, D, G, Tables, U, V, W, X, leaf
from tests.conformance.program import (
    DATA,
    FETCH_ACCESS,
    FETCH_PAGE,
    LOAD_ACCESS,
    LOAD_PAGE,
    NOWHERE,
    STORE_ACCESS,
    STORE_PAGE,
    Program,
    Run,
)

SCHEMES = pytest.mark.parametrize("scheme", ["sv39", "sv48"])
VIRTUAL = 0xC000_0000
MARK = 0x600D_F00D_0BAD_CAFE


def top_half(scheme: str) -> int:
    """The lowest address of the upper half."""
    return (1 << 64) - (1 << 9 * LEVELS[scheme] + 11)


@SCHEMES
def test_priv_4_4_1_a_page_leads_to_its_frame(run: Run, scheme: str) -> None:
    p = Program()
    tables = Tables(p, scheme)
    tables.map(VIRTUAL + 0x12_3000, DATA + 0x7000, RW)
    tables.map(top_half(scheme), DATA + 0x8000, RW)
    tables.map((1 << 64) - PAGE, DATA + 0x9000, RW)
    p.store(DATA + 0x7458, MARK)
    tables.enable()
    p.enter("S")
    p.check_memory(VIRTUAL + 0x12_3458, MARK, what="load through the table")
    p.store(VIRTUAL + 0x12_3460, MARK + 1)
    p.store(top_half(scheme) + 8, MARK + 2)
    p.store((1 << 64) - 8, MARK + 3)
    p.leave()
    p.check_memory(DATA + 0x7460, MARK + 1, what="store through the table")
    p.check_memory(DATA + 0x8008, MARK + 2, what="the lowest address of the upper half")
    p.check_memory(DATA + 0x9FF8, MARK + 3, what="the highest address")
    run(p)


@SCHEMES
@pytest.mark.parametrize("level", [1, 2])
def test_priv_4_3_2_a_superpage_takes_the_rest_of_the_address(
    run: Run, scheme: str, level: int
) -> None:
    size = PAGE << 9 * level
    frame = DATA & -size
    p = Program()
    tables = Tables(p, scheme)
    tables.map(VIRTUAL, frame, RW, level=level)
    offsets = [0x40_0000 + DATA % size % 0x20_0000, 0x41_2340] if level == 2 else [0, 0x1F_FFF8]
    for number, offset in enumerate(offsets):
        p.store(frame + offset, MARK + number)
    tables.enable()
    p.enter("S")
    for number, offset in enumerate(offsets):
        p.check_memory(VIRTUAL + offset, MARK + number, what=f"load at {offset:#x}")
        p.store(VIRTUAL + offset, MARK - number)
    p.leave()
    for number, offset in enumerate(offsets):
        p.check_memory(frame + offset, MARK - number, what=f"store at {offset:#x}")
    run(p)


def test_priv_4_5_1_sv48_has_leaves_of_512_gigabytes(run: Run) -> None:
    p = Program()
    tables = Tables(p, "sv48")
    virtual = 0x4000_0000_0000
    tables.map(virtual, 0, RW, level=3)
    p.store(DATA, MARK)
    tables.enable()
    p.enter("S")
    p.check_memory(virtual + DATA, MARK, what="through the root's own leaf")
    run(p)


@SCHEMES
def test_priv_4_3_2_misaligned_superpages_fault(run: Run, scheme: str) -> None:
    p = Program()
    tables = Tables(p, scheme)
    tables.put(VIRTUAL, leaf(DATA + PAGE, RWX), level=1)
    tables.put(VIRTUAL + 0x4000_0000, leaf(DATA, RWX), level=2)
    tables.enable()
    p.enter("S")
    for address in (VIRTUAL, VIRTUAL + 0x4000_0000):
        p.li("a0", address)
        p.trap("ld a1, 0(a0)", LOAD_PAGE, tval=address)
        p.trap("sd a1, 0(a0)", STORE_PAGE, tval=address)
        p.trap("jr a0", FETCH_PAGE, epc=address, tval=address)
    run(p)


@SCHEMES
def test_priv_4_4_1_addresses_must_be_sign_extended(run: Run, scheme: str) -> None:
    p = Program()
    tables = Tables(p, scheme)
    bits = 9 * LEVELS[scheme] + 12
    tables.map(0x1000, DATA, RWX)
    tables.enable()
    p.enter("S")
    p.li("a0", 0x1000)
    p.asm("ld a1, 0(a0)")
    for address in (
        1 << bits | 0x1000,
        1 << bits - 1 | 0x1000,
        (1 << 63) + 0x1000,
        ~(1 << bits - 1),
    ):
        address &= (1 << 64) - 1
        p.li("a0", address)
        p.trap("lb a1, 0(a0)", LOAD_PAGE, tval=address)
        p.trap("sb a1, 0(a0)", STORE_PAGE, tval=address)
        p.trap("jr a0", FETCH_PAGE, epc=address & ~1, tval=address & ~1)
    run(p)


INVALID = pytest.mark.parametrize(
    ("entry", "what"),
    [
        (0, "all zero"),
        (leaf(flags=RWX & ~V), "V clear"),
        (leaf(flags=V | W | A | D), "W without R"),
        (leaf(flags=V | W | X | A | D), "W and X without R"),
        (leaf(flags=V | A | D), "a table at the last level"),
        (leaf(flags=V), "a table at the last level, A and D clear"),
        (leaf(flags=RWX) | 1 << 54, "reserved bit 54"),
        (leaf(flags=RWX) | 1 << 60, "reserved bit 60"),
        (leaf(flags=RWX) | 1 << 61, "PBMT without Svpbmt"),
        (leaf(flags=RWX) | 1 << 63, "N without Svnapot"),
    ],
)


@SCHEMES
@INVALID
def test_priv_4_3_2_invalid_leaves_fault(run: Run, scheme: str, entry: int, what: str) -> None:
    p = Program()
    tables = Tables(p, scheme)
    tables.put(VIRTUAL, entry)
    tables.enable()
    p.enter("S")
    p.li("a0", VIRTUAL + 0x128)
    p.trap("ld a1, 0(a0)", LOAD_PAGE, tval=VIRTUAL + 0x128, what=f"{what}: load")
    p.trap("sd a1, 0(a0)", STORE_PAGE, tval=VIRTUAL + 0x128, what=f"{what}: store")
    p.trap("lr.d a1, (a0)", LOAD_PAGE, tval=VIRTUAL + 0x128, what=f"{what}: LR")
    p.trap("jr a0", FETCH_PAGE, epc="a0", tval=VIRTUAL + 0x128, what=f"{what}: fetch")
    run(p)


@pytest.mark.deviates("qemu", "7.2 reports an AMO's fault as a load's")
@INVALID
def test_priv_4_3_2_an_amo_faults_as_a_store(run: Run, entry: int, what: str) -> None:
    p = Program()
    tables = Tables(p)
    tables.put(VIRTUAL, entry)
    tables.enable()
    p.enter("S")
    p.li("a0", VIRTUAL + 0x128)
    p.trap("amoadd.d a1, a1, (a0)", STORE_PAGE, tval=VIRTUAL + 0x128, what=f"{what}: AMO")
    run(p)


@SCHEMES
@pytest.mark.parametrize(
    ("flags", "what"),
    [(0, "V clear"), (V | W, "W without R"), (V | 1 << 54, "reserved bit"), (V | 1 << 63, "N")],
)
def test_priv_4_3_2_invalid_tables_fault(run: Run, scheme: str, flags: int, what: str) -> None:
    p = Program()
    tables = Tables(p, scheme)
    tables.map(VIRTUAL, DATA, RWX)
    good = tables.entry(VIRTUAL, 1)
    p.li("t0", good)
    p.asm("ld t1, 0(t0)\nandi t1, t1, -2")
    p.li("t2", flags)
    p.asm("or t1, t1, t2\nsd t1, 0(t0)")
    tables.enable()
    p.enter("S")
    p.li("a0", VIRTUAL)
    p.trap("ld a1, 0(a0)", LOAD_PAGE, tval=VIRTUAL, what=what)
    p.trap("sd a1, 0(a0)", STORE_PAGE, tval=VIRTUAL, what=what)
    p.trap("jr a0", FETCH_PAGE, epc=VIRTUAL, tval=VIRTUAL, what=what)
    run(p)


@pytest.mark.parametrize("flag", [A, D, U])
def test_priv_4_4_1_d_a_and_u_are_reserved_in_tables(run: Run, flag: int) -> None:
    p = Program()
    tables = Tables(p)
    tables.map(VIRTUAL, DATA, RWX)
    p.li("t0", tables.entry(VIRTUAL, 1))
    p.asm(f"ld t1, 0(t0)\nori t1, t1, {flag}\nsd t1, 0(t0)")
    tables.enable()
    p.enter("S")
    p.li("a0", VIRTUAL)
    p.trap("ld a1, 0(a0)", LOAD_PAGE, tval=VIRTUAL)
    run(p)


@pytest.mark.deviates("qemu", "7.2 makes it a page fault")
@SCHEMES
def test_priv_4_3_2_a_table_outside_memory_is_an_access_fault(run: Run, scheme: str) -> None:
    p = Program()
    tables = Tables(p, scheme)
    tables.put(VIRTUAL, NOWHERE >> 2 | V, level=1)
    tables.enable()
    p.enter("S")
    p.li("a0", VIRTUAL + 8)
    p.trap("ld a1, 0(a0)", LOAD_ACCESS, tval=VIRTUAL + 8)
    p.trap("sd a1, 0(a0)", STORE_ACCESS, tval=VIRTUAL + 8)
    p.trap("jr a0", FETCH_ACCESS, epc="a0", tval=VIRTUAL + 8)
    run(p)


def test_priv_4_3_2_a_frame_outside_memory_is_an_access_fault(run: Run) -> None:
    p = Program()
    tables = Tables(p)
    tables.map(VIRTUAL, NOWHERE, RWX)
    tables.enable()
    p.enter("S")
    p.li("a0", VIRTUAL + 8)
    p.trap("ld a1, 0(a0)", LOAD_ACCESS, tval=VIRTUAL + 8)
    p.trap("sd a1, 0(a0)", STORE_ACCESS, tval=VIRTUAL + 8)
    p.trap("jr a0", FETCH_ACCESS, epc="a0", tval=VIRTUAL + 8)
    run(p)


@SCHEMES
def test_priv_4_3_1_machine_mode_does_not_translate(run: Run, scheme: str) -> None:
    p = Program()
    tables = Tables(p, scheme)
    tables.enable()
    p.store(DATA, MARK)
    p.check_memory(DATA, MARK, what="M-mode with satp set")
    run(p)


def test_priv_4_1_11_bare_mode_does_not_translate(run: Run) -> None:
    p = Program()
    p.store(DATA, MARK)
    p.write("satp", 0)
    p.asm("sfence.vma")
    for mode in ("S", "U"):
        p.enter(mode)
        p.check_memory(DATA, MARK, what=f"{mode}-mode, bare")
        p.leave()
    run(p)


@SCHEMES
def test_priv_4_3_2_the_rsw_and_g_bits_do_not_matter(run: Run, scheme: str) -> None:
    p = Program()
    tables = Tables(p, scheme)
    tables.map(VIRTUAL, DATA, RW | G | 3 << 8)
    p.store(DATA, MARK)
    tables.enable()
    p.enter("S")
    p.check_memory(VIRTUAL, MARK, what="RSW and G set")
    run(p)


def test_priv_4_3_2_a_fetch_may_be_translated_alone(run: Run) -> None:
    """Code runs from a page that can only be executed."""
    p = Program()
    tables = Tables(p)
    tables.map(VIRTUAL, DATA, V | X | A | D)
    p.store(DATA, 0x8582, width=2)  # c.jr a1
    p.asm("fence.i")
    tables.enable()
    p.enter("S")
    p.li("a0", VIRTUAL)
    p.asm("la a1, 1f\njr a0\n1:")
    p.trap("ld a2, 0(a0)", LOAD_PAGE, tval=VIRTUAL)
    p.leave()
    p.check("a0", VIRTUAL, what="came back")
    run(p)
