"""LR and SC (unprivileged architecture 20191213, 8.2)."""

from __future__ import annotations

import pytest

from tests.conformance.program import DATA, Program, Run

WIDTHS = pytest.mark.parametrize("width", ["w", "d"])


@WIDTHS
def test_unpriv_8_2_sc_after_lr_succeeds_once(run: Run, width: str) -> None:
    p = Program()
    p.store(DATA, -5)
    p.li("a0", DATA)
    p.li("a2", 42)
    p.li("a5", 43)
    p.asm(f"lr.{width} a1, (a0)\nsc.{width} a3, a2, (a0)\nsc.{width} a4, a5, (a0)")
    p.check("a1", -5, what="LR sign-extends what was there")
    p.check("a3", 0, what="SC after LR")
    p.asm("sltu a4, zero, a4")
    p.check("a4", 1, what="a second SC fails")
    p.check_memory(DATA, 42, what="only the first was stored", width=4)
    run(p)


@WIDTHS
def test_unpriv_8_2_sc_without_lr_fails(run: Run, width: str) -> None:
    p = Program()
    p.store(DATA, 7)
    p.li("a0", DATA)
    p.asm(f"sc.{width} a3, a0, (a0)\nsltu a3, zero, a3")
    p.check("a3", 1, what="no reservation")
    p.check_memory(DATA, 7, what="nothing stored")
    run(p)


def test_unpriv_8_2_sc_elsewhere_fails_and_drops_the_reservation(run: Run) -> None:
    p = Program()
    p.li("a0", DATA)
    p.li("a1", DATA + 4096)
    p.asm("lr.d a2, (a0)\nsc.d a3, a0, (a1)\nsltu a3, zero, a3")
    p.check("a3", 1, what="SC to another address")
    p.check_memory(DATA + 4096, 0, what="nothing stored")
    p.asm("sc.d a3, a0, (a0)\nsltu a3, zero, a3")
    p.check("a3", 1, what="SC to the reserved address after a failed one")
    run(p)


def test_unpriv_8_2_a_new_lr_replaces_the_reservation(run: Run) -> None:
    p = Program()
    p.li("a0", DATA)
    p.li("a1", DATA + 4096)
    p.asm("lr.d a2, (a0)\nlr.d a2, (a1)\nsc.d a3, a0, (a0)\nsltu a3, zero, a3")
    p.check("a3", 1, what="SC to the first address")
    p.asm("lr.d a2, (a0)\nlr.d a2, (a1)\nsc.d a3, a0, (a1)")
    p.check("a3", 0, what="SC to the second address")
    run(p)


def test_unpriv_8_3_the_constrained_loop_ends(run: Run) -> None:
    p = Program()
    p.li("a0", DATA)
    p.asm("li s0, 100\n1:\nlr.w a1, (a0)\naddi a1, a1, 3\nsc.w a2, a1, (a0)\nbnez a2, 1b")
    p.asm("addi s0, s0, -1\nbnez s0, 1b")
    p.check_memory(DATA, 300, what="a hundred additions", width=4)
    run(p)


def test_unpriv_8_2_sc_writes_rd_when_it_is_an_operand(run: Run) -> None:
    p = Program()
    p.li("a0", DATA)
    p.li("a1", 9)
    p.asm("lr.w a2, (a0)\nsc.w a1, a1, (a0)")
    p.check("a1", 0, what="rd = rs2")
    p.check_memory(DATA, 9, what="the old value was stored", width=4)
    p.asm("lr.w a2, (a0)\nsc.w a0, a2, (a0)")
    p.check("a0", 0, what="rd = rs1")
    run(p)


@pytest.mark.parametrize(
    ("name", "old", "operand", "result"),
    [
        ("amoswap.w", 0x7FFF_FFFF, -2, -2),
        ("amoadd.w", 0x7FFF_FFFF, 1, -0x8000_0000),
        ("amomin.w", -1, 1, -1),
        ("amominu.w", -1, 1, 1),
        ("amomax.w", -1, 1, 1),
        ("amomaxu.w", -1, 1, -1),
        ("amoand.w", 0x0FF0, 0x3C3C, 0x0C30),
        ("amoxor.w", 0x0FF0, 0x3C3C, 0x33CC),
        ("amoadd.d", 0x7FFF_FFFF_FFFF_FFFF, 1, 1 << 63),
        ("amomin.d", -(1 << 63), 0, -(1 << 63)),
        ("amominu.d", -(1 << 63), 0, 0),
        ("amomaxu.d", -(1 << 63), 0, -(1 << 63)),
        ("amoor.d", 0x0FF0, 0x3C3C, 0x3FFC),
    ],
)
def test_unpriv_8_4_amo(run: Run, name: str, old: int, operand: int, result: int) -> None:
    p = Program()
    p.store(DATA, old)
    p.store(DATA + 4 if name.endswith("w") else DATA + 8, 0x5A5A_5A5A, width=4)
    p.li("a0", DATA)
    p.li("a1", operand)
    p.asm(f"{name} a2, a1, (a0)")
    p.check("a2", old, what="the old value, sign-extended")
    p.asm(f"l{name[-1]} a3, 0(a0)")
    p.check("a3", result, what="the new value")
    p.asm(f"lw a3, {4 if name.endswith('w') else 8}(a0)")
    p.check("a3", 0x5A5A_5A5A, what="what is beside it")
    run(p)
