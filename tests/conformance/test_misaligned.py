"""Misaligned accesses: loads and stores work, atomics trap."""

from __future__ import annotations

import pytest

from tests.conformance.paging import RW, Tables, V, X
from tests.conformance.program import (
    DATA,
    LOAD_ACCESS,
    LOAD_MISALIGNED,
    LOAD_PAGE,
    STORE_ACCESS,
    STORE_MISALIGNED,
    STORE_PAGE,
    Program,
    Run,
)

PATTERN = 0x8796_A5B4_C3D2_E1F0
NEXT = 0x0123_4567_89AB_CDEF
VIRTUAL = 0xC000_0000


def expected(offset: int, width: int, signed: bool) -> int:
    both = NEXT << 64 | PATTERN
    value = both >> 8 * offset & (1 << 8 * width) - 1
    return value - (1 << 8 * width) if signed and value >> 8 * width - 1 else value


@pytest.mark.parametrize("warm", [False, True])
def test_unpriv_2_6_misaligned_loads_give_the_bytes(run: Run, warm: bool) -> None:
    """Whether or not an aligned load has come before: a TLB may make a difference."""
    for base in (DATA, DATA + 4088):  # the second crosses a page
        p = Program()
        p.store(base, PATTERN)
        p.store(base + 8, NEXT)
        p.li("a0", base)
        if warm:
            p.asm("ld a1, 0(a0)\nld a1, 8(a0)")
        for offset in range(1, 8):
            for name, width, signed in (
                ("lh", 2, True),
                ("lhu", 2, False),
                ("lw", 4, True),
                ("lwu", 4, False),
                ("ld", 8, True),
            ):
                p.asm(f"{name} a1, {offset}(a0)")
                value = expected(offset, width, signed)
                p.check("a1", value, what=f"{name} at {base + offset:#x}")
        p.asm("fld ft0, 3(a0)\nfmv.x.d a1, ft0")
        p.check("a1", expected(3, 8, True), what="fld")
        run(p)


@pytest.mark.parametrize("warm", [False, True])
def test_unpriv_2_6_misaligned_stores_change_only_their_bytes(run: Run, warm: bool) -> None:
    for base in (DATA, DATA + 4088):
        p = Program()
        p.li("a0", base)
        p.li("a1", 0x1122_3344_5566_7788)
        if warm:
            p.asm("sd a1, 0(a0)\nsd a1, 8(a0)")
        for offset in range(1, 8):
            for name, width in (("sh", 2), ("sw", 4), ("sd", 8)):
                p.store(base, PATTERN)
                p.store(base + 8, NEXT)
                p.asm(f"{name} a1, {offset}(a0)\nld a2, 0(a0)\nld a3, 8(a0)")
                mask = (1 << 8 * width) - 1 << 8 * offset
                both = (NEXT << 64 | PATTERN) & ~mask
                both |= (0x1122_3344_5566_7788 << 8 * offset) & mask
                p.check("a2", both & (1 << 64) - 1, what=f"{name} at {base + offset:#x}, low")
                p.check("a3", both >> 64, what=f"{name} at {base + offset:#x}, high")
        run(p)


def test_unpriv_8_2_misaligned_lr_traps(run: Run) -> None:
    p = Program()
    p.li("a0", DATA + 1)
    p.trap("lr.w a1, (a0)", LOAD_MISALIGNED, LOAD_ACCESS, tval=DATA + 1)
    p.li("a0", DATA + 4)
    p.trap("lr.d a1, (a0)", LOAD_MISALIGNED, LOAD_ACCESS, tval=DATA + 4)
    run(p)


@pytest.mark.deviates("qemu", "7.2 reports an AMO's fault as a load's")
def test_unpriv_8_4_misaligned_amos_trap(run: Run) -> None:
    p = Program()
    p.li("a0", DATA + 1)
    p.trap("amoadd.w a1, a2, (a0)", STORE_MISALIGNED, STORE_ACCESS, tval=DATA + 1)
    p.li("a0", DATA + 4)
    p.trap("amoswap.d a1, a2, (a0)", STORE_MISALIGNED, STORE_ACCESS, tval=DATA + 4)
    p.asm("amoswap.w a1, a2, (a0)")
    run(p)


@pytest.mark.deviates("qemu", "7.2 fails without looking at the address")
def test_unpriv_8_2_misaligned_sc_traps(run: Run) -> None:
    p = Program()
    p.li("a0", DATA + 1)
    p.trap("sc.w a1, a2, (a0)", STORE_MISALIGNED, STORE_ACCESS, tval=DATA + 1)
    p.li("a0", DATA + 4)
    p.trap("sc.d a1, a2, (a0)", STORE_MISALIGNED, STORE_ACCESS, tval=DATA + 4)
    run(p)


def test_priv_3_1_16_the_faulting_part_of_a_misaligned_access_is_named(run: Run) -> None:
    p = Program()
    tables = Tables(p)
    tables.map(VIRTUAL, DATA, RW)
    tables.put(VIRTUAL + 4096, 0)
    tables.map(VIRTUAL + 8192, DATA + 8192, RW)
    tables.enable()
    p.enter("S")
    p.li("a0", VIRTUAL + 4096 - 3)
    p.trap("ld a1, 0(a0)", LOAD_PAGE, tval=VIRTUAL + 4096, what="second page")
    p.trap("sd a1, 0(a0)", STORE_PAGE, tval=VIRTUAL + 4096, what="second page")
    p.li("a0", VIRTUAL + 8192 - 3)
    p.trap("lw a1, 0(a0)", LOAD_PAGE, tval=VIRTUAL + 8192 - 3, what="first page")
    p.trap("sw a1, 0(a0)", STORE_PAGE, tval=VIRTUAL + 8192 - 3, what="first page")
    run(p)


def test_priv_4_3_2_a_misaligned_access_may_join_two_frames(run: Run) -> None:
    p = Program()
    tables = Tables(p)
    tables.map(VIRTUAL, DATA + 0x5000, RW)
    tables.map(VIRTUAL + 4096, DATA + 0x2000, RW)
    p.store(DATA + 0x5FF8, PATTERN)
    p.store(DATA + 0x2000, NEXT)
    tables.enable()
    p.enter("S")
    p.li("a0", VIRTUAL + 4096 - 5)
    p.asm("ld a1, 0(a0)")
    p.check("a1", expected(3, 8, True), what="load across")
    p.li("a1", 0x1122_3344_5566_7788)
    p.asm("sd a1, 0(a0)")
    p.leave()
    p.check_memory(DATA + 0x5FF8, PATTERN & 0xFF_FFFF | 0x44_5566_7788 << 24, what="low")
    p.check_memory(DATA + 0x2000, NEXT & ~0xFF_FFFF | 0x11_2233, what="high")
    run(p)


def test_priv_4_3_1_a_32_bit_instruction_may_straddle_pages(run: Run) -> None:
    """The half on an absent page faults at its own address, with epc at the instruction."""
    p = Program()
    code = RW | X
    tables = Tables(p)
    tables.map(VIRTUAL, DATA, code)
    entry = tables.map(VIRTUAL + 4096, DATA + 0x3000, code)
    p.store(DATA + 4094, 0x0513, width=2)  # addi a0, zero, 77
    p.store(DATA + 0x3000, 77 << 4, width=2)
    p.store(DATA + 0x3002, 0x8582, width=2)  # c.jr a1
    p.asm("fence.i")
    tables.enable()
    p.enter("S")
    p.li("a2", VIRTUAL + 4094)
    p.asm("li a0, 0\nla a1, 1f\njr a2\n1:")
    p.check("a0", 77, what="both halves there")
    p.leave()
    p.store(entry, V)
    p.store(entry, 0)
    p.asm("sfence.vma")
    p.enter("S")
    p.li("a2", VIRTUAL + 4094)
    p.trap("jr a2", 12, epc="a2", tval=VIRTUAL + 4096)
    run(p)
