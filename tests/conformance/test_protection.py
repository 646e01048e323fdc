"""Rights of pages: R, W, X and U, SUM and MXR, MPRV (3.1.6.3, 4.3.2)."""

from __future__ import annotations

import pytest

from tests.conformance.paging import A, D, R, Tables, U, V, W, X
from tests.conformance.program import (
    DATA,
    FETCH_PAGE,
    LOAD_PAGE,
    MPP,
    MPRV,
    MXR,
    STORE_PAGE,
    SUM,
    Program,
    Run,
)

VIRTUAL = 0xC000_0000
RIGHTS = pytest.mark.parametrize(
    "rights", [R, R | W, X, R | X, R | W | X], ids=["r", "rw", "x", "rx", "rwx"]
)


KINDS = pytest.mark.parametrize(
    "kind",
    [
        "plain",
        pytest.param(
            "amo", marks=pytest.mark.deviates("qemu", "7.2 reports an AMO's fault as a load's")
        ),
    ],
)


def attempt(p: Program, kind: str, allowed: int, what: str) -> None:
    """Load, store (or AMO) and jump at VIRTUAL, where ``c.jr a1`` is; each works or traps."""
    p.li("a0", VIRTUAL)
    store = "sd a3, 8(a0)" if kind == "plain" else "amoswap.w a4, a3, (a0)"
    for right, instruction, cause in (
        (R, "ld a2, 0(a0)", LOAD_PAGE),
        (W, store, STORE_PAGE),
    ):
        if allowed & right:
            p.asm(f"li a3, 0x8582\n{instruction}")
        else:
            tval = VIRTUAL + 8 if "8(a0)" in instruction else VIRTUAL
            p.trap(instruction, cause, tval=tval, what=f"{what}: {instruction}")
    if allowed & X:
        p.asm("jalr a1, 0(a0)")
    else:
        p.trap("jr a0", FETCH_PAGE, epc="a0", tval=VIRTUAL, what=f"{what}: fetch")


def prepare(rights: int) -> Program:
    p = Program()
    p.store(DATA, 0x8582, width=2)  # c.jr a1
    p.asm("fence.i")
    tables = Tables(p)
    tables.map(VIRTUAL, DATA, V | A | D | rights)
    tables.enable()
    return p


@RIGHTS
@KINDS
def test_priv_4_3_2_supervisor_pages(run: Run, kind: str, rights: int) -> None:
    p = prepare(rights)
    p.enter("S")
    attempt(p, kind, rights, "S")
    p.leave()
    p.enter("U", alias=True)
    attempt(p, kind, 0, "U has no right to a supervisor page")
    p.leave()
    run(p)


@RIGHTS
@KINDS
def test_priv_4_3_2_user_pages(run: Run, kind: str, rights: int) -> None:
    p = prepare(rights | U)
    p.clear("mstatus", SUM)
    p.enter("U", alias=True)
    attempt(p, kind, rights, "U")
    p.leave()
    p.enter("S")
    attempt(p, kind, 0, "S without SUM")
    p.leave()
    run(p)


@pytest.mark.deviates("qemu", "7.2 executes after a load has filled its TLB")
@RIGHTS
@KINDS
def test_priv_3_1_6_3_sum_lets_s_use_user_pages_but_not_execute(
    run: Run, kind: str, rights: int
) -> None:
    p = prepare(rights | U)
    p.set("mstatus", SUM)
    p.enter("S")
    attempt(p, kind, rights & ~X, "S with SUM")
    p.clear("sstatus", SUM)
    attempt(p, kind, 0, "S after clearing SUM")
    p.leave()
    run(p)


@RIGHTS
@KINDS
def test_priv_3_1_6_3_mxr_makes_executable_readable(run: Run, kind: str, rights: int) -> None:
    p = prepare(rights)
    p.enter("S")
    p.set("sstatus", MXR)
    attempt(p, kind, rights | (R if rights & X else 0), "S with MXR")
    p.clear("sstatus", MXR)
    attempt(p, kind, rights, "S after clearing MXR")
    p.leave()
    run(p)


def test_priv_3_1_6_3_mxr_counts_for_user_mode(run: Run) -> None:
    p = prepare(X | U)
    p.set("mstatus", MXR)
    p.enter("U", alias=True)
    attempt(p, "plain", R | X, "U with MXR")
    p.leave()
    run(p)


def test_priv_3_1_6_3_mxr_does_not_give_user_pages(run: Run) -> None:
    p = prepare(X | U)
    p.set("mstatus", MXR)
    p.clear("mstatus", SUM)
    p.enter("S")
    attempt(p, "plain", 0, "S with MXR, without SUM")
    p.leave()
    run(p)


def mprv(p: Program, mode: int, instruction: str) -> str:
    """The instruction with MPRV for this mode; the catcher's MRET to M leaves MPRV set."""
    p.clear("mstatus", MPP)
    p.set("mstatus", mode << 11)
    p.li("t0", MPRV)
    return f"csrs mstatus, t0\n{instruction}"


def mprv_works(p: Program, mode: int, instruction: str) -> None:
    p.asm(mprv(p, mode, instruction))
    p.clear("mstatus", MPRV)


def mprv_traps(p: Program, mode: int, instruction: str, cause: int, what: str) -> None:
    p.trap(mprv(p, mode, instruction), cause, what=what)
    p.clear("mstatus", MPRV)


def test_priv_3_1_6_3_mprv_lends_loads_and_stores_the_mode_of_mpp(run: Run) -> None:
    p = Program()
    tables = Tables(p)
    user = VIRTUAL + 4096
    tables.map(VIRTUAL, DATA, V | R | W | A | D)
    tables.map(user, DATA + 0x1000, V | R | W | U | A | D)
    p.store(DATA, 0x1111)
    p.store(DATA + 0x1000, 0x2222)
    tables.enable()
    p.clear("mstatus", SUM | MXR)
    p.li("a0", VIRTUAL)
    p.li("a1", user)
    mprv_works(p, 1, "ld a2, 0(a0)")
    p.check("a2", 0x1111, what="as S")
    mprv_traps(p, 1, "ld a2, 0(a1)", LOAD_PAGE, "as S from a user page")
    mprv_works(p, 0, "ld a2, 0(a1)")
    p.check("a2", 0x2222, what="as U")
    mprv_traps(p, 0, "sd a2, 0(a0)", STORE_PAGE, "as U to a supervisor page")
    p.set("mstatus", SUM)
    mprv_works(p, 1, "sd a0, 8(a1)")
    p.check_memory(DATA + 0x1008, VIRTUAL, what="as S with SUM")
    run(p)


def test_priv_3_1_6_3_mprv_does_not_touch_fetches(run: Run) -> None:
    """The program goes on in M-mode although the mode of MPP could not execute it."""
    p = Program()
    tables = Tables(p, program_mapped=False)
    tables.map(VIRTUAL, DATA, V | R | W | A | D)
    tables.enable()
    p.li("a0", VIRTUAL)
    mprv_works(p, 1, "nop\nnop\nld a2, 0(a0)\nnop")
    run(p)


def test_priv_3_1_6_3_mprv_with_mpp_m_changes_nothing(run: Run) -> None:
    p = Program()
    tables = Tables(p, program_mapped=False)
    tables.enable()
    p.store(DATA, 0x77)
    p.li("a0", DATA)
    mprv_works(p, 3, "ld a2, 0(a0)")
    p.check("a2", 0x77, what="physical")
    run(p)


def test_priv_3_1_6_3_mxr_counts_under_mprv(run: Run) -> None:
    p = Program()
    tables = Tables(p)
    tables.map(VIRTUAL, DATA, V | X | A | D)
    tables.enable()
    p.li("a0", VIRTUAL)
    mprv_traps(p, 1, "ld a2, 0(a0)", LOAD_PAGE, "without MXR")
    p.set("mstatus", MXR)
    mprv_works(p, 1, "ld a2, 0(a0)")
    run(p)
