"""The A and D bits, kept by software or by hardware (4.3.1; Svadu: menvcfg.ADUE)."""

from __future__ import annotations

import pytest

from tests.conformance.paging import A, D, R, Tables, U, V, W, X
from tests.conformance.program import (
    DATA,
    FETCH_PAGE,
    LOAD_PAGE,
    MPP,
    MPRV,
    STORE_PAGE,
    Program,
    Run,
)

ADUE = 1 << 61
VIRTUAL = 0xC000_0000
SOFTWARE = pytest.mark.deviates("qemu", "7.2 has no Svadu and always updates")
ALL = V | R | W | X


@SOFTWARE
def test_svadu_without_adue_a_clear_faults_every_access(run: Run) -> None:
    p = Program()
    p.write("menvcfg", 0)
    tables = Tables(p)
    entry = tables.map(VIRTUAL, DATA, ALL)
    tables.enable()
    p.enter("S")
    p.li("a0", VIRTUAL)
    p.trap("ld a1, 0(a0)", LOAD_PAGE, tval=VIRTUAL)
    p.trap("sd a1, 0(a0)", STORE_PAGE, tval=VIRTUAL)
    p.trap("amoadd.d a1, a1, (a0)", STORE_PAGE, tval=VIRTUAL)
    p.trap("jr a0", FETCH_PAGE, epc="a0", tval=VIRTUAL)
    p.leave()
    p.check_memory(entry, DATA >> 2 | ALL, what="the entry is as it was")
    run(p)


@SOFTWARE
def test_svadu_without_adue_d_clear_faults_stores_only(run: Run) -> None:
    p = Program()
    p.write("menvcfg", 0)
    tables = Tables(p)
    entry = tables.map(VIRTUAL, DATA, ALL | A)
    tables.enable()
    p.enter("S")
    p.li("a0", VIRTUAL)
    p.asm("ld a1, 0(a0)\nlr.d a1, (a0)")
    p.trap("sd a1, 0(a0)", STORE_PAGE, tval=VIRTUAL, what="store after a load filled the TLB")
    p.trap("amoor.d a1, a1, (a0)", STORE_PAGE, tval=VIRTUAL)
    p.asm("ld a1, 0(a0)")
    p.leave()
    p.check_memory(entry, DATA >> 2 | ALL | A, what="the entry is as it was")
    run(p)


@SOFTWARE
def test_svadu_adue_is_off_at_reset_and_writable(run: Run) -> None:
    p = Program()
    p.check_csr("menvcfg", 0, mask=ADUE)
    p.write("menvcfg", ADUE)
    p.check_csr("menvcfg", ADUE, mask=ADUE)
    p.write("menvcfg", 0)
    p.check_csr("menvcfg", 0, mask=ADUE)
    run(p)


@SOFTWARE
def test_svadu_turning_adue_off_again_brings_the_faults_back(run: Run) -> None:
    p = Program()
    tables = Tables(p)
    tables.map(VIRTUAL, DATA, ALL)
    entry = tables.map(VIRTUAL + 4096, DATA, ALL)
    p.write("menvcfg", ADUE)
    tables.enable()
    p.enter("S")
    p.li("a0", VIRTUAL)
    p.asm("sd a1, 0(a0)")
    p.leave()
    p.write("menvcfg", 0)
    p.asm("sfence.vma")
    p.enter("S")
    p.li("a0", VIRTUAL + 4096)
    p.trap("ld a1, 0(a0)", LOAD_PAGE, tval=VIRTUAL + 4096)
    p.leave()
    p.check_memory(entry, DATA >> 2 | ALL, what="the entry is as it was")
    run(p)


@pytest.mark.parametrize("scheme", ["sv39", "sv48"])
@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize(
    ("access", "flags"),
    [
        ("ld a1, 0(a0)", A),
        ("lr.d a1, (a0)", A),
        ("jalr a1, 0(a0)", A),
        ("sd a1, 0(a0)", A | D),
        ("amoadd.d a1, a1, (a0)", A | D),
        ("ld a1, 0(a0)\nsd a1, 8(a0)", A | D),
    ],
)
def test_svadu_with_adue_hardware_sets_the_bits(
    run: Run, scheme: str, level: int, access: str, flags: int
) -> None:
    p = Program()
    p.store(DATA, 0x8582, width=2)  # c.jr a1, for the jump
    p.asm("fence.i")
    p.write("menvcfg", ADUE)
    tables = Tables(p, scheme)
    entry = tables.map(VIRTUAL, DATA, ALL, level=level)
    tables.enable()
    p.enter("S")
    p.li("a0", VIRTUAL)
    p.asm(access)
    p.leave()
    p.check_memory(entry, DATA >> 2 | ALL | flags, what=f"the entry after {access!r}")
    run(p)


def test_svadu_a_refused_access_sets_nothing(run: Run) -> None:
    p = Program()
    p.write("menvcfg", ADUE)
    tables = Tables(p)
    entry = tables.map(VIRTUAL, DATA, V | R)
    user = tables.map(VIRTUAL + 4096, DATA, V | R | W | U)
    tables.enable()
    p.enter("S")
    p.li("a0", VIRTUAL)
    p.trap("sd a1, 0(a0)", STORE_PAGE, tval=VIRTUAL)
    p.trap("jr a0", FETCH_PAGE, epc="a0", tval=VIRTUAL)
    p.li("a0", VIRTUAL + 4096)
    p.trap("ld a1, 0(a0)", LOAD_PAGE, tval=VIRTUAL + 4096)
    p.leave()
    p.check_memory(entry, DATA >> 2 | V | R, what="read-only page")
    p.check_memory(user, DATA >> 2 | V | R | W | U, what="user page without SUM")
    run(p)


def test_svadu_hardware_sets_the_bits_under_mprv(run: Run) -> None:
    p = Program()
    p.write("menvcfg", ADUE)
    tables = Tables(p)
    entry = tables.map(VIRTUAL, DATA, ALL)
    tables.enable()
    p.clear("mstatus", MPP)
    p.set("mstatus", 1 << 11)
    p.li("a0", VIRTUAL)
    p.set("mstatus", MPRV)
    p.asm("sd zero, 0(a0)")
    p.clear("mstatus", MPRV)
    p.check_memory(entry, DATA >> 2 | ALL | A | D, what="the entry")
    run(p)
