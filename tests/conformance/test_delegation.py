"""medeleg and mideleg: which mode takes a trap."""

from __future__ import annotations

import pytest

from tests.conformance.program import (
    BREAKPOINT,
    ECALL_S,
    ECALL_U,
    ILLEGAL,
    LOAD_ACCESS,
    NOWHERE,
    STORE_ACCESS,
    Program,
    Run,
)

SSI, STI, SEI = 1 << 1, 1 << 5, 1 << 9


def test_priv_3_1_8_nothing_is_delegated_at_reset(run: Run) -> None:
    p = Program()
    p.enter("S")
    p.trap("ebreak", BREAKPOINT)
    p.trap(".word 0", ILLEGAL)
    run(p)


def test_priv_3_1_8_delegated_exceptions_go_to_s_from_s_and_u(run: Run) -> None:
    p = Program()
    p.write("medeleg", 1 << ILLEGAL | 1 << LOAD_ACCESS | 1 << STORE_ACCESS | 1 << ECALL_U)
    p.li("a0", NOWHERE)
    for mode in ("S", "U"):
        p.enter(mode)
        p.trap(".word 0xffffffff", ILLEGAL, tval=(0xFFFF_FFFF, 0), by="S")
        p.trap("ld a1, 0(a0)", LOAD_ACCESS, tval=NOWHERE, by="S")
        p.trap("sd a1, 0(a0)", STORE_ACCESS, tval=NOWHERE, by="S")
        p.trap("ebreak", BREAKPOINT, by="M", what="not delegated")
        if mode == "S":
            p.leave()
    p.trap("ecall", ECALL_U, tval=0, by="S")
    run(p)


def test_priv_3_1_8_a_trap_never_goes_down(run: Run) -> None:
    p = Program()
    p.write("medeleg", 1 << ILLEGAL | 1 << BREAKPOINT)
    p.write("scause", 0x55)
    p.trap(".word 0xffffffff", ILLEGAL)
    p.trap("ebreak", BREAKPOINT)
    p.check_csr("scause", 0x55, what="scause untouched")
    run(p)


def test_priv_3_1_8_a_delegated_trap_leaves_the_machine_registers(run: Run) -> None:
    p = Program()
    p.write("medeleg", 1 << BREAKPOINT)
    p.enter("S")
    p.write("sscratch", 1)
    p.leave()
    p.write("mcause", 0x11)
    p.write("mtval", 0x22)
    p.enter("S")  # writes mepc
    p.asm("la s0, s_catch")
    p.trap("ebreak", BREAKPOINT, by="S")
    p.trap("ecall", ECALL_S, by="M")
    p.leave()
    run(p)


@pytest.mark.deviates("qemu", "7.2 has medeleg[11]")
def test_priv_3_1_8_ecall_from_m_cannot_be_delegated(run: Run) -> None:
    p = Program()
    p.write("medeleg", -1)
    p.check_csr("medeleg", 0, mask=1 << 11)
    p.check_csr("medeleg", 1 << 8, mask=1 << 8, what="ecall from U can")
    run(p)


def test_priv_3_1_8_machine_interrupts_cannot_be_delegated(run: Run) -> None:
    p = Program()
    p.write("mideleg", -1)
    p.check_csr("mideleg", SSI | STI | SEI, mask=0xAAA | SSI | STI | SEI)
    run(p)
