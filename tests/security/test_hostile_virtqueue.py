"""Hostile drivers: whatever they write to rings and registers, the device stays contained.

Contained means: no exception comes out of the transport, a run is bounded in work, and no byte
outside what the driver offered as writable (and the used rings) changes.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncvmm.base.errors import GuestError
from asyncvmm.device import MemoryBlob, Packet
from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm.testing.virtio_driver import NEEDS_RESET, VirtioDriver
from asyncvmm.virtio import Chain, VirtioDevice, VirtioMmio, VirtQueue
from asyncvmm_plugins.virtio_blk.config import VirtioBlkConfig
from asyncvmm_plugins.virtio_blk.device import VirtioBlk
from asyncvmm_plugins.virtio_console.config import VirtioConsoleConfig
from asyncvmm_plugins.virtio_console.device import VirtioConsole
from asyncvmm_plugins.virtio_net.config import VirtioNetConfig
from asyncvmm_plugins.virtio_net.device import VirtioNet
from asyncvmm_plugins.virtio_rng.config import VirtioRngConfig
from asyncvmm_plugins.virtio_rng.device import VirtioRng

BASE = 0x8000_0000
SIZE = 1 << 16
RINGS = BASE + 0x1000
BUFFERS = BASE + 0x8000


class Copier(VirtioDevice):
    """Copies what it reads to where it may write, and counts."""

    def __init__(self, bench: DeviceBench) -> None:
        super().__init__(bench.io, 42, [8])
        self.handled = 0

    def handle(self, queue: VirtQueue, chain: Chain) -> None:
        self.handled += 1
        data = chain.read(chain.readable_bytes)
        queue.complete(chain, chain.write(data * 2 + b"!"))


def make_blk(bench: DeviceBench) -> VirtioDevice:
    bench.io.blob = MemoryBlob(random.Random(0).randbytes(32 * 512))
    return VirtioBlk(VirtioBlkConfig(Path("d"), queue_size=16), bench.io)


def make_console(bench: DeviceBench) -> VirtioDevice:
    bench.io.console.push(b"input " * 100)
    bench.io.port("run").push(b"more " * 100)
    return VirtioConsole(VirtioConsoleConfig(("run",)), bench.io)


def make_rng(bench: DeviceBench) -> VirtioDevice:
    return VirtioRng(VirtioRngConfig(), bench.io)


def make_net(bench: DeviceBench) -> VirtioDevice:
    for size in (60, 1514, 20_000):
        data = random.Random(size).randbytes(size)
        bench.io.net.arrive(500, Packet(data, 34, 16, 1 if size > 1514 else 0, 1460))
        bench.io.net.arrive(0, Packet(data))
    return VirtioNet(VirtioNetConfig(queue_size=16), bench.io)


DEVICES: dict[str, Callable[[DeviceBench], VirtioDevice]] = {
    "copier": Copier,
    "blk": make_blk,
    "console": make_console,
    "net": make_net,
    "rng": make_rng,
}

addresses = st.one_of(
    st.integers(BASE, BASE + SIZE - 1),
    st.sampled_from([BUFFERS, RINGS, BASE + SIZE - 1, BASE + SIZE, BASE - 1, 0, 2**64 - 1, 2**63]),
)
lengths = st.one_of(
    st.integers(0, 64), st.sampled_from([16, 32, 512, 1024, SIZE, SIZE + 1, 2**31, 2**32 - 1])
)
descriptors = st.tuples(addresses, lengths, st.integers(0, 7), st.integers(0, 9))
REGISTERS = [
    0x14,
    0x20,
    0x24,
    0x30,
    0x38,
    0x44,
    0x50,
    0x64,
    0x70,
    0x80,
    0x84,
    0x90,
    0xA0,
    0xA4,
    0x108,
]


@settings(
    max_examples=300, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(
    name=st.sampled_from(sorted(DEVICES)),
    table=st.lists(descriptors, min_size=8, max_size=24),
    ring=st.lists(st.integers(0, 9), min_size=8, max_size=8),
    ahead=st.integers(0, 9),
    features=st.sampled_from([1 << 32, 7 << 28 | 1 << 32, None]),
)
def test_hostile_rings(
    name: str,
    table: list[tuple[int, int, int, int]],
    ring: list[int],
    ahead: int,
    features: int | None,
) -> None:
    bench = DeviceBench(ram_base=BASE, ram_size=SIZE)
    device = DEVICES[name](bench)
    target = VirtioMmio(bench.io, device)
    target.reset()
    driver = VirtioDriver(target, bench.ram)
    driver._free = RINGS
    offered = driver.offered
    assert driver.negotiate(offered if features is None else features & offered)
    queue = driver.setup_queue(0, 8)
    others = [driver.setup_queue(number, 8) for number in range(1, len(device.queues))]
    driver.set_register(0x70, driver.status | 4)
    for each in (queue, *others):
        for number, (address, length, flags, next_) in enumerate(table[:8]):
            each.descriptor(number, address, length, flags, next_)
        for slot, head in enumerate(ring):
            bench.ram.store(each.available + 4 + 2 * slot, 2, head)
        bench.ram.store(each.available + 2, 2, ahead)
    for number, (address, length, flags, next_) in enumerate(table[8:]):
        queue.descriptor(number, address, length, flags, next_, table=BUFFERS)
    for each in (queue, *others):
        each.kick()
    bench.advance(1000)
    driver.take_interrupts()
    if ahead > 8:
        assert driver.status & NEEDS_RESET
    # Whatever happened, a reset makes a good device of it.
    driver._free = RINGS
    again = driver.start(size=8)
    assert not driver.status & NEEDS_RESET
    if name == "rng":
        assert again[0].request(writable=[8]).length == 8


@settings(max_examples=300, derandomize=True, deadline=None)
@given(
    name=st.sampled_from(sorted(DEVICES)),
    writes=st.lists(
        st.tuples(
            st.one_of(st.sampled_from(REGISTERS), st.integers(0, 0xFFF)),
            st.sampled_from([1, 2, 4, 8]),
            st.one_of(
                st.integers(0, 255),
                st.sampled_from([BASE, RINGS, BUFFERS, 2**32 - 1]),
                st.integers(-(2**63), 2**63 - 1),
            ),
        ),
        max_size=60,
    ),
    seed=st.integers(0, 1 << 16),
)
def test_hostile_register_writes(name: str, writes: list[tuple[int, int, int]], seed: int) -> None:
    bench = DeviceBench(ram_base=BASE, ram_size=SIZE)
    bench.ram.write(BASE, random.Random(seed).randbytes(SIZE))
    target = VirtioMmio(bench.io, DEVICES[name](bench))
    target.reset()
    for offset, size, value in writes:
        offset &= -size
        target.write(offset, size, value)
        target.read(offset, size)
    target.save()
    target.reset()
    assert VirtioDriver(target, bench.ram).negotiate()


def test_only_writable_buffers_and_used_rings_change() -> None:
    rng = random.Random(7)
    for _ in range(300):
        bench = DeviceBench(ram_base=BASE, ram_size=SIZE)
        target = VirtioMmio(bench.io, Copier(bench))
        target.reset()
        driver = VirtioDriver(target, bench.ram)
        driver._free = RINGS
        (queue,) = driver.start()
        allowed = bytearray(SIZE)
        used = slice(queue.used - BASE, queue.used - BASE + 6 + 8 * queue.size)
        allowed[used] = b"\1" * (used.stop - used.start)
        count = rng.randint(1, 6)
        for number in range(count):
            address, length = BUFFERS + rng.randrange(0x7000), rng.randint(1, 300)
            writable = number > count // 2
            flags = (1 if number < count - 1 else 0) | (2 if writable else 0)
            queue.descriptor(number, address, length, flags, number + 1)
            if writable:
                allowed[address - BASE : address - BASE + length] = b"\1" * length
        queue.make_available(0)
        before = bench.ram.read(BASE, SIZE)
        queue.kick()
        after = bench.ram.read(BASE, SIZE)
        assert all(a == b or ok for a, b, ok in zip(before, after, allowed, strict=True))
        assert after != before


@pytest.mark.parametrize("name", sorted(DEVICES))
def test_work_of_a_notification_is_bounded(name: str) -> None:
    """The used ring lies on the available ring: completing makes more available, for ever."""
    bench = DeviceBench(ram_base=BASE, ram_size=SIZE)
    device = DEVICES[name](bench)
    target = VirtioMmio(bench.io, device)
    target.reset()
    driver = VirtioDriver(target, bench.ram)
    assert driver.negotiate(1 << 32)
    for number in range(len(device.queues)):
        driver.set_register(0x30, number)
        for register, value in ((0x38, 8), (0x80, RINGS), (0x90, BUFFERS), (0xA0, BUFFERS)):
            driver.set_register(register, value)
        driver.set_register(0x44, 1)
    driver.set_register(0x70, driver.status | 4)
    for number in range(8):
        raw = struct.pack("<QIHH", BASE + 0x4000, 64, 2, 0)
        bench.ram.write(RINGS + 16 * number, raw)
    bench.ram.store(BUFFERS + 2, 2, 3)
    for number in range(len(device.queues)):
        driver.set_register(0x50, number)


def test_a_device_that_refuses_is_the_guests_problem_only() -> None:
    class Refusing(VirtioDevice):
        def __init__(self, bench: DeviceBench) -> None:
            super().__init__(bench.io, 42, [8])

        def handle(self, queue: VirtQueue, chain: Chain) -> None:
            raise GuestError("no")

        def activated(self) -> None:
            self.io.log("up")

    bench = DeviceBench(ram_base=BASE, ram_size=SIZE)
    target = VirtioMmio(bench.io, Refusing(bench))
    target.reset()
    driver = VirtioDriver(target, bench.ram)
    (queue,) = driver.start()
    queue.add([b"x"])
    queue.kick()
    assert driver.status & NEEDS_RESET
    assert bench.io.messages[0] == "up"
