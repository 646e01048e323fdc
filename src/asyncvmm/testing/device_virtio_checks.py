"""Checks of virtio devices against drivers that break the rules, and of the reach of their DMA."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from asyncvmm.testing.device_specimen import RAM_BYTES, Specimen, Subject, blame, random_chain
from asyncvmm.testing.virtio_driver import INDIRECT, NEXT, WRITE, DriverQueue, VirtioDriver

FILLS: Final = (1, 2)
REQUESTS: Final = 40
SETTLE_NS: Final = 10_000_000
TOP: Final = 1 << 64

Interval = tuple[int, int]  # address, length
# Writes a chain that is against the rules; gives its head and what the device may still write to.
Hostile = Callable[[VirtioDriver, DriverQueue], tuple[int, list[Interval]]]


def _one(address: int, length: int, flags: int = WRITE, next_: int = 0) -> Hostile:
    """A chain of one descriptor."""

    def make(driver: VirtioDriver, queue: DriverQueue) -> tuple[int, list[Interval]]:
        queue.descriptor(0, address, length, flags, next_)
        return 0, []

    return make


def _loop(length: int) -> Hostile:
    """A loop of ``length`` descriptors."""

    def make(driver: VirtioDriver, queue: DriverQueue) -> tuple[int, list[Interval]]:
        place = driver.allocate(16, 16)
        for number in range(length):
            queue.descriptor(number, place, 16, NEXT | WRITE, (number + 1) % length)
        return 0, [(place, 16)]

    return make


def _table(entries: list[tuple[int | None, int, int, int]], length: int | None = None) -> Hostile:
    """An indirect table; an address of None is the table's own."""

    def make(driver: VirtioDriver, queue: DriverQueue) -> tuple[int, list[Interval]]:
        table = driver.allocate(16 * max(1, len(entries)), 16)
        for number, (address, size, flags, next_) in enumerate(entries):
            queue.descriptor(
                number, table if address is None else address, size, flags, next_, table
            )
        size = 16 * len(entries) if length is None else length
        queue.descriptor(0, table, size, INDIRECT, 0)
        return 0, []

    return make


def _order(driver: VirtioDriver, queue: DriverQueue) -> tuple[int, list[Interval]]:
    place = driver.allocate(64, 16)
    queue.descriptor(0, place, 16, NEXT | WRITE, 1)
    queue.descriptor(1, place + 32, 16, 0, 0)
    return 0, [(place, 16)]


def _head(number: int) -> Hostile:
    def make(driver: VirtioDriver, queue: DriverQueue) -> tuple[int, list[Interval]]:
        return number, []

    return make


HOSTILE: Final[dict[str, Hostile]] = {
    "a descriptor that is its own next": _loop(1),
    "a loop of two descriptors": _loop(2),
    "a loop of many descriptors": _loop(8),
    "a next beyond the table": _one(0x8000_0000, 16, NEXT | WRITE, 0xFFFF),
    "a length of zero": _one(0x8000_0000, 0),
    "a length of zero, readable": _one(0x8000_0000, 0, 0),
    "a length of 4 GiB less one": _one(0x8000_0000, 0xFFFF_FFFF),
    "a buffer that wraps around": _one(TOP - 16, 64),
    "a readable buffer that wraps around": _one(TOP - 16, 64, 0),
    "a buffer at the sign bit": _one(1 << 63, 64),
    "a buffer across the end of RAM": _one(0x8000_0000 + RAM_BYTES - 8, 16),
    "a buffer before RAM": _one(0x8000_0000 - 8, 16),
    "a device register as a buffer": _one(0x1000_1000, 64),
    "a readable buffer after a writable one": _order,
    "an indirect table in an indirect table": _table([(None, 16, INDIRECT, 0)]),
    "an indirect table that loops": _table(
        [(0x8000_0000, 16, NEXT, 1), (0x8000_0000, 16, NEXT, 0)]
    ),
    "an indirect next beyond its table": _table([(0x8000_0000, 16, NEXT, 9)]),
    "an empty indirect table": _table([], 0),
    "an indirect table of 15 bytes": _table([(0x8000_0000, 16, 0, 0)], 15),
    "an indirect table of 4 GiB": _table([(0x8000_0000, 16, 0, 0)], 0xFFFF_FFF0),
    "an indirect table outside RAM": _one(TOP - 32, 32, INDIRECT),
    "INDIRECT together with NEXT": _one(0x8000_0000, 32, INDIRECT | NEXT, 1),
    "a head beyond the table": _head(0xFFFF),
}


def check_hostile_chains(subject: Subject) -> None:
    """Whatever a driver writes to its rings, the device raises nothing, stays within what it was
    given, and works again after a reset.
    """
    if not subject.virtio:
        return
    for name, hostile in HOSTILE.items():
        for index in range(len(subject.make().device.queues)):
            _try(subject, name, hostile, index)


def _try(subject: Subject, name: str, hostile: Hostile, index: int) -> None:
    specimen = subject.make(FILLS[0])
    driver, queues = specimen.driver()
    queue = queues[index]
    head, granted = hostile(driver, queue)
    queue.make_available(head)
    where = f"queue {index}, {name}"
    before = specimen.ram_bytes()
    with blame(where):
        queue.kick()
        specimen.bench.advance(SETTLE_NS)
    _compare(specimen, before, [*_rings(queues), *granted], where)
    # 2.7.13: an index that jumps ahead.
    queue.ram.store(queue.available + 2, 2, 0x8000)
    with blame(f"{where}, then an available index far ahead"):
        queue.kick()
        specimen.bench.advance(SETTLE_NS)
    specimen.snapshot()
    with blame(f"a reset after {where}"):
        specimen.driver()


def check_dma(subject: Subject) -> None:
    """A device writes to the writable buffers of its chains only, and what it says depends on the
    readable ones only: never on RAM that it was not given.
    """
    if not subject.virtio or subject.device_type.live:
        return
    specimens = [subject.make(fill) for fill in FILLS]
    ends = [specimen.driver() for specimen in specimens]
    rng = random.Random(2)
    for _ in range(REQUESTS):
        index = rng.randrange(len(specimens[0].device.queues))
        readable, writable = random_chain(rng)
        indirect = rng.random() < 0.2
        images = []
        if any(len(queues[index].free) < 8 for _, queues in ends):
            continue
        for specimen, (_, queues) in zip(specimens, ends, strict=True):
            queue = queues[index]
            with blame("a chain that keeps to the rules"):
                head = queue.add(readable, writable, indirect)
                before = specimen.ram_bytes()
                queue.kick()
                specimen.bench.advance(SETTLE_NS)
            buffers = [
                (at, size)
                for each in queues
                for _, chain in each.outstanding.values()
                for at, size, is_writable in chain
                if is_writable
            ]
            where = f"a chain at head {head} of queue {index}"
            _compare(specimen, before, [*_rings(queues), *buffers], where)
            images.append((before, specimen.ram_bytes(), buffers))
            with blame("the used ring"):
                queue.collect()
        _same_answers(images, index)


def _same_answers(images: list[tuple[bytes, bytes, list[Interval]]], index: int) -> None:
    (before1, after1, buffers), (before2, after2, _) = images
    for address, length in buffers:
        at = address - 0x8000_0000
        one, two = after1[at : at + length], after2[at : at + length]
        if one == two:
            continue
        for n in range(length):
            untouched = one[n] == before1[at + n] and two[n] == before2[at + n]
            assert untouched or one[n] == two[n], (
                f"queue {index}: byte {n} of a buffer depends on RAM that the device was not given"
            )


def _rings(queues: list[DriverQueue]) -> list[Interval]:
    return [(queue.used, 6 + 8 * queue.size) for queue in queues]


def _compare(specimen: Specimen, before: bytes, granted: list[Interval], where: str) -> None:
    """AssertionError when RAM changed elsewhere than in ``granted``."""
    base = int(specimen.bench.ram.base)
    images = []
    for raw in (before, specimen.ram_bytes()):
        image = bytearray(raw)
        for address, length in granted:
            image[address - base : address - base + length] = bytes(length)
        images.append(image)
    if images[0] != images[1]:
        at = next(n for n in range(RAM_BYTES) if images[0][n] != images[1][n])
        raise AssertionError(
            f"{where}: the device wrote to {base + at:#x}, which is not its to write"
        )
