"""Fields of mstatus that make instructions illegal: TVM, TW, TSR, FS."""

from __future__ import annotations

import pytest

from tests.conformance.program import ECALL_U, FS, ILLEGAL, TSR, TVM, TW, Program, Run

SD = 1 << 63
OFF, INITIAL, CLEAN, DIRTY = (state << 13 for state in range(4))


def test_priv_3_1_6_5_tvm_guards_satp_and_sfence(run: Run) -> None:
    p = Program()
    p.enter("S")
    p.asm("csrr a0, satp\ncsrw satp, zero\nsfence.vma")
    p.leave()
    p.set("mstatus", TVM)
    p.enter("S")
    p.trap("csrr a0, satp", ILLEGAL)
    p.trap("csrw satp, zero", ILLEGAL)
    p.trap("sfence.vma", ILLEGAL)
    p.trap("sfence.vma a0, a1", ILLEGAL)
    p.leave()
    p.asm("csrr a0, satp\nsfence.vma")  # M-mode is not concerned
    run(p)


def test_priv_4_2_1_sfence_is_illegal_in_u(run: Run) -> None:
    p = Program()
    p.enter("U")
    p.trap("sfence.vma", ILLEGAL)
    run(p)


def test_priv_3_1_6_5_tw_guards_wfi_below_m(run: Run) -> None:
    p = Program()
    p.set("mstatus", TW)
    p.enter("S")
    p.trap("wfi", ILLEGAL)
    p.leave()
    p.enter("U")
    p.trap("wfi", ILLEGAL)
    run(p)


def test_priv_3_3_3_wfi_is_illegal_in_u(run: Run) -> None:
    """S-mode exists and nothing is pending: it cannot complete within bounded time."""
    p = Program()
    p.clear("mstatus", TW)
    p.enter("U")
    p.trap("wfi", ILLEGAL)
    run(p)


def test_priv_3_1_6_5_wfi_is_legal_in_s_without_tw(run: Run) -> None:
    p = Program()
    p.clear("mstatus", TW)
    p.write("mideleg", 1 << 1)
    p.write("mie", 1 << 1)
    p.set("mip", 1 << 1)
    p.enter("S")
    p.asm("wfi")  # pending and enabled, sstatus.SIE clear: goes on
    run(p)


def test_priv_3_1_6_5_tsr_guards_sret_in_s(run: Run) -> None:
    p = Program()
    p.set("mstatus", TSR)
    p.enter("S")
    p.trap("sret", ILLEGAL)
    p.leave()
    p.asm("la t5, 1f\ncsrw sepc, t5")
    p.clear("mstatus", 1 << 8)
    p.asm("sret\n1:")  # legal in M-mode, to U
    p.trap("ecall", ECALL_U)
    run(p)


def test_priv_3_1_6_6_fs_off_makes_floating_point_illegal(run: Run) -> None:
    p = Program()
    p.clear("mstatus", FS)
    p.li("a0", 0x8040_0000)
    for instruction in (
        "fadd.d ft0, ft1, ft2",
        "fld ft0, 0(a0)",
        "fsd ft0, 0(a0)",
        "flw ft0, 0(a0)",
        "fmv.x.d a1, ft0",
        "fmadd.s ft0, ft1, ft2, ft3",
        "csrr a1, fcsr",
        "csrr a1, fflags",
        "csrw frm, zero",
    ):
        p.trap(instruction, ILLEGAL)
    p.trap(".half 0x2108", ILLEGAL, what="c.fld fa0, 0(a0)")
    p.asm(".half 0x0001")
    p.set("mstatus", INITIAL)
    p.asm("fld ft0, 0(a0)\ncsrr a1, fcsr")
    run(p)


@pytest.mark.parametrize(
    "instruction", ["fmv.d.x ft0, a0", "fcvt.s.w ft1, a0", "csrw fcsr, a0", "fld ft2, 0(a1)"]
)
def test_priv_3_1_6_6_a_write_makes_fs_dirty(run: Run, instruction: str) -> None:
    p = Program()
    p.li("a0", 0)
    p.li("a1", 0x8040_0000)
    for before in (INITIAL, CLEAN):
        p.clear("mstatus", FS)
        p.set("mstatus", before)
        p.check_csr("mstatus", before, mask=FS | SD)
        p.asm(instruction)
        p.check_csr("mstatus", DIRTY | SD, mask=FS | SD, what=f"mstatus after {instruction}")
        p.check_csr("sstatus", DIRTY | SD, mask=FS | SD, what=f"sstatus after {instruction}")
    run(p)


def test_priv_3_1_6_6_flags_make_fs_dirty(run: Run) -> None:
    p = Program()
    p.asm("fmv.d.x ft0, zero\nli a0, 1\nfcvt.d.w ft1, a0\ncsrw fcsr, zero")
    p.clear("mstatus", FS)
    p.set("mstatus", CLEAN)
    p.asm("fdiv.d ft2, ft1, ft0")  # division by zero
    p.check_csr("mstatus", DIRTY | SD, mask=FS | SD)
    p.check_csr("fflags", 8)
    run(p)


def test_unpriv_11_2_reserved_rounding_modes_are_illegal(run: Run) -> None:
    p = Program()
    for mode in (5, 6):
        p.trap(f".word {0x0200_0053 | mode << 12:#x}", ILLEGAL, what=f"fadd.d, rm = {mode}")
        p.asm(f"csrwi frm, {mode}")
        p.trap("fadd.d ft0, ft1, ft2", ILLEGAL, what=f"dynamic, frm = {mode}")
        p.asm("fsgnj.d ft0, ft1, ft2")  # has no rounding mode
    p.asm("csrwi frm, 7")
    p.trap("fadd.d ft0, ft1, ft2", ILLEGAL, what="dynamic, frm = 7")
    p.asm("csrwi frm, 4\nfadd.d ft0, ft1, ft2")
    run(p)


def test_priv_3_1_6_6_fs_guards_lower_modes_too(run: Run) -> None:
    p = Program()
    p.clear("mstatus", FS)
    p.enter("U")
    p.trap("fadd.d ft0, ft1, ft2", ILLEGAL)
    p.trap("csrr a0, fcsr", ILLEGAL)
    run(p)
