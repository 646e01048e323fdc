"""The entropy device against virtio 1.2, 5.4."""

from __future__ import annotations

import pytest

from asyncvmm.base.errors import ConfigError
from asyncvmm.device import RandomStream
from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm.testing.virtio_driver import NEEDS_RESET, VirtioDriver
from asyncvmm.virtio import VirtioMmio
from asyncvmm_plugins.virtio_rng.config import VirtioRngConfig
from asyncvmm_plugins.virtio_rng.device import VirtioRng


class Setup:
    def __init__(self) -> None:
        self.bench = DeviceBench(path="guest/rng", seed=5)
        self.target = VirtioMmio(self.bench.io, VirtioRng(VirtioRngConfig(), self.bench.io))
        self.target.reset()
        self.driver = VirtioDriver(self.target, self.bench.ram)
        (self.queue,) = self.driver.start()


def test_virtio_5_4_6_2_buffers_are_filled_from_the_seed() -> None:
    setup = Setup()
    assert setup.driver.register(8) == 4
    stream = RandomStream(5, "guest/rng")
    for sizes in ([16], [1, 7, 64]):
        used = setup.queue.request(writable=sizes)
        assert used.length == sum(sizes)
        assert used.data == stream.bytes(sum(sizes))


def test_virtio_5_4_6_2_a_huge_buffer_gets_a_part() -> None:
    used = Setup().queue.request(writable=[200_000])
    assert used.length == 65536
    assert used.data[65536:] == bytes(200_000 - 65536)


def test_virtio_5_4_6_1_readable_buffers_are_an_error() -> None:
    setup = Setup()
    setup.queue.add([b"x"], [8])
    setup.queue.kick()
    assert setup.driver.status & NEEDS_RESET


def test_snapshot_goes_on_in_the_stream() -> None:
    setup, other = Setup(), Setup()
    setup.queue.request(writable=[10])
    saved = setup.target.save()
    following = setup.queue.request(writable=[10]).data
    other.bench.ram.write(other.bench.ram.base, setup.bench.ram.read(setup.bench.ram.base, 65536))
    other.target.reset()
    other.target.load(saved)
    other.queue.available_index = other.queue.seen_used = 1
    other.driver.allocate(10, 8)
    assert other.queue.request(writable=[10]).data == following
    with pytest.raises(ConfigError):
        other.target.load({**saved, "device": {**saved["device"], "rng": {}}})  # type: ignore[dict-item]
