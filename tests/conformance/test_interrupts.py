"""Interrupts: pending, enabled, delegated, and which comes first."""

from __future__ import annotations

import pytest

from tests.conformance.program import MIE, SIE, Program, Run

SSI, MSI, STI, MTI, SEI = 1, 3, 5, 7, 9
CLINT_MSIP = 0x0200_0000
CLINT_MTIMECMP = 0x0200_4000
CLINT_MTIME = 0x0200_BFF8
SUPERVISOR = 1 << SSI | 1 << STI | 1 << SEI


def pending(p: Program, *codes: int) -> None:
    """Make these interrupts pending, from M-mode: software's bits, or through the CLINT."""
    p.set("mip", sum(1 << code for code in codes if code in (SSI, STI, SEI)))
    if MSI in codes:
        p.store(CLINT_MSIP, 1, width=4)
    if MTI in codes:
        p.store(CLINT_MTIMECMP, 0)
    if MSI in codes or MTI in codes:  # the CLINT may need a moment
        wanted = sum(1 << code for code in codes)
        again = p.label("again")
        p.asm(f"{again}:")
        p.li("t5", wanted)
        p.asm(f"csrr t6, mip\nand t6, t6, t5\nbne t6, t5, {again}")


def quiet(p: Program) -> None:
    """No timer interrupt until asked for."""
    p.store(CLINT_MTIMECMP, -1)


@pytest.mark.deviates("qemu", "7.2 takes the lowest number first")
@pytest.mark.parametrize(
    "codes",
    [(MSI, MTI), (MTI, SEI), (SEI, SSI), (SSI, STI), (MSI, SEI, SSI), (MTI, STI), (MSI, MTI, SEI)],
)
def test_priv_3_1_9_priority(run: Run, codes: tuple[int, ...]) -> None:
    """MEI, MSI, MTI, SEI, SSI, STI: each tuple is in falling priority."""
    p = Program()
    quiet(p)
    for first in range(len(codes)):
        pending(p, *codes[first:])
        p.write("mie", sum(1 << code for code in codes[first:]))
        p.interrupt(f"csrsi mstatus, {MIE}", codes[first], what=f"the first of {codes[first:]}")
        p.clear("mstatus", MIE)
        p.clear("mip", SUPERVISOR)
        p.store(CLINT_MSIP, 0, width=4)
        quiet(p)
    run(p)


def test_priv_3_1_9_each_needs_its_enable(run: Run) -> None:
    p = Program()
    quiet(p)
    pending(p, SSI, STI, SEI)
    p.set("mstatus", MIE)
    p.asm("nop\nnop")  # an interrupt now would be unexpected
    p.clear("mstatus", MIE)
    p.write("mie", 1 << STI)
    p.interrupt(f"csrsi mstatus, {MIE}", STI, what="the only one enabled")
    run(p)


def test_priv_3_1_9_software_sets_and_clears_the_supervisors_bits(run: Run) -> None:
    p = Program()
    p.write("mip", 0)
    for code in (SSI, STI, SEI):
        p.set("mip", 1 << code)
        p.check_csr("mip", 1 << code, mask=SUPERVISOR)
        p.clear("mip", 1 << code)
        p.check_csr("mip", 0, mask=SUPERVISOR)
    run(p)


def test_priv_3_1_9_machine_bits_of_mip_are_read_only(run: Run) -> None:
    p = Program()
    quiet(p)
    p.set("mip", 1 << MSI | 1 << MTI | 1 << 11)
    p.check_csr("mip", 0, mask=1 << MSI | 1 << MTI | 1 << 11)
    run(p)


def test_priv_3_1_6_1_lower_modes_are_always_interruptible(run: Run) -> None:
    """mstatus.MIE counts in M-mode only: below, M-level interrupts are enabled."""
    p = Program()
    quiet(p)
    for mode in ("S", "U"):
        p.clear("mstatus", MIE)
        pending(p, STI)
        p.write("mie", 1 << STI)
        p.clear("mstatus", 1 << 7)  # MPIE: MRET leaves MIE off
        here = p.label("entered")
        p.clear("mstatus", 3 << 11)
        p.set("mstatus", (1 if mode == "S" else 0) << 11)
        p.asm(f"la t5, {here}\ncsrw mepc, t5")
        p.interrupt(f"mret\n{here}:", STI, what=f"in {mode} with MIE clear")
        p.leave()
    run(p)


def test_priv_3_1_8_delegated_interrupts_wait_in_m(run: Run) -> None:
    p = Program()
    quiet(p)
    p.write("mideleg", SUPERVISOR)
    pending(p, SSI)
    p.write("mie", 1 << SSI)
    p.set("mstatus", MIE | SIE)
    p.asm("nop\nnop")  # never taken in M-mode
    p.clear("mstatus", MIE)
    here = p.label("entered")
    p.clear("mstatus", 3 << 11)
    p.set("mstatus", 1 << 11)
    p.asm(f"la t5, {here}\ncsrw mepc, t5")
    p.interrupt(f"mret\n{here}:", SSI, by="S", what="in S with SIE")
    run(p)


def test_priv_3_1_8_delegated_interrupts_need_sie_in_s_but_not_in_u(run: Run) -> None:
    p = Program()
    quiet(p)
    p.write("mideleg", SUPERVISOR)
    p.clear("mstatus", SIE)
    p.enter("S")
    p.write("sie", 1 << SSI)
    p.set("sip", 1 << SSI)
    p.asm("nop\nnop")  # SIE is clear
    p.interrupt(f"csrsi sstatus, {SIE}", SSI, by="S", what="SIE set")
    p.asm(f"csrci sstatus, {SIE}")
    p.write("sie", 1 << SSI)
    p.clear("sstatus", 1 << 8 | 1 << 5)  # to U, with SIE clear
    here = p.label("user")
    p.asm(f"la t5, {here}\ncsrw sepc, t5")
    p.interrupt(f"sret\n{here}:", SSI, by="S", what="in U with SIE clear")
    run(p)


def test_priv_4_1_3_sip_and_sie_show_what_is_delegated(run: Run) -> None:
    p = Program()
    quiet(p)
    p.set("mip", SUPERVISOR)
    p.write("mie", SUPERVISOR)
    for delegated in (0, 1 << SSI, 1 << SEI, SUPERVISOR):
        p.write("mideleg", delegated)
        p.check_csr("sip", delegated, mask=SUPERVISOR)
        p.check_csr("sie", delegated, mask=SUPERVISOR)
    p.write("mideleg", 1 << SSI)
    p.write("sie", 0)
    p.check_csr(
        "mie", 1 << STI | 1 << SEI, mask=SUPERVISOR, what="sie leaves what is not delegated"
    )
    run(p)


def test_priv_4_1_3_of_sip_only_ssip_is_writable(run: Run) -> None:
    p = Program()
    p.write("mideleg", SUPERVISOR)
    p.set("mip", 1 << SEI | 1 << STI)
    p.clear("sip", SUPERVISOR)
    p.check_csr("mip", 1 << SEI | 1 << STI, mask=SUPERVISOR, what="SEIP and STIP stay")
    p.clear("mip", SUPERVISOR)
    p.set("sip", SUPERVISOR)
    p.check_csr("mip", 1 << SSI, mask=SUPERVISOR, what="only SSIP can be set")
    run(p)


@pytest.mark.parametrize("code", [SSI, STI, SEI])
def test_priv_3_1_7_vectored_interrupts_go_to_four_times_the_code(run: Run, code: int) -> None:
    p = Program()
    quiet(p)
    p.asm("j 1f\n.balign 256\nvector:")
    for number in range(16):
        p.asm(f"j {'vectored' if number == code else 'fail' if number else 'm_catch'}")
    p.asm(
        "vectored:\nli s0, 1\nj m_catch\n1:\nla t5, vector\nori t5, t5, 1\ncsrw mtvec, t5\nli s0, 0"
    )
    pending(p, code)
    p.write("mie", 1 << code)
    p.interrupt(f"csrsi mstatus, {MIE}", code)
    p.check("s0", 1, what="by way of the vector")
    run(p)


def test_priv_4_1_2_vectored_supervisor_interrupts(run: Run) -> None:
    p = Program()
    quiet(p)
    p.asm("j 1f\n.balign 256\nvector:")
    for number in range(16):
        p.asm(f"j {'vectored' if number == SSI else 'fail'}")
    p.asm(
        "vectored:\nli s0, 1\nj s_catch\n1:\nla t5, vector\nori t5, t5, 1\ncsrw stvec, t5\nli s0, 0"
    )
    p.write("mideleg", SUPERVISOR)
    p.enter("S")
    p.set("sip", 1 << SSI)
    p.write("sie", 1 << SSI)
    p.interrupt(f"csrsi sstatus, {SIE}", SSI, by="S")
    p.check("s0", 1, what="by way of the vector")
    run(p)


def test_priv_3_3_3_wfi_goes_on_when_something_enabled_is_pending(run: Run) -> None:
    """With MIE clear WFI returns, and no trap is taken."""
    p = Program()
    quiet(p)
    p.clear("mstatus", MIE)
    p.write("mie", 1 << SSI)
    pending(p, SSI)
    p.asm("wfi")
    p.clear("mip", 1 << SSI)
    p.write("mie", 1 << MTI)
    p.li("t5", CLINT_MTIME)
    p.asm("ld t6, 0(t5)\naddi t6, t6, 100")
    p.li("t5", CLINT_MTIMECMP)
    p.asm("sd t6, 0(t5)\nwfi\n1:\ncsrr t6, mip\nandi t6, t6, 0x80\nbeqz t6, 1b")
    quiet(p)
    run(p)


def test_priv_3_2_1_the_timer_interrupts_when_mtime_reaches_mtimecmp(run: Run) -> None:
    p = Program()
    quiet(p)
    p.check_csr("mip", 0, mask=1 << MTI, what="mtimecmp far away")
    p.write("mie", 1 << MTI)
    p.li("t5", CLINT_MTIME)
    p.asm("ld s0, 0(t5)\naddi s0, s0, 500")
    p.li("t5", CLINT_MTIMECMP)
    p.asm("sd s0, 0(t5)")
    p.interrupt(f"csrsi mstatus, {MIE}\n1:\nj 1b", MTI)
    p.li("t5", CLINT_MTIME)
    p.asm("ld s1, 0(t5)\nsltu s1, s1, s0")
    p.check("s1", 0, what="mtime has reached mtimecmp")
    quiet(p)
    p.asm("1:\ncsrr t6, mip\nandi t6, t6, 0x80\nbnez t6, 1b")
    run(p)


def test_priv_3_1_9_an_interrupt_is_taken_before_the_next_instruction(run: Run) -> None:
    """The write to mie or mip that makes it possible is the last instruction before the trap."""
    p = Program()
    quiet(p)
    p.set("mstatus", MIE)
    pending(p, SSI)
    p.li("a0", 1 << SSI)
    p.interrupt("csrs mie, a0\nafter:", SSI)
    p.asm("la t4, after")
    p.check("s9", "t4", what="mepc is behind the write of mie")
    p.clear("mip", 1 << SSI)
    p.write("mie", 1 << SSI)
    p.set("mstatus", MIE)
    p.interrupt("csrs mip, a0\nafter2:", SSI)
    p.asm("la t4, after2")
    p.check("s9", "t4", what="mepc is behind the write of mip")
    run(p)
