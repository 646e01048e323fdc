"""Programs that drive the virtio devices against the rules: loops, wild addresses, absurd lengths."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.testing import assemble, to_elf
from tests.security.machines import BASE, MEMORY, contain, from_source, machine
from tests.security.strategies import campaign

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
places = st.one_of(st.integers(0, 9), st.sampled_from([63, 64, 127, 128, 255, 256, 0x7FFF, 0xFFFF]))
wild = st.tuples(addresses, lengths, flags, places)
honest = st.tuples(
    st.sampled_from([REQUESTS, REQUESTS + 16, BASE + MEMORY // 2, BASE + MEMORY - 4096]),
    st.sampled_from([1, 8, 16, 512, 4096]),
    st.sampled_from([0, 1, 1, 2, 3, 3]),
    st.integers(0, 63),
)


@st.composite
def disk_request(draw: st.DrawFn, first: int) -> list[tuple[int, int, int, int]]:
    """Three descriptors from number ``first`` that virtio-blk understands."""
    header = REQUESTS + 16 * draw(st.integers(0, 7))
    buffer = draw(st.sampled_from([BASE + MEMORY // 2, BASE, RINGS, BASE + MEMORY - 8192]))
    length = draw(st.sampled_from([16, 20, 512, 4096, 8192]))
    data_flags = draw(st.sampled_from([1, 3]))
    last = (BASE + MEMORY - 1, 1, 2, 0)
    return [(header, 16, 1, first + 1), (buffer, length, data_flags, first + 2), last]


@st.composite
def descriptors(draw: st.DrawFn) -> list[tuple[int, int, int, int]]:
    """Up to 64: whole requests, single good ones, and wild ones in between."""
    table: list[tuple[int, int, int, int]] = []
    kinds = st.sampled_from(["disk", "disk", "honest", "honest", "wild"])
    for kind in draw(st.lists(kinds, min_size=1, max_size=20)):
        if kind == "disk":
            table += draw(disk_request(len(table)))
        else:
            table.append(draw(honest if kind == "honest" else wild))
    return table


ring_places = st.one_of(st.just(RINGS), st.just(AVAILABLE), st.just(REQUESTS), addresses)
block_requests = st.tuples(
    st.sampled_from([0, 1, 4, 8, 11, 13, 2, 0xFFFF_FFFF]),
    st.one_of(st.integers(0, 130), st.integers(0, (1 << 64) - 1)),
)


@st.composite
def driver(draw: st.DrawFn) -> str:
    table = draw(descriptors())
    heads = st.one_of(st.integers(0, len(table) - 1), st.integers(0, len(table) - 1), places)
    ring = draw(st.lists(heads, min_size=1, max_size=64))
    lawful = draw(st.integers(0, 3)) > 0
    any_features = st.integers(0, 0xFFFF_FFFF)
    return DRIVER.format(
        device=0x1000_1000 + 0x1000 * draw(st.integers(0, 2)),
        features=draw(st.sampled_from([0x3000_0000, 0, 0x1000_0002]) if lawful else any_features),
        size=64 if lawful else draw(st.one_of(st.just(64), st.integers(0, 1 << 32))),
        descriptors=RINGS if lawful else draw(ring_places),
        available=AVAILABLE if lawful else draw(ring_places),
        used=draw(st.sampled_from([RINGS + 3072, RINGS, AVAILABLE, REQUESTS])),
        step=draw(st.sampled_from([0, 1, 1, 1, 1, 7, 64, 2047, -1])),
        descriptor_table="".join(
            f"    .8byte {a:#x}\n    .4byte {n:#x}\n    .2byte {f}, {next_}\n"
            for a, n, f, next_ in table
        ),
        available_at=1024,
        available_flags=draw(st.integers(0, 1)),
        available_index=draw(st.integers(0, 5) if lawful else st.integers(0, 0xFFFF)),
        ring="".join(f"    .2byte {place}\n" for place in ring),
        requests_at=2048,
        requests="".join(
            f"    .4byte {kind:#x}, 0\n    .8byte {sector:#x}\n"
            for kind, sector in draw(st.lists(block_requests, min_size=1, max_size=8))
        ),
    )


def test_the_driver_works_when_it_keeps_the_rules() -> None:
    source = DRIVER.format(
        device=0x1000_1000,
        features=0x3000_0000,
        size=64,
        descriptors=RINGS,
        available=AVAILABLE,
        used=RINGS + 3072,
        step=0,
        descriptor_table=f"""
            .8byte {REQUESTS:#x}, 16 | 1 << 32 | 1 << 48
            .8byte {BASE:#x}, 512 | 1 << 32 | 2 << 48
            .8byte {BASE + MEMORY - 1:#x}, 1 | 2 << 32""",
        available_at=1024,
        available_flags=0,
        available_index=1,
        ring=".2byte 0",
        requests_at=2048,
        requests=".4byte 1, 0; .8byte 5",
    )
    guest = from_source(source)
    disk = next(device for device in guest.devices if device.type.name == "virtio-blk")
    contain(guest, 2_000, 500)
    assert disk.io.blob.pread(5 * 512, 512) == guest.ram.read(BASE, 512)
    assert not disk.io.messages


@settings(campaign, max_examples=120)
@given(driver(), st.binary(max_size=100))
def test_drivers_that_break_the_rules(source: str, typed: bytes) -> None:
    program = assemble(source, BASE)
    assert program.symbols["rings"] == RINGS
    guest = machine(to_elf(program))
    for port in guest.ports.values():
        port.push(typed)
    contain(guest, 2_000, 500)
