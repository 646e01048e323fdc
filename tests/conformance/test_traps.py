"""Traps: causes, what is saved, and the way back."""

from __future__ import annotations

import pytest

from tests.conformance.program import (
    BREAKPOINT,
    DATA,
    ECALL_M,
    ECALL_S,
    ECALL_U,
    FETCH_ACCESS,
    ILLEGAL,
    LOAD_ACCESS,
    MIE,
    MPIE,
    MPP,
    MPRV,
    NOWHERE,
    SIE,
    SPIE,
    SPP,
    STORE_ACCESS,
    Program,
    Run,
)


def test_priv_3_3_1_ecall_names_the_mode(run: Run) -> None:
    p = Program()
    p.trap("ecall", ECALL_M, tval=0)
    p.enter("S")
    p.trap("ecall", ECALL_S, tval=0)
    p.leave()
    p.enter("U")
    p.trap("ecall", ECALL_U, tval=0)
    run(p)


def test_priv_3_3_1_ebreak_traps_at_itself(run: Run) -> None:
    p = Program()
    p.trap("ebreak", BREAKPOINT, tval=("pc", 0))
    p.trap(".half 0x9002", BREAKPOINT, tval=("pc", 0), what="c.ebreak")
    p.asm(".half 0x0001")  # c.nop
    p.enter("U")
    p.trap("ebreak", BREAKPOINT, tval=("pc", 0))
    run(p)


def test_priv_3_1_16_illegal_instruction_shows_its_bits_or_zero(run: Run) -> None:
    p = Program()
    for word in (0xFFFF_FFFF, 0x0000_707F, 0xC000_10F3, 0x0000_6033 | 0x7F << 25, 0x0000_002F):
        p.trap(f".word {word:#x}", ILLEGAL, tval=(word, 0))
    p.trap(".half 0x0000", ILLEGAL, tval=0, what="c.illegal")
    p.trap(".half 0x8002", ILLEGAL, tval=(0x8002, 0), what="c.jr x0")
    p.trap(".half 0x4002", ILLEGAL, tval=(0x4002, 0), what="c.lwsp x0")
    p.trap(".half 0x6281", ILLEGAL, tval=(0x6281, 0), what="c.lui 0")
    p.asm(".half 0x0001")  # c.nop
    run(p)


def test_priv_3_1_15_fetch_access_fault_is_at_the_target(run: Run) -> None:
    p = Program()
    p.li("a0", NOWHERE)
    p.trap("jr a0", FETCH_ACCESS, epc="a0", tval="a0")
    p.enter("S")
    p.trap("jr a0", FETCH_ACCESS, epc="a0", tval="a0")
    run(p)


def test_priv_3_1_15_data_access_faults_name_the_address(run: Run) -> None:
    p = Program()
    p.li("a0", NOWHERE)
    for load in ("lb", "lbu", "lh", "lhu", "lw", "lwu", "ld"):
        p.trap(f"{load} a1, 8(a0)", LOAD_ACCESS, tval=NOWHERE + 8)
    for store in ("sb", "sh", "sw", "sd"):
        p.trap(f"{store} a1, 16(a0)", STORE_ACCESS, tval=NOWHERE + 16)
    p.trap("fld ft0, 8(a0)", LOAD_ACCESS, tval=NOWHERE + 8)
    p.trap("fsw ft0, 8(a0)", STORE_ACCESS, tval=NOWHERE + 8)
    p.trap("lr.d a1, (a0)", LOAD_ACCESS, tval=NOWHERE)
    run(p)


@pytest.mark.deviates("qemu", "7.2 reports an AMO's access fault as a load's")
def test_priv_3_1_15_an_amo_faults_as_a_store(run: Run) -> None:
    p = Program()
    p.li("a0", NOWHERE)
    p.li("a1", 0x1234)
    for amo in ("amoadd.w", "amoswap.d", "amomaxu.w", "amoxor.d"):
        p.trap(f"{amo} a1, a2, (a0)", STORE_ACCESS, tval=NOWHERE)
    p.check("a1", 0x1234, what="destination of a faulting AMO")
    run(p)


def test_priv_3_1_15_a_faulting_load_leaves_its_register(run: Run) -> None:
    p = Program()
    p.li("a0", NOWHERE)
    p.li("a1", 0x1234)
    p.trap("ld a1, 0(a0)", LOAD_ACCESS)
    p.check("a1", 0x1234, what="destination of a faulting load")
    p.trap("ld a0, 0(a0)", LOAD_ACCESS)
    p.check("a0", NOWHERE, what="destination equal to the base")
    run(p)


def test_priv_3_1_6_1_a_trap_stacks_mode_and_enable(run: Run) -> None:
    p = Program()
    p.set("mstatus", MIE)
    p.clear("mstatus", MPIE)
    p.trap("ecall", ECALL_M)
    p.check("s11", MPP | MPIE, mask=MPP | MPIE | MIE, what="from M, enabled")
    p.check_csr("mstatus", MIE | MPIE, mask=MIE | MPIE | MPP, what="after MRET: MIE back, MPP = U")
    p.clear("mstatus", MIE)
    p.trap("ecall", ECALL_M)
    p.check("s11", MPP, mask=MPP | MPIE | MIE, what="from M, disabled")
    p.check_csr("mstatus", MPIE, mask=MIE | MPIE | MPP, what="after MRET: MPIE = 1")
    p.enter("S")
    p.trap("ecall", ECALL_S)
    p.check("s11", 1 << 11, mask=MPP, what="from S")
    p.leave()
    p.enter("U")
    p.trap("ecall", ECALL_U)
    p.check("s11", 0, mask=MPP, what="from U")
    run(p)


def test_priv_3_1_6_1_a_delegated_trap_stacks_mode_and_enable(run: Run) -> None:
    p = Program()
    p.write("medeleg", 1 << BREAKPOINT)
    p.enter("S")
    p.set("sstatus", SIE)
    p.clear("sstatus", SPIE)
    p.trap("ebreak", BREAKPOINT, by="S")
    p.check("s11", SPP | SPIE, mask=SPP | SPIE | SIE, what="from S, enabled")
    p.check_csr("sstatus", SIE | SPIE, mask=SIE | SPIE | SPP, what="after SRET: SIE back, SPP = U")
    p.clear("sstatus", SIE)
    p.trap("ebreak", BREAKPOINT, by="S")
    p.check("s11", SPP, mask=SPP | SPIE | SIE, what="from S, disabled")
    p.leave()
    p.set("mstatus", SPP | SPIE)
    p.clear("mstatus", SIE)
    p.enter("U")
    p.trap("ebreak", BREAKPOINT, by="S")
    p.check("s11", 0, mask=SPP | SPIE | SIE, what="from U, disabled")
    p.leave()
    p.set("mstatus", SPP | SIE)
    p.enter("U")
    p.trap("ebreak", BREAKPOINT, by="S")
    p.check("s11", SPIE, mask=SPP | SPIE | SIE, what="from U, enabled")
    run(p)


@pytest.mark.deviates("qemu", "7.2 does not clear MPRV")
def test_priv_3_3_2_mret_leaves_mprv_only_to_m(run: Run) -> None:
    p = Program()
    p.set("mstatus", MPP)
    p.set("mstatus", MPRV)
    p.asm("la t5, 1f\ncsrw mepc, t5\nmret\n1:")
    p.check_csr("mstatus", MPRV, mask=MPRV, what="MRET to M keeps MPRV")
    p.asm("la t5, 2f\ncsrw mepc, t5")
    p.clear("mstatus", MPP)
    p.set("mstatus", 1 << 11)
    p.asm("mret\n2:")
    p.leave()
    p.check_csr("mstatus", 0, mask=MPRV, what="MRET to S clears MPRV")
    run(p)


@pytest.mark.deviates("qemu", "7.2 does not clear MPRV")
def test_priv_3_3_2_sret_in_m_clears_mprv_and_goes_to_spp(run: Run) -> None:
    p = Program()
    p.set("mstatus", MPRV | MPP)
    p.set("mstatus", SPP | SPIE)
    p.clear("mstatus", SIE)
    p.asm("la t5, 1f\ncsrw sepc, t5\nsret\n1:")
    p.check_csr("sstatus", SIE | SPIE, mask=SIE | SPIE | SPP, what="in S, SPP = U, SIE = SPIE")
    p.leave()
    p.check_csr("mstatus", 0, mask=MPRV, what="SRET clears MPRV")
    run(p)


def test_priv_3_3_2_returns_are_illegal_below_their_mode(run: Run) -> None:
    p = Program()
    p.enter("S")
    p.trap("mret", ILLEGAL)
    p.leave()
    p.enter("U")
    p.trap("mret", ILLEGAL)
    p.trap("sret", ILLEGAL)
    run(p)


@pytest.mark.deviates("qemu", "7.2 keeps bit 0")
def test_priv_3_1_14_epc_never_holds_an_odd_address(run: Run) -> None:
    p = Program()
    for csr in ("mepc", "sepc"):
        p.write(csr, -1)
        p.check_csr(csr, 0, mask=1)
        p.write(csr, DATA + 3)
        p.check_csr(csr, DATA + 2, what=f"{csr}: IALIGN is 16")
    run(p)


def test_priv_3_1_7_vectored_exceptions_go_to_the_base(run: Run) -> None:
    p = Program()
    p.asm("la t5, m_catch\nori t5, t5, 1\ncsrw mtvec, t5")
    p.trap("ecall", ECALL_M)
    p.trap("ebreak", BREAKPOINT)
    p.asm("la t5, s_catch\nori t5, t5, 1\ncsrw stvec, t5")
    p.write("medeleg", 1 << BREAKPOINT)
    p.enter("S")
    p.trap("ebreak", BREAKPOINT, by="S")
    run(p)


def test_priv_3_1_7_tvec_modes_are_direct_and_vectored(run: Run) -> None:
    p = Program()
    for csr in ("mtvec", "stvec"):
        p.asm(f"csrr s0, {csr}")
        for mode in (0, 1):
            p.write(csr, DATA | mode)
            p.check_csr(csr, DATA | mode, what=f"{csr} in mode {mode}")
        for mode in (2, 3):
            p.write(csr, DATA | mode)
            p.check_csr(csr, 0, mask=2, what=f"{csr}: reserved mode {mode} is not kept")
        p.asm(f"csrw {csr}, s0")
    run(p)


def test_unpriv_2_5_1_jalr_drops_bit_zero(run: Run) -> None:
    p = Program()
    p.asm("la a0, 1f\naddi a0, a0, 1\njalr a1, 0(a0)\nj fail\n1:")
    p.check("a1", "a1", what="arrived")
    run(p)
