"""Page tables that lead anywhere, and kernels that call the SBI with anything."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from asyncvmm.testing import assemble
from tests.security.machines import BASE, MEMORY, contain, from_source, kernel
from tests.security.strategies import campaign, words

PAGING = """
_start:
    la   t0, next
    csrw mtvec, t0
    li   t0, -1
    csrw pmpaddr0, t0
    li   t0, 0x1f
    csrw pmpcfg0, t0
    li   t0, {envcfg}
    csrw menvcfg, t0
    li   s0, 0
.balign 4
next:
    la   t0, satps
    la   t1, satps_end - 8
    andi t2, s0, 7
    slli t2, t2, 3
    add  t0, t0, t2
    bgtu t0, t1, 1f
    ld   t0, 0(t0)
    csrw satp, t0
1:  la   t0, targets
    srli t2, s0, 1
    andi t2, t2, 7
    slli t2, t2, 3
    add  t0, t0, t2
    ld   t3, 0(t0)
    addi s0, s0, 1
    andi t2, s0, 3
    beqz t2, 2f
    # Load or store with the supervisor's eyes.
    li   t1, 0x60800
    csrs mstatus, t1
    andi t2, s0, 1
    beqz t2, 3f
    ld   t4, 0(t3)
    j    next
3:  sd   t4, 0(t3)
    j    next
2:  csrw mepc, t3
    li   t1, 0x1800
    csrc mstatus, t1
    li   t1, 0x800
    csrs mstatus, t1
    mret
.data
.balign 8
satps:
{satps}
satps_end:
targets:
{targets}
"""
TABLES = BASE + 0x2000
ppns = st.one_of(
    st.sampled_from(
        [
            *((TABLES + 0x1000 * n) >> 12 for n in range(3)),
            *(BASE >> 12, (BASE + MEMORY) >> 12, 0, 0x10000, 0x10001, 0x0C000, (1 << 44) - 1),
        ]
    ),
    st.integers(0, (1 << 44) - 1),
)
entries = st.tuples(ppns, st.integers(0, 0x3FF), st.sampled_from([0, 0, 0, 1 << 54, 1 << 61])).map(
    lambda parts: parts[0] << 10 | parts[1] | parts[2]
)
good_bits = st.sampled_from([0x01, 0x01, 0xCF, 0x0F, 0x07, 0x0B])
plausible = st.tuples(ppns, good_bits).map(lambda parts: parts[0] << 10 | parts[1])
roots = st.tuples(st.sampled_from([8, 8, 9, 0, 10, 15]), st.integers(0, 3), ppns).map(
    lambda parts: parts[0] << 60 | parts[1] << 44 | parts[2]
)
virtual = st.one_of(
    st.sampled_from([0, 0x1000, 0xFFF, 0x40000000 - 4, 1 << 38, -(1 << 38), -8, -1, (1 << 39) - 1]),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.integers(0, 1 << 22),
)


@campaign
@given(
    st.lists(st.one_of(plausible, entries), min_size=8, max_size=64),
    st.lists(roots, min_size=1, max_size=8),
    st.lists(virtual, min_size=8, max_size=8),
    st.booleans(),
)
def test_page_tables_that_lead_anywhere(
    table: list[int], satps: list[int], targets: list[int], hardware_updates: bool
) -> None:
    # Three tables, each full of the same entries in another order.
    made = b""
    for shift in range(3):
        turned = table[shift:] + table[:shift]
        made += struct.pack("<512Q", *(turned[i % len(turned)] for i in range(512)))
    source = PAGING.format(
        envcfg=1 << 61 if hardware_updates else 0,
        satps="".join(f"    .dword {satp:#x}\n" for satp in satps),
        targets="".join(f"    .dword {target}\n" for target in targets),
    )
    guest = from_source(source)
    guest.ram.write(TABLES, made)
    contain(guest, 4_000, 1_000)


KERNEL = """
    j    start
    .balign 8
    .dword 0x200000, 0x10000, 0, 2, 0, 0
    .dword 0x05435352
    .ascii "RSC"
    .byte 5, 0, 0, 0, 0
start:
    la   t0, start
    csrw stvec, t0
again:
    la   s0, calls
    la   s1, calls_end
1:  ld   a7, 0(s0)
    ld   a6, 8(s0)
    ld   a0, 16(s0)
    ld   a1, 24(s0)
    ld   a2, 32(s0)
    ld   a3, 40(s0)
    ecall
    addi s0, s0, 48
    bltu s0, s1, 1b
    csrsi sstatus, 2
    li   t0, -1
    csrw sie, t0
    j    again
.balign 8
calls:
{calls}
calls_end:
"""
EXTENSIONS = (
    *(0x10, 0x54494D45, 0x735049, 0x52464E43, 0x48534D, 0x53525354, 0x4442434E, 0x535441),
    *range(9),
)
call = st.tuples(
    st.one_of(st.sampled_from(EXTENSIONS), words),
    st.one_of(st.integers(0, 8), words),
    words, words, words, words,
)  # fmt: skip


@campaign
@given(st.lists(call, min_size=1, max_size=40))
def test_wild_calls_of_the_sbi(calls: list[tuple[int, ...]]) -> None:
    lines = ("    .dword " + ", ".join(f"{value:#x}" for value in one) + "\n" for one in calls)
    image = assemble(KERNEL.format(calls="".join(lines)), BASE + (2 << 20)).data
    assert image[56:60] == b"RSC\x05"
    contain(kernel(image), 4_000, 1_000)
