"""cycle, time, instret: counting, writing, inhibiting, enabling."""

from __future__ import annotations

import pytest

from tests.conformance.program import ILLEGAL, NOWHERE, Program, Run

QEMU = pytest.mark.deviates("qemu", "without -icount instret counts host time")
NAMES = ("cycle", "time", "instret")


@QEMU
def test_unpriv_10_1_instret_counts_instructions(run: Run) -> None:
    p = Program()
    p.asm("csrr s0, instret\nnop\nnop\nnop\ncsrr s1, instret\nsub s1, s1, s0")
    p.check("s1", 4, what="csrr and three nops")
    p.asm(
        "csrr s0, instret\nj 1f\nnop\n1:\nbeqz zero, 2f\nnop\n2:\ncsrr s1, instret\nsub s1, s1, s0"
    )
    p.check("s1", 3, what="csrr, a jump and a taken branch")
    run(p)


@QEMU
@pytest.mark.parametrize("instruction", ["ecall", "ebreak", ".word 0xffffffff", "ld a0, 0(s2)"])
def test_priv_3_1_10_a_trapping_instruction_does_not_retire(run: Run, instruction: str) -> None:
    p = Program()
    p.li("s2", NOWHERE)
    p.asm("j 1f\n.balign 4\ncounted:\ncsrr t1, mepc\naddi t1, t1, 4\ncsrw mepc, t1\nmret\n1:")
    p.asm("csrr s3, mtvec\nla t0, counted\ncsrw mtvec, t0\ncsrr s0, minstret")
    p.asm(f"{instruction}\ncsrr s1, minstret\ncsrw mtvec, s3\nsub s1, s1, s0")
    p.check("s1", 5, what="a csrr and the handler's four")
    run(p)


@QEMU
def test_priv_3_1_10_minstret_is_writable_and_goes_on_from_there(run: Run) -> None:
    """The instruction after the write reads the value written."""
    p = Program()
    p.li("a0", 0x1000)
    p.asm("csrw minstret, a0\ncsrr s0, minstret\ncsrr s1, minstret")
    p.check("s0", 0x1000, what="the next instruction")
    p.check("s1", 0x1001, what="the one after")
    p.li("a0", -1)
    p.asm("csrw minstret, a0\ncsrr s0, minstret\ncsrr s1, minstret")
    p.check("s0", -1, what="all ones")
    p.check("s1", 0, what="wraps")
    run(p)


@QEMU
def test_priv_3_1_12_inhibited_counters_stand_still(run: Run) -> None:
    p = Program()
    p.write("mcountinhibit", 5)
    p.asm("csrr s0, minstret\ncsrr s2, mcycle\nnop\nnop\ncsrr s1, minstret\ncsrr s3, mcycle")
    p.check("s1", "s0", what="minstret inhibited")
    p.check("s3", "s2", what="mcycle inhibited")
    p.write("mcountinhibit", 0)
    p.asm("csrr s0, minstret\nnop\ncsrr s1, minstret\nsub s1, s1, s0")
    p.check("s1", 2, what="counts again")
    run(p)


def test_unpriv_10_1_cycle_and_time_go_forward(run: Run) -> None:
    p = Program()
    for csr in ("cycle", "time"):
        p.asm(f"csrr s0, {csr}\nli t0, 2000\n1:\naddi t0, t0, -1\nbnez t0, 1b")
        p.asm(f"2:\ncsrr s1, {csr}\nbeq s1, s0, 2b\nsltu s2, s0, s1")
        p.check("s2", 1, what=f"{csr} has grown")
    run(p)


def test_unpriv_10_1_time_is_mtime(run: Run) -> None:
    p = Program()
    p.li("a0", 0x0200_BFF8)
    p.asm("ld s0, 0(a0)\ncsrr s1, time\nld s2, 0(a0)\nsltu s3, s1, s0\nsltu s4, s2, s1")
    p.check("s3", 0, what="time is not before an earlier mtime")
    p.check("s4", 0, what="time is not after a later mtime")
    run(p)


@pytest.mark.parametrize("bit", range(3))
def test_priv_3_1_11_mcounteren_guards_s_and_u(run: Run, bit: int) -> None:
    p = Program()
    p.write("mcounteren", 7 & ~(1 << bit))
    p.write("scounteren", 7)
    for mode in ("S", "U"):
        p.enter(mode)
        for number, csr in enumerate(NAMES):
            if number == bit:
                p.trap(f"csrr a0, {csr}", ILLEGAL, what=f"{csr} in {mode}")
            else:
                p.asm(f"csrr a0, {csr}")
        p.leave()
    for csr in NAMES:
        p.asm(f"csrr a0, {csr}")  # M-mode is not concerned
    run(p)


@pytest.mark.parametrize("bit", range(3))
def test_priv_4_1_5_scounteren_guards_u_only(run: Run, bit: int) -> None:
    p = Program()
    p.write("mcounteren", 7)
    p.write("scounteren", 7 & ~(1 << bit))
    p.enter("S")
    for csr in NAMES:
        p.asm(f"csrr a0, {csr}")
    p.leave()
    p.enter("U")
    for number, csr in enumerate(NAMES):
        if number == bit:
            p.trap(f"csrr a0, {csr}", ILLEGAL, what=f"{csr} in U")
        else:
            p.asm(f"csrr a0, {csr}")
    run(p)


@pytest.mark.deviates("qemu", "7.2 has 16 event counters")
def test_priv_3_1_10_event_counters_exist(run: Run) -> None:
    """They may be constant zero, but reading them in M-mode is legal."""
    p = Program()
    for number in (3, 4, 17, 31):
        p.asm(f"csrr a0, mhpmcounter{number}\ncsrr a0, mhpmevent{number}")
        p.asm(f"csrw mhpmcounter{number}, a0\ncsrw mhpmevent{number}, zero")
    run(p)
