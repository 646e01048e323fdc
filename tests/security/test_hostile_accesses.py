"""Random accesses of every width to every register of the board."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.security.machines import contain, from_source
from tests.security.strategies import campaign, words

# Every access of a table, over and over; those that fault are skipped.
ACCESSES = """
_start:
    la   t0, skip
    csrw mtvec, t0
    csrsi mstatus, 8
    li   t0, {enabled}
    csrw mie, t0
again:
    la   s0, table
    la   s1, table_end
1:  ld   t0, 0(s0)
    ld   t1, 8(s0)
    ld   t2, 16(s0)
    la   t3, kinds
    slli t2, t2, 3
    add  t3, t3, t2
    jr   t3
next:
    addi s0, s0, 24
    bltu s0, s1, 1b
    j    again
.balign 4
skip:
    csrr t3, mcause
    bltz t3, 2f
    la   t3, next
    csrw mepc, t3
2:  mret
.balign 4
kinds:
    sb t1, 0(t0); j next
    sh t1, 0(t0); j next
    sw t1, 0(t0); j next
    sd t1, 0(t0); j next
    lbu t1, 0(t0); j next
    lhu t1, 0(t0); j next
    lwu t1, 0(t0); j next
    ld t1, 0(t0); j next
    lr.w t1, (t0); j next
    sc.d t1, t1, (t0); j next
    amoadd.w t1, t1, (t0); j next
    amomaxu.d t1, t1, (t0); j next
    fld ft0, 0(t0); j next
.rodata
.balign 8
table:
{table}
table_end:
"""
KINDS = 13

REGIONS = (
    (0x0010_0000, 0x2000),
    (0x0200_0000, 0x10000),
    (0x0C00_0000, 0x60_0000),
    (0x1000_0000, 0x100),
    (0x1000_1000, 0x3000),
    (0x1000_1000, 0x200),
    (0x1000_2000, 0x200),
    (0x1000_3000, 0x200),
)
# Where a store does something: finisher, msip, mtimecmp, PLIC priorities, enables and claims, IER.
POTENT = (
    *(0x0010_0000, 0x0200_0000, 0x0200_4000, 0x0200_BFF8, 0x0C00_0028, 0x0C00_0004, 0x0C00_2000),
    *(0x0C20_0000, 0x0C20_0004, 0x1000_0000, 0x1000_0001, 0x1000_1070, 0x1000_1050, 0x1000_1044),
)


@st.composite
def mmio_address(draw: st.DrawFn) -> int:
    if draw(st.booleans()):
        return draw(st.sampled_from(POTENT))
    base, size = draw(st.sampled_from(REGIONS))
    near = draw(
        st.sampled_from([0, 4, 8, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, size - 1, size])
    )
    return base + draw(st.one_of(st.just(near), st.integers(0, size), st.integers(0, size // 8)))


@campaign
@given(
    st.lists(st.tuples(mmio_address(), words, st.integers(0, KINDS - 1)), min_size=1, max_size=80),
    st.sampled_from([0, 0x888, 0xAAA]),
    st.binary(max_size=40),
)
def test_random_accesses_all_over_the_board(
    accesses: list[tuple[int, int, int]], enabled: int, typed: bytes
) -> None:
    table = "".join(f"    .dword {a:#x}, {v:#x}, {kind}\n" for a, v, kind in accesses)
    guest = from_source(ACCESSES.format(enabled=enabled, table=table))
    for port in guest.ports.values():
        port.push(typed)
    contain(guest, 8_000, 2_000)
