"""Hostile programs stay in their own guest: the host goes on, and so does the guest beside them."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.testing import assemble, to_elf
from asyncvmm.testing.programs import instructions
from tests.security.machines import BASE, MEMORY, contain, from_source, kernel, machine, run

campaign = settings(derandomize=True, deadline=None, max_examples=40)

PROGRAMS = {
    "jumps to nowhere": "li t0, 0x1234567812345678; jr t0",
    "jumps to a device": "la t0, 1f; csrw mtvec, t0; li t0, 0x10000000; jr t0; .balign 4; 1: mret",
    "has no trap vector": ".word 0",
    "faults in its trap vector": "la t0, 1f; csrw mtvec, t0; .balign 4; 1: .word 0",
    "has its trap vector in a device": "li t0, 0x0c000000; csrw mtvec, t0; ecall",
    "has a vectored trap vector at the end of memory": "li t0, -3; csrw mtvec, t0; ecall",
    "is one instruction that jumps to itself": "1: j 1b",
    "waits for nothing": "wfi; j _start",
    "waits for nothing with interrupts on": "csrsi mstatus, 8; li t0, -1; csrw mie, t0; 1: wfi; j 1b",
    "fills its memory": f"""
        la t0, 1f; csrw mtvec, t0
     1: li t0, {BASE + 0x1000}
     2: sd t0, 0(t0); addi t0, t0, 1024; j 2b""",
    "overwrites itself": "la t0, _start; li t1, -1; 1: sw t1, 0(t0); addi t0, t0, 4; j 1b",
    "rewrites the instruction that runs": """
        la t0, 1f; lw t1, 0(t0); la t2, 2f; lw t2, 0(t2)
     1: addi s0, s0, 1; sw t2, 0(t0); xor t3, t1, t2; xor t1, t1, t3; xor t2, t2, t3; j 1b
     2: addi s1, s1, 1""",
    "locks itself out with PMP": """
        li t0, -1; csrw pmpaddr0, t0; li t0, 0x98; csrw pmpcfg0, t0; nop; ld t0, 0(sp)""",
    "returns to every mode": """
        la t0, 1f; csrw mtvec, t0
     1: csrr t0, mcycle; csrw mstatus, t0; mret""",
    "is called all the time": """
        la t0, 1f; csrw mtvec, t0; li t0, -1; csrw mie, t0
        li t0, 0x02000000; li t1, 1; sw t1, 0(t0); li t0, 0x02004000; sd zero, 0(t0)
        csrsi mstatus, 8
     2: j 2b
        .balign 4
     1: mret""",
    "moves its clock": """
        la t0, 1f; csrw mtvec, t0; li t0, 0x80; csrw mie, t0; csrsi mstatus, 8
        li s0, 0x0200bff8; li s1, 0x02004000
     2: rdcycle t0; slli t1, t0, 57; sd t1, 0(s0); neg t1, t1; sd t1, 0(s1)
        li t2, -1; sd t2, 0(s0); j 2b
        .balign 4
     1: mret""",
    "sets a timer for the end of time": """
        li t0, 0x80; csrw mie, t0; li s1, 0x02004000; li t0, -2; sd t0, 0(s1)
        1: wfi; j 1b""",
    "storms its UART": """
        li s0, 0x10000000; li t0, 0x1f; sb t0, 4(s0)
     1: li t1, 8
     2: add t2, s0, t1; sb t0, 0(t2); lbu t3, 0(t2); addi t1, t1, -1; bgez t1, 2b
        addi t0, t0, 37; j 1b""",
    "talks to HTIF in tongues": """
        la s0, tohost; li t0, 2
     1: slli t1, t0, 48; xor t1, t1, t0; sd t1, 0(s0); sd zero, 0(s0)
        li t2, 0x0101000000000041; sd t2, 0(s0); addi t0, t0, 2; j 1b
        .balign 64
     tohost: .dword 0
     fromhost: .dword 0""",
    "gives HTIF wild system calls": f"""
        la s0, tohost; la s1, call; li s2, 1
     1: sd s1, 0(s0); sd zero, 0(s0); li t0, 64; sd t0, 0(s1); sd s2, 8(s1)
        li t1, {BASE + MEMORY - 8}; sd t1, 16(s1); li t1, -1; sd t1, 24(s1)
        slli s2, s2, 1; add s1, s1, s2; j 1b
        .balign 64
     tohost: .dword 0
     fromhost: .dword 0
        .balign 64
     call: .dword 64, 1, 0, 0x7fffffffffffffff""",
    "reboots all the time": "li t0, 0x00100000; li t1, 0x7777; sw t1, 0(t0); 1: j 1b",
    "turns itself off": "li t0, 0x00100000; li t1, 0x5555; sw t1, 0(t0); 1: j 1b",
}


@pytest.mark.parametrize("harts", [1, 2])
@pytest.mark.parametrize("what", PROGRAMS)
def test_a_guest_that(what: str, harts: int) -> None:
    contain(from_source("_start:\n" + PROGRAMS[what], harts=harts))


def test_an_endless_trap_loop_is_counted_as_what_it_is() -> None:
    guest = from_source(PROGRAMS["faults in its trap vector"])
    run(guest, 10_000)
    assert guest.stats().traps > 9_900


@campaign
@given(st.binary(min_size=1, max_size=400))
def test_random_bytes(code: bytes) -> None:
    program = to_elf(assemble(f".byte {','.join(map(str, code))}", BASE))
    contain(machine(program), 4_000, 1_000)


@campaign
@given(st.lists(instructions(), min_size=1, max_size=60), st.booleans())
def test_random_instructions(words: list[int], with_vector: bool) -> None:
    body = "".join(f".4byte {w:#x}\n" if w & 3 == 3 else f".2byte {w:#x}\n" for w in words)
    # The trap handler goes on behind what failed, so that all of the words have their turn.
    source = f"""
        la t0, handler
        csrw mtvec, t0
        csrsi mstatus, 8
        li t0, -1
        csrw mie, t0
        li t0, 0x80100000
        mv sp, t0
        mv s0, t0
        mv a0, t0
        {"" if with_vector else "csrw mtvec, zero"}
    body:
        {body}
        j body
    .balign 4
    handler:
        csrr t6, mepc
        addi t6, t6, 2
        csrw mepc, t6
        mret
    """
    contain(from_source(source), 4_000, 1_000)
    # Where the slices end changes nothing.
    first, second = from_source(source), from_source(source)
    run(first, 1_000)
    for _ in range(1_000):
        run(second, 1)
    if first.ending is None and second.ending is None and not first.harts[0].waiting:
        assert first.digest() == second.digest()


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
words = st.one_of(
    st.sampled_from([0, 1, 2, 3, 4, 7, 0xB, 0xF, 0xFF, 0xFFFF_FFFF, 1 << 63, (1 << 64) - 1]),
    st.integers(0, (1 << 64) - 1),
    st.integers(BASE, BASE + MEMORY),
)


@st.composite
def mmio_address(draw: st.DrawFn) -> int:
    base, size = draw(st.sampled_from(REGIONS))
    near = draw(st.sampled_from([0, 4, 8, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, size - 1, size]))
    return base + draw(st.one_of(st.just(near), st.integers(0, size), st.integers(0, size // 8)))


@campaign
@given(
    st.lists(
        st.tuples(mmio_address(), words, st.integers(0, KINDS - 1)), min_size=1, max_size=80
    ),
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


# Sets up every queue of a virtio device on the same rings, then rings the bells for ever.
DRIVER = """
_start:
    la   t0, skip
    csrw mtvec, t0
    li   s0, {device}
again:
    sw   zero, 0x70(s0)
    li   t0, 3
    sw   t0, 0x70(s0)
    sw   zero, 0x24(s0)
    li   t0, {features}
    sw   t0, 0x20(s0)
    li   t1, 1
    sw   t1, 0x24(s0)
    sw   t1, 0x20(s0)
    li   t0, 11
    sw   t0, 0x70(s0)
    li   s1, 0
1:  sw   s1, 0x30(s0)
    li   t0, {size}
    sw   t0, 0x38(s0)
    li   t0, {descriptors}
    sw   t0, 0x80(s0)
    srli t0, t0, 32
    sw   t0, 0x84(s0)
    li   t0, {available}
    sw   t0, 0x90(s0)
    srli t0, t0, 32
    sw   t0, 0x94(s0)
    li   t0, {used}
    sw   t0, 0xa0(s0)
    srli t0, t0, 32
    sw   t0, 0xa4(s0)
    li   t0, 1
    sw   t0, 0x44(s0)
    addi s1, s1, 1
    li   t0, 8
    blt  s1, t0, 1b
    li   t0, 15
    sw   t0, 0x70(s0)
    li   s2, 8
2:  addi s1, s1, -1
    sw   s1, 0x50(s0)
    bnez s1, 2b
    la   t0, rings
    lhu  t1, 1026(t0)
    addi t1, t1, {step}
    sh   t1, 1026(t0)
    li   s1, 8
    addi s2, s2, -1
    bnez s2, 2b
    j    again
.balign 4
skip:
    csrr t0, mepc
    addi t0, t0, 4
    csrw mepc, t0
    mret
.data
.balign 4096                    # at RINGS
rings:
{descriptor_table}
.org {available_at}
    .2byte {available_flags}, {available_index}
{ring}
.org {requests_at}
requests:
{requests}
"""
RINGS = BASE + 0x1000
AVAILABLE = RINGS + 1024
REQUESTS = RINGS + 2048
addresses = st.one_of(
    st.sampled_from(
        [
            *(RINGS, AVAILABLE, REQUESTS, REQUESTS + 16, BASE, BASE + MEMORY - 1, BASE + MEMORY),
            *(0, 1, BASE - 1, 0x1000_0000, 0x0C00_0000, 1 << 63, (1 << 64) - 1, (1 << 64) - 4096),
        ]
    ),
    st.integers(BASE, BASE + MEMORY).map(lambda n: n & ~0xFFF),
    st.integers(0, (1 << 64) - 1),
)
lengths = st.one_of(
    st.sampled_from([0, 1, 8, 15, 16, 32, 512, 513, 4096, MEMORY, MEMORY // 2, 0xFFFF_FFFF]),
    st.integers(0, (1 << 32) - 1),
    st.integers(1, 4096),
)
flags = st.one_of(st.integers(0, 7), st.integers(0, 0xFFFF))
places = st.one_of(
    st.integers(0, 9), st.sampled_from([63, 64, 127, 128, 255, 256, 0x7FFF, 0xFFFF])
)
descriptors = st.lists(st.tuples(addresses, lengths, flags, places), min_size=1, max_size=64)
ring_places = st.one_of(st.just(RINGS), st.just(AVAILABLE), st.just(REQUESTS), addresses)
block_requests = st.tuples(
    st.sampled_from([0, 1, 4, 8, 11, 13, 2, 0xFFFF_FFFF]),
    st.one_of(st.integers(0, 130), st.integers(0, (1 << 64) - 1)),
)


@st.composite
def driver(draw: st.DrawFn) -> str:
    table = draw(descriptors)
    ring = draw(st.lists(places, min_size=1, max_size=64))
    honest = draw(st.booleans())
    return DRIVER.format(
        device=0x1000_1000 + 0x1000 * draw(st.integers(0, 2)),
        features=draw(st.one_of(st.just(0x3000_0000), st.just(0), st.integers(0, 0xFFFF_FFFF))),
        size=64 if honest else draw(st.one_of(st.just(64), st.integers(0, 1 << 32))),
        descriptors=RINGS if honest else draw(ring_places),
        available=AVAILABLE if honest else draw(ring_places),
        used=draw(st.sampled_from([RINGS + 3072, RINGS, AVAILABLE, REQUESTS])),
        step=draw(st.sampled_from([0, 1, 7, 64, 2047, -1])),
        descriptor_table="".join(
            f"    .8byte {a:#x}\n    .4byte {n:#x}\n    .2byte {f}, {next_}\n"
            for a, n, f, next_ in table
        ),
        available_at=1024,
        available_flags=draw(st.integers(0, 1)),
        available_index=draw(st.one_of(st.integers(0, 64), st.integers(0, 0xFFFF))),
        ring="".join(f"    .2byte {place}\n" for place in ring),
        requests_at=2048,
        requests="".join(
            f"    .4byte {kind:#x}, 0\n    .8byte {sector:#x}\n"
            for kind, sector in draw(st.lists(block_requests, min_size=1, max_size=8))
        ),
    )


@settings(campaign, max_examples=120)
@given(driver(), st.binary(max_size=100))
def test_drivers_that_break_the_rules(source: str, typed: bytes) -> None:
    program = assemble(source, BASE)
    assert program.symbols["rings"] == RINGS
    guest = machine(to_elf(program))
    for port in guest.ports.values():
        port.push(typed)
    contain(guest, 2_000, 500)


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
