"""The reference executor against the standard's own examples and tables."""

from __future__ import annotations

import pytest

from asyncvmm.arch.cause_numbers import (
    CAUSE_BREAKPOINT,
    CAUSE_ECALL_FROM_M,
    CAUSE_ILLEGAL_INSTRUCTION,
    CAUSE_INSTRUCTION_ACCESS_FAULT,
    CAUSE_LOAD_ACCESS_FAULT,
    CAUSE_LOAD_ADDRESS_MISALIGNED,
    CAUSE_STORE_ACCESS_FAULT,
    CAUSE_STORE_ADDRESS_MISALIGNED,
)
from asyncvmm.isa.asm import assemble
from asyncvmm.isa.reference import ReferenceHart, ReferenceRam, ReferenceTrap

BASE = 0x80000000
DATA = BASE + 0x800
ONES = (1 << 64) - 1
MIN = 1 << 63
MIN32 = 0xFFFFFFFF80000000


def hart_with(source: str, **registers: int) -> ReferenceHart:
    """A hart about to run this source."""
    ram = ReferenceRam(BASE, 0x1000)
    code = assemble(source, BASE).data
    ram.data[: len(code)] = code
    hart = ReferenceHart(ram, BASE)
    for name, value in registers.items():
        (hart.x if name[0] == "x" else hart.f)[int(name[1:])] = value
    return hart


def result(source: str, **registers: int) -> int:
    """a0 (x10) after one instruction."""
    hart = hart_with(source, **registers)
    hart.step()
    return hart.x[10]


def trap(source: str, **registers: int) -> tuple[int, int]:
    """Cause and value of the trap that the one instruction takes; nothing else changes."""
    hart = hart_with(source, **registers)
    before = list(hart.x), list(hart.f), hart.pc, bytes(hart.memory.data)  # type: ignore[attr-defined]
    with pytest.raises(ReferenceTrap) as caught:
        hart.step()
    after = list(hart.x), list(hart.f), hart.pc, bytes(hart.memory.data)  # type: ignore[attr-defined]
    assert before == after
    return caught.value.cause, caught.value.tval


@pytest.mark.parametrize(
    ("name", "a", "b", "value"),
    [
        ("div", 7, 0, ONES), ("divu", 7, 0, ONES), ("rem", 7, 0, 7), ("remu", 7, 0, 7),
        ("div", MIN, ONES, MIN), ("rem", MIN, ONES, 0),
        ("divw", 7, 0, ONES), ("divuw", 7, 0, ONES), ("remw", MIN32, 0, MIN32),
        ("remuw", 0x80000000, 0, MIN32), ("divw", MIN32, ONES, MIN32), ("remw", MIN32, ONES, 0),
        ("div", -7 & ONES, 2, -3 & ONES), ("rem", -7 & ONES, 2, ONES), ("rem", 7, -2 & ONES, 1),
        ("mulh", MIN, MIN, 1 << 62), ("mulhu", ONES, ONES, ONES - 1), ("mulhsu", ONES, ONES, ONES),
        ("mulw", 0x10000, 0x8000, MIN32),
    ],
)  # fmt: skip
def test_multiplication_and_division(name: str, a: int, b: int, value: int) -> None:
    """I 12.2, table 12.1: division by zero and overflow never trap."""
    assert result(f"{name} a0, a1, a2", x11=a, x12=b) == value


@pytest.mark.parametrize(
    ("name", "a", "value"),
    [
        ("clz", 0, 64), ("clz", 1, 63), ("clzw", 0, 32), ("clzw", 1 << 32, 32), ("ctz", 0, 64),
        ("ctz", MIN, 63), ("ctzw", 1 << 40, 32), ("cpop", ONES, 64), ("cpopw", ONES, 32),
        ("orc.b", 0x0100_0000_0080_0010, 0xFF00_0000_00FF_00FF),
        ("rev8", 0x0102030405060708, 0x0807060504030201),
        ("sext.b", 0x80, ONES - 0x7F), ("sext.h", 0x8000, ONES - 0x7FFF),
        ("zext.h", ONES, 0xFFFF),
    ],
)  # fmt: skip
def test_bit_manipulation(name: str, a: int, value: int) -> None:
    """I 28 (Zbb)."""
    assert result(f"{name} a0, a1", x11=a) == value


@pytest.mark.parametrize(
    ("source", "a", "b", "value"),
    [
        ("rol a0, a1, a2", 1, 65, 2), ("ror a0, a1, a2", 1, 1, MIN), ("rori a0, a1, 4", 0xF, 0, 0xF << 60),
        ("rolw a0, a1, a2", 0x40000000, 1, MIN32), ("rorw a0, a1, a2", 1, 1, MIN32),
        ("roriw a0, a1, 31", 0x40000000, 0, MIN32),
        ("bset a0, a1, a2", 0, 127, MIN), ("bclr a0, a1, a2", ONES, 63, MIN - 1),
        ("binv a0, a1, a2", 1, 64, 0), ("bext a0, a1, a2", MIN, 63, 1),
        ("sh3add.uw a0, a1, a2", ONES, 1, 0x7FFFFFFF9), ("add.uw a0, a1, a2", ONES, 1, 1 << 32),
        ("slli.uw a0, a1, 63", 3, 0, MIN), ("max a0, a1, a2", ONES, 1, 1), ("maxu a0, a1, a2", ONES, 1, ONES),
        ("sraw a0, a1, a2", 0x80000000, 33, 0xFFFFFFFFC0000000), ("srliw a0, a1, 0", MIN32, 0, MIN32),
        ("sltiu a0, a1, -1", 5, 0, 1), ("addiw a0, a1, 1", 0x7FFFFFFF, 0, MIN32),
    ],
)  # fmt: skip
def test_shifts_and_sums(source: str, a: int, b: int, value: int) -> None:
    """Amounts take their low bits; word forms sign-extend (I 4.2, 28)."""
    assert result(source, x11=a, x12=b) == value


def test_x0_reads_zero_and_ignores_writes() -> None:
    """I 2.1."""
    hart = hart_with("addi x0, x0, 5\nadd a0, x0, x0")
    hart.step()
    hart.step()
    assert hart.x[0] == hart.x[10] == 0


def test_jalr_clears_the_lowest_bit_and_reads_its_source_first() -> None:
    """I 2.5.1."""
    hart = hart_with("jalr a0, 3(a0)", x10=BASE + 0x100)
    hart.step()
    assert (hart.pc, hart.x[10]) == (BASE + 0x102, BASE + 4)


def test_compressed_links_follow_two_bytes_on() -> None:
    hart = hart_with("c.jalr a0", x10=BASE + 0x100)
    hart.step()
    assert (hart.pc, hart.x[1]) == (BASE + 0x100, BASE + 2)


@pytest.mark.parametrize(
    ("source", "registers", "cause", "value"),
    [
        ("ecall", {}, CAUSE_ECALL_FROM_M, 0),
        ("ebreak", {}, CAUSE_BREAKPOINT, BASE),
        (".word 0xffffffff", {}, CAUSE_ILLEGAL_INSTRUCTION, 0xFFFFFFFF),
        (".half 0", {}, CAUSE_ILLEGAL_INSTRUCTION, 0),
        (".word 0x02a5d553 # fadd.d, rm = 5", {}, CAUSE_ILLEGAL_INSTRUCTION, 0x02A5D553),
        ("csrr a0, 0x7c0", {}, CAUSE_ILLEGAL_INSTRUCTION, 0x7C002573),
        ("ld a0, 0(a1)", {"x11": 8}, CAUSE_LOAD_ACCESS_FAULT, 8),
        ("sd a0, 0(a1)", {"x11": 8}, CAUSE_STORE_ACCESS_FAULT, 8),
        ("lr.d a0, (a1)", {"x11": DATA + 4}, CAUSE_LOAD_ADDRESS_MISALIGNED, DATA + 4),
        ("sc.w a0, a1, (a1)", {"x11": DATA + 2}, CAUSE_STORE_ADDRESS_MISALIGNED, DATA + 2),
        ("amoadd.d a0, a1, (a1)", {"x11": DATA + 4}, CAUSE_STORE_ADDRESS_MISALIGNED, DATA + 4),
        ("amoadd.d a0, a1, (a1)", {"x11": 16}, CAUSE_STORE_ACCESS_FAULT, 16),
    ],
)
def test_traps_change_nothing(
    source: str, registers: dict[str, int], cause: int, value: int
) -> None:
    assert trap(source, **registers) == (cause, value)


def test_a_fetch_across_the_end_of_memory_names_the_missing_half() -> None:
    """II 3.1.16: mtval is the address of the part that faulted."""
    hart = hart_with(".org 0xffe\n.half 0x0013")
    hart.pc = BASE + 0xFFE
    with pytest.raises(ReferenceTrap) as caught:
        hart.step()
    assert (caught.value.cause, caught.value.tval) == (
        CAUSE_INSTRUCTION_ACCESS_FAULT,
        BASE + 0x1000,
    )


def test_a_reservation_holds_once() -> None:
    """I 13.2: the second store-conditional fails, and one without a reservation too."""
    source = "lr.w t0, (a1)\nsc.w a0, a2, (a1)\nsc.w a3, a4, (a1)"
    hart = hart_with(source, x11=DATA, x12=7, x14=9)
    for _ in range(3):
        hart.step()
    assert (hart.x[10], hart.x[13]) == (0, 1)
    assert hart.memory.read(DATA, 4) == 7


def test_amo_min_compares_as_its_name_says() -> None:
    """I 13.4."""
    for name, old, given, stored in [
        ("amomin.w", 0x80000000, 1, 0x80000000),
        ("amominu.w", 0x80000000, 1, 1),
        ("amomax.w", 0xFFFFFFFF, 1, 1),
        ("amomaxu.w", 0xFFFFFFFF, 1, 0xFFFFFFFF),
    ]:
        hart = hart_with(f"{name} a0, a2, (a1)", x11=DATA, x12=given)
        hart.memory.write(DATA, 4, old)
        hart.step()
        assert hart.memory.read(DATA, 4) == stored, name
        assert hart.x[10] == old - (old >> 31 << 32) & ONES, name


def test_a_single_that_is_not_boxed_counts_as_nan() -> None:
    """I 21.2: fsgnj.s reads it as the canonical NaN, fmv.x.w and fsw take the bits as they are."""
    hart = hart_with("fsgnj.s f1, f2, f2\nfmv.x.w a0, f2\nfsw f2, 0(a1)", f2=0x3F800000, x11=DATA)
    for _ in range(3):
        hart.step()
    assert hart.f[1] == 0xFFFFFFFF7FC00000
    assert hart.x[10] == hart.memory.read(DATA, 4) == 0x3F800000


def test_flags_accrue_and_a_reserved_dynamic_mode_is_illegal() -> None:
    """I 20.2."""
    hart = hart_with("fdiv.s f1, f2, f3", f2=0xFFFFFFFF3F800000, f3=0xFFFFFFFF00000000)
    hart.fcsr = 1
    hart.step()
    assert (hart.f[1], hart.fcsr) == (0xFFFFFFFF7F800000, 9)
    hart.pc, hart.fcsr = BASE, 5 << 5
    with pytest.raises(ReferenceTrap):
        hart.step()


def test_csr_instructions_read_and_write_as_table_6_1_says() -> None:
    """I 6.1."""
    source = "csrrw a0, fcsr, a1\ncsrrs a2, frm, x0\ncsrrc a3, fflags, a4\ncsrrsi a5, fcsr, 0"
    hart = hart_with(source, x11=0xFFFFFFFFFFFFFF7F, x14=3)
    hart.fcsr = 0x21
    for _ in range(4):
        hart.step()
    assert [hart.x[n] for n in (10, 12, 13, 15)] == [0x21, 3, 0x1F, 0x7C]


def test_floating_point_is_illegal_while_it_is_off() -> None:
    """II 3.1.6.6."""
    for source in ("fadd.s f1, f2, f3", "fld f1, 0(a1)", "fmv.x.d a0, f1", "frcsr a0"):
        hart = hart_with(source, x11=DATA)
        hart.float_on = False
        with pytest.raises(ReferenceTrap) as caught:
            hart.step()
        assert caught.value.cause == CAUSE_ILLEGAL_INSTRUCTION
