"""CSR instructions, and the fields that keep only legal values."""

from __future__ import annotations

import pytest

from tests.conformance.program import DATA, FS, ILLEGAL, MPP, SIE, SPIE, SPP, SUM, Program, Run

READ_ONLY = ("mvendorid", "marchid", "mimpid", "mhartid")


def test_zicsr_9_1_read_modify_write(run: Run) -> None:
    p = Program()
    p.write("mscratch", 0xF0)
    p.li("a0", 0x3C)
    p.asm("csrrs a1, mscratch, a0")
    p.check("a1", 0xF0, what="CSRRS gives the old value")
    p.check_csr("mscratch", 0xFC)
    p.asm("csrrc a1, mscratch, a0")
    p.check("a1", 0xFC, what="CSRRC gives the old value")
    p.check_csr("mscratch", 0xC0)
    p.asm("csrrw a0, mscratch, a0")
    p.check("a0", 0xC0, what="CSRRW with rd = rs1")
    p.check_csr("mscratch", 0x3C)
    p.asm("csrrwi a1, mscratch, 31\ncsrrsi a2, mscratch, 0\ncsrrci a3, mscratch, 1")
    p.check("a1", 0x3C, what="CSRRWI gives the old value")
    p.check("a2", 31, what="CSRRWI writes the zero-extended immediate")
    p.check_csr("mscratch", 30)
    run(p)


def test_zicsr_9_1_reading_a_read_only_register_is_no_write(run: Run) -> None:
    p = Program()
    for csr in READ_ONLY:
        p.asm(f"csrrs a0, {csr}, x0\ncsrrc a0, {csr}, x0\ncsrrsi a0, {csr}, 0\ncsrrci a0, {csr}, 0")
    p.check_csr("mhartid", 0)
    run(p)


@pytest.mark.deviates("qemu", "7.2 takes a set of no bits for a read")
def test_zicsr_9_1_writing_a_read_only_register_is_illegal(run: Run) -> None:
    p = Program()
    p.li("a0", 0)
    for csr in READ_ONLY:
        p.trap(f"csrrw x0, {csr}, x0", ILLEGAL)
        p.trap(f"csrrs a1, {csr}, a0", ILLEGAL, what="csrrs of a register that holds zero")
        p.trap(f"csrrwi x0, {csr}, 0", ILLEGAL)
        p.trap(f"csrrci a1, {csr}, 1", ILLEGAL)
    p.trap("csrrw x0, cycle, x0", ILLEGAL)
    p.trap("csrrs x0, instret, a0", ILLEGAL)
    run(p)


def test_priv_2_1_a_register_of_a_higher_mode_is_illegal(run: Run) -> None:
    p = Program()
    p.enter("S")
    for csr in ("mstatus", "mscratch", "mepc", "mie", "mhartid", "pmpcfg0", "pmpaddr0", "mcycle"):
        p.trap(f"csrr a0, {csr}", ILLEGAL)
        p.trap(f"csrw {csr}, a0", ILLEGAL)
    p.asm("csrr a0, sstatus\ncsrr a0, satp\ncsrw sscratch, a0")
    p.leave()
    p.enter("U")
    for csr in ("sstatus", "sscratch", "satp", "stvec", "sie", "mscratch"):
        p.trap(f"csrr a0, {csr}", ILLEGAL)
    run(p)


def test_priv_2_1_registers_that_do_not_exist_are_illegal(run: Run) -> None:
    p = Program()
    for number in (0x005, 0x1FF, 0x3FF, 0x5FF, 0x8FF, 0xBFF, 0xDFF, 0xFFF, 0x104 + 0x600):
        p.trap(f"csrr a0, {number:#x}", ILLEGAL)
    run(p)


def test_priv_3_1_1_misa_names_the_extensions(run: Run) -> None:
    p = Program()
    letters = sum(1 << "ABCDEFGHIJKLMNOPQRSTUVWXYZ".index(letter) for letter in "ACDFIMSU")
    p.check_csr("misa", letters, mask=letters)
    p.asm("csrr a0, misa\nsrli a0, a0, 62")
    p.check("a0", 2, what="MXL = 64")
    run(p)


def test_priv_3_1_6_2_sxl_and_uxl_are_64(run: Run) -> None:
    p = Program()
    p.check_csr("mstatus", 0xA << 32, mask=0xF << 32)
    p.check_csr("sstatus", 0x2 << 32, mask=0xF << 32)
    run(p)


@pytest.mark.deviates("qemu", "7.2 keeps mode 2")
def test_priv_3_1_6_mpp_keeps_only_existing_modes(run: Run) -> None:
    p = Program()
    for mode in (0, 1, 3):
        p.clear("mstatus", MPP)
        p.set("mstatus", mode << 11)
        p.check_csr("mstatus", mode << 11, mask=MPP)
    p.asm("csrr a0, mstatus")
    p.li("a1", MPP)
    p.asm("not a1, a1\nand a0, a0, a1")
    p.li("a1", 2 << 11)
    p.asm("or a0, a0, a1\ncsrw mstatus, a0")
    p.check_csr("mstatus", 0, 1 << 11, 3 << 11, mask=MPP, what="mode 2 is never read")
    run(p)


def test_priv_4_1_1_sstatus_is_a_window_on_mstatus(run: Run) -> None:
    p = Program()
    window = SIE | SPIE | SPP | SUM | 1 << 19
    p.clear("mstatus", window)
    p.check_csr("sstatus", 0, mask=window)
    p.set("sstatus", window)
    p.check_csr("mstatus", window, mask=window)
    p.clear("mstatus", SPP)
    p.check_csr("sstatus", window & ~SPP, mask=window)
    p.asm("csrr s0, mstatus")
    p.write("sstatus", 0)
    p.asm("csrr s1, mstatus\nxor s0, s0, s1")
    p.li("s2", ~(window | FS | 1 << 63))
    p.asm("and s0, s0, s2")
    p.check("s0", 0, what="a write of sstatus leaves the machine's fields")
    p.asm("csrr s0, mstatus")
    p.li("a0", 1 << 3 | 1 << 7 | MPP | 1 << 17 | 7 << 20)
    p.asm("csrs sstatus, a0\ncsrr s1, mstatus")
    p.check("s0", "s1", what="the machine's fields cannot be set through sstatus")
    run(p)


@pytest.mark.parametrize("csr", ["mscratch", "sscratch"])
def test_priv_3_1_13_scratch_keeps_everything(run: Run, csr: str) -> None:
    p = Program()
    for value in (-1, 0, 0x5555_5555_5555_5555, 1 << 63):
        p.write(csr, value)
        p.check_csr(csr, value)
    run(p)


def test_priv_4_1_8_cause_registers_keep_the_standard_codes(run: Run) -> None:
    p = Program()
    for csr in ("mcause", "scause"):
        for code in (*range(10), 12, 13, 15, *((1 << 63) + n for n in (1, 5, 9))):
            p.write(csr, code)
            p.check_csr(csr, code)
    run(p)


def test_priv_3_1_16_tval_keeps_any_address(run: Run) -> None:
    p = Program()
    for csr in ("mtval", "stval"):
        for value in (0, DATA + 1, -1, 0x7F_FFFF_FFFF, -0x80_0000_0000):
            p.write(csr, value)
            p.check_csr(csr, value)
    run(p)


def test_priv_4_1_11_satp_ignores_a_mode_that_is_not_there(run: Run) -> None:
    p = Program()
    good = 8 << 60 | DATA >> 12
    p.write("satp", good)
    for mode in (1, 5, 7, 11, 15):
        p.write("satp", mode << 60 | 0x1234)
        p.check_csr("satp", good, what=f"after a write with mode {mode}")
    for mode in (0, 8, 9):
        p.write("satp", mode << 60 | 0x1234)
        p.check_csr("satp", mode << 60 | 0x1234, what=f"mode {mode} is there")
    run(p)


@pytest.mark.deviates("qemu", "7.2 keeps 64 bits")
def test_priv_3_1_12_and_3_1_18_upper_bits_read_zero(run: Run) -> None:
    p = Program()
    p.write("mcounteren", -1)
    p.check_csr("mcounteren", 7, mask=~0xFFFF_FFF8)
    p.write("scounteren", -1)
    p.check_csr("scounteren", 7, mask=~0xFFFF_FFF8)
    run(p)
