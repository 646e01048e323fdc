"""The MMIO transport against virtio 1.2, clause by clause."""

from __future__ import annotations

import json

import pytest

from asyncvmm.base.errors import ConfigError
from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm.testing.virtio_driver import (
    ACKNOWLEDGE,
    DRIVER,
    DRIVER_OK,
    FEATURES_OK,
    NEEDS_RESET,
    VirtioDriver,
)
from asyncvmm.virtio import F_VERSION_1, NoDevice, VirtioDevice, VirtioMmio


class Plain(VirtioDevice):
    """A device with two queues, one feature of its own and a writable configuration byte."""

    def __init__(self, bench: DeviceBench) -> None:
        super().__init__(bench.io, 42, [16, 4], features=1 << 5, config=bytes(range(1, 11)))
        self.activations = 0

    def activated(self) -> None:
        self.activations += 1

    def write_config(self, offset: int, size: int, value: int) -> None:
        if offset == 0 and size == 1:
            self.config[0] = value


class Setup:
    def __init__(self) -> None:
        self.bench = DeviceBench()
        self.device = Plain(self.bench)
        self.target = VirtioMmio(self.bench.io, self.device)
        self.target.reset()
        self.driver = VirtioDriver(self.target, self.bench.ram)


@pytest.fixture
def setup() -> Setup:
    return Setup()


def test_virtio_4_2_2_identification(setup: Setup) -> None:
    assert [setup.driver.register(at) for at in (0, 4, 8)] == [0x74726976, 2, 42]
    assert setup.driver.register(0x0C) != 0


def test_virtio_4_2_3_1_1_an_empty_slot_has_device_id_zero() -> None:
    bench = DeviceBench()
    target = VirtioMmio(bench.io, NoDevice(bench.io))
    target.reset()
    assert [target.read(at, 4) for at in (0, 4, 8)] == [0x74726976, 2, 0]


def test_virtio_2_2_features_by_selector(setup: Setup) -> None:
    assert setup.driver.offered == 1 << 5 | 1 << 28 | 1 << 29 | 1 << 32
    setup.driver.set_register(0x14, 2)
    assert setup.driver.register(0x10) == 0


def test_virtio_2_2_2_features_not_offered_are_refused(setup: Setup) -> None:
    assert not setup.driver.negotiate(F_VERSION_1 | 1 << 6)
    assert not setup.driver.negotiate(1 << 5)
    assert setup.driver.negotiate(F_VERSION_1)


def test_virtio_3_1_1_features_are_final_after_features_ok(setup: Setup) -> None:
    setup.driver.start(F_VERSION_1)
    setup.driver.set_register(0x24, 0)
    setup.driver.set_register(0x20, 1 << 5)
    assert setup.device.negotiated == F_VERSION_1
    assert setup.device.activations == 1


def test_virtio_3_1_1_driver_ok_without_features_ok(setup: Setup) -> None:
    for value in (0, ACKNOWLEDGE, ACKNOWLEDGE | DRIVER, ACKNOWLEDGE | DRIVER | DRIVER_OK):
        setup.driver.set_register(0x70, value)
    assert setup.driver.status & NEEDS_RESET
    assert setup.device.activations == 0


def test_virtio_2_1_status_reads_back_and_needs_reset_cannot_be_cleared(setup: Setup) -> None:
    setup.driver.start()
    assert setup.driver.status == ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK
    setup.device.fail("test")
    assert setup.driver.take_interrupts() == 2
    setup.driver.set_register(0x70, ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK)
    assert setup.driver.status & NEEDS_RESET
    setup.driver.set_register(0x70, 0)
    assert setup.driver.status == 0


def test_virtio_2_4_reset_puts_everything_back(setup: Setup) -> None:
    setup.driver.start()
    setup.device.used_buffers()
    for _ in range(2):
        setup.driver.set_register(0x70, 0)
        assert setup.driver.register(0x60) == 0
        assert setup.driver.register(0x44) == 0
        assert not setup.bench.irq


def test_virtio_4_2_2_queue_registers(setup: Setup) -> None:
    for index, maximum in ((0, 16), (1, 4), (2, 0), (0xFFFFFFFF, 0)):
        setup.driver.set_register(0x30, index)
        assert setup.driver.register(0x34) == maximum
        assert setup.driver.register(0x44) == 0
    setup.driver.set_register(0x38, 8)
    setup.driver.set_register(0x44, 1)
    setup.driver.set_register(0x50, 77)
    assert setup.driver.status == 0


def test_virtio_4_2_2_2_a_ready_queue_keeps_its_addresses(setup: Setup) -> None:
    setup.driver.start()
    before = setup.device.queues[1].save()
    setup.driver.set_register(0x30, 1)
    for offset in (0x38, 0x80, 0x84, 0x90, 0x94, 0xA0, 0xA4):
        setup.driver.set_register(offset, 0x40)
    assert setup.device.queues[1].save() == before
    setup.driver.set_register(0x44, 0)
    assert setup.driver.register(0x44) == 0


def test_virtio_4_2_2_interrupt_status_and_acknowledge(setup: Setup) -> None:
    setup.driver.start()
    setup.device.used_buffers()
    setup.device.config_changed()
    assert setup.driver.register(0x60) == 3
    setup.driver.set_register(0x64, 1)
    assert (setup.driver.register(0x60), setup.bench.irq) == (2, True)
    setup.driver.set_register(0x64, 2)
    assert (setup.driver.register(0x60), setup.bench.irq) == (0, False)


def test_virtio_2_5_config_space_in_any_width_and_its_generation(setup: Setup) -> None:
    assert [setup.driver.config(at, 1) for at in range(12)] == [*range(1, 11), 0, 0]
    assert setup.driver.config(0, 8) == int.from_bytes(bytes(range(1, 9)), "little")
    assert setup.driver.config(2, 2) == 0x0403
    assert setup.driver.config(0xEF8, 8) == 0
    setup.target.write(0x100, 1, 0x99)
    assert setup.driver.config(0, 4) == 0x0403_0299
    before = setup.driver.register(0xFC)
    setup.device.config_changed()
    assert setup.driver.register(0xFC) != before
    assert not setup.bench.irq  # 2.3: nobody listens before DRIVER_OK


def test_virtio_4_2_2_1_no_shared_memory(setup: Setup) -> None:
    setup.driver.set_register(0xAC, 0)
    assert [setup.driver.register(at) for at in (0xB0, 0xB4)] == [0xFFFFFFFF] * 2


def test_reserved_offsets_read_zero_and_ignore_writes(setup: Setup) -> None:
    for offset in (0x18, 0x28, 0x3C, 0x40, 0x54, 0x74, 0xC0, 0xF8):
        setup.driver.set_register(offset, 0xFFFFFFFF)
        assert setup.driver.register(offset) == 0


def test_snapshot_is_plain_data_and_goes_on(setup: Setup) -> None:
    setup.driver.start(F_VERSION_1)
    setup.device.used_buffers()
    saved = json.loads(json.dumps(setup.target.save()))
    setup.target.reset()
    setup.target.load(saved)
    assert setup.target.save() == saved
    assert setup.bench.irq
    assert setup.device.has(F_VERSION_1)
    assert all(queue.live for queue in setup.device.queues)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("version",), 2),
        (("device",), None),
        (("registers", "queue_sel"), -1),
        (("device", "status"), 256),
        (("device", "negotiated"), 1 << 40),
        (("device", "interrupt_status"), "1"),
        (("device", "queues"), []),
        (("device", "queues", 0), 5),
        (("device", "queues", 0, "size"), 3),
        (("device", "queues", 0, "descriptors"), 0x1000),
        (("device", "queues", 0, "used"), 1 << 64),
        (("device", "queues", 1, "next_used"), 1 << 16),
        (("device", "queues", 1, "in_flight"), [0, 0]),
        (("device", "queues", 1, "in_flight"), [99]),
        (("device", "queues", 1, "ready"), 1),
    ],
)
def test_bad_saved_state_is_refused_and_changes_nothing(
    setup: Setup, place: tuple[object, ...], value: object
) -> None:
    setup.driver.start()
    before = json.dumps(setup.target.save())
    saved = json.loads(before)
    inner = saved
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    with pytest.raises(ConfigError):
        setup.target.load(saved)
    assert json.dumps(setup.target.save()) == before
