"""The balloon against virtio 1.2, 5.5."""

from __future__ import annotations

import json
import random
import struct

from hypothesis import given
from hypothesis import strategies as st

from asyncvmm.testing import DeviceConformance
from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm.testing.virtio_driver import NEEDS_RESET, VirtioDriver
from asyncvmm.virtio import VirtioMmio
from asyncvmm_plugins.virtio_balloon.config import VirtioBalloonConfig
from asyncvmm_plugins.virtio_balloon.device import VirtioBalloon
from asyncvmm_plugins.virtio_balloon.hooks import asyncvmm_device_types
from asyncvmm_plugins.virtio_balloon.tests.fuzz import fuzz_one

BASE = 0x8000_0000


class TestVirtioBalloon(DeviceConformance):
    device_type = asyncvmm_device_types()[0]


class TestWithoutStatistics(DeviceConformance):
    device_type = asyncvmm_device_types()[0]
    options = {"statistics": "no", "size": "64K"}


class Guest:
    def __init__(self, config: VirtioBalloonConfig | None = None) -> None:
        self.bench = DeviceBench()
        self.ram = self.bench.ram
        self.device = VirtioBalloon(config or VirtioBalloonConfig(), self.bench.io)
        self.balloon = self.bench.io.balloon
        self.target = VirtioMmio(self.bench.io, self.device)
        self.target.reset()
        self.driver = VirtioDriver(self.target, self.ram)
        self.queues = self.driver.start()

    def fill(self, first: int, count: int) -> None:
        for page in range(first, first + count):
            self.ram.write(BASE + page * 4096, bytes([page % 255 + 1]) * 4096)

    def present(self, first: int, count: int) -> list[int]:
        """Which of these pages take memory."""
        return [page for page in range(first, first + count) if self.ram.kind[page]]

    def frames(self, queue: int, *pages: int) -> None:
        raw = b"".join(struct.pack("<I", (BASE >> 12) + page) for page in pages)
        self.queues[queue].request([raw])


def test_5_5_4_configuration_layout() -> None:
    guest = Guest(VirtioBalloonConfig(size=40960))
    assert guest.driver.register(8) == 5
    assert guest.driver.config(0, 4) == 10
    guest.target.write(0x104, 4, 7)
    assert guest.driver.config(4, 4) == 7 and guest.balloon.actual_bytes == 7 * 4096
    guest.target.write(0x100, 4, 99)
    assert guest.driver.config(0, 4) == 10


def test_a_new_target_is_a_configuration_change() -> None:
    guest = Guest()
    guest.driver.take_interrupts()
    guest.balloon.set_target(1 << 30)
    assert guest.driver.take_interrupts() == 2
    assert guest.driver.config(0, 4) == guest.ram.size // 4096  # no more than there is


def test_inflated_pages_are_gone_and_come_back_as_zeros() -> None:
    guest = Guest()
    guest.fill(100, 10)
    guest.frames(0, 100, 101, 102, 101, 200, 0x7FFF)
    assert guest.present(100, 10) == list(range(103, 110))
    assert guest.balloon.returned_bytes == 3 * 4096
    assert guest.ram.read(BASE + 101 * 4096, 8) == bytes(8)
    assert guest.ram.read(BASE + 103 * 4096, 2) == b"hh"
    guest.frames(1, 101)
    guest.ram.write(BASE + 101 * 4096, b"again")
    assert guest.present(100, 10) == [101, *range(103, 110)]


def test_5_5_6_7_reported_pages_are_gone() -> None:
    guest = Guest()
    guest.fill(64, 32)
    queue = guest.queues[3]
    queue.descriptor(0, BASE + 64 * 4096, 16 * 4096, 3, 1)
    queue.descriptor(1, BASE + 80 * 4096 + 100, 3 * 4096, 2, 0)  # two whole pages within
    queue.make_available(0)
    queue.kick()
    assert guest.present(64, 32) == [80, *range(83, 96)]
    assert guest.ram.read(BASE + 80 * 4096, 100) == bytes([81]) * 100


def test_5_5_2_reports_come_in_queue_2_without_statistics() -> None:
    guest = Guest(VirtioBalloonConfig(statistics=False))
    guest.fill(64, 2)
    assert len(guest.queues) == 3
    guest.queues[2].descriptor(0, BASE + 64 * 4096, 2 * 4096, 2, 0)
    guest.queues[2].make_available(0)
    guest.queues[2].kick()
    assert guest.present(64, 2) == []


def test_5_5_6_3_statistics() -> None:
    guest = Guest()
    queue = guest.queues[2]
    guest.balloon.poll()  # before the driver has its buffer there
    queue.add([struct.pack("<HQHQ", 4, 1000, 99, 1)])
    queue.kick()
    assert guest.balloon.statistics == {"free_memory": 1000}
    (used,) = queue.collect()
    assert used.length == 0
    queue.add([struct.pack("<HQHQ", 4, 2000, 5, 9000)])
    queue.kick()
    assert guest.balloon.statistics == {"free_memory": 2000, "total_memory": 9000}
    assert queue.collect() == []
    guest.balloon.poll()
    assert len(queue.collect()) == 1


def test_a_snapshot_has_the_kept_buffer() -> None:
    guest = Guest()
    queue = guest.queues[2]
    queue.add([struct.pack("<HQ", 4, 1000)])
    queue.kick()
    saved = json.loads(json.dumps(guest.target.save()))
    guest.target.reset()
    assert guest.balloon.statistics == {}
    guest.target.load(saved)
    guest.target.resume()
    assert guest.balloon.statistics == {"free_memory": 1000}
    guest.balloon.poll()
    assert len(queue.collect()) == 1


def test_frames_that_are_no_numbers() -> None:
    guest = Guest()
    guest.queues[0].add([b"12345"])
    guest.queues[0].kick()
    assert guest.driver.status & NEEDS_RESET


@given(st.binary(max_size=300))
def test_no_driver_is_an_exception(data: bytes) -> None:
    fuzz_one(data)


def test_no_driver_is_an_exception_at_random() -> None:
    rng = random.Random(5)
    for _ in range(100):
        fuzz_one(rng.randbytes(300 + rng.randrange(4)))
