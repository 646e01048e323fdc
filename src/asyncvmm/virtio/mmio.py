"""The MMIO transport, version 2 (4.2): one device behind a block of registers."""

from __future__ import annotations

from typing import Final, cast

from mypy_extensions import i64

from asyncvmm.base.bits import to_signed, to_unsigned
from asyncvmm.base.errors import ConfigError
from asyncvmm.device.io import DeviceIo
from asyncvmm.device.mmio import MmioDevice
from asyncvmm.device.registers import RO, RW, UNKNOWN_IS_ZERO, WO, Register
from asyncvmm.virtio.device import FEATURES_OK, VirtioDevice
from asyncvmm.virtio.queue import VirtQueue

MAGIC: Final = 0x74726976
VERSION: Final = 2
VENDOR: Final = 0x4D4D5641
CONFIG_SPACE: Final = 0x100
NO_SHARED_MEMORY: Final = 0xFFFFFFFF
SIZE_BYTES: Final = 0x1000

_HIGH: Final = 0xFFFFFFFF00000000


def _registers() -> list[Register]:
    """4.2.2, table 4.1. Registers with a ``read_``/``write_`` method below do what that does."""
    return [
        Register("magic_value", 0x000, 4, RO, MAGIC),
        Register("version", 0x004, 4, RO, VERSION),
        Register("device_id", 0x008, 4, RO),
        Register("vendor_id", 0x00C, 4, RO, VENDOR),
        Register("device_features", 0x010, 4, RO),
        Register("device_features_sel", 0x014, 4, WO),
        Register("driver_features", 0x020, 4, WO),
        Register("driver_features_sel", 0x024, 4, WO),
        Register("queue_sel", 0x030, 4, WO),
        Register("queue_num_max", 0x034, 4, RO),
        Register("queue_num", 0x038, 4, WO),
        Register("queue_ready", 0x044, 4, RW),
        Register("queue_notify", 0x050, 4, WO),
        Register("interrupt_status", 0x060, 4, RO),
        Register("interrupt_ack", 0x064, 4, WO),
        Register("status", 0x070, 4, RW),
        Register("queue_desc_low", 0x080, 4, WO),
        Register("queue_desc_high", 0x084, 4, WO),
        Register("queue_driver_low", 0x090, 4, WO),
        Register("queue_driver_high", 0x094, 4, WO),
        Register("queue_device_low", 0x0A0, 4, WO),
        Register("queue_device_high", 0x0A4, 4, WO),
        # No shared memory regions: length -1 (4.2.2.1).
        Register("shm_sel", 0x0AC, 4, WO),
        Register("shm_len_low", 0x0B0, 4, RO, NO_SHARED_MEMORY),
        Register("shm_len_high", 0x0B4, 4, RO, NO_SHARED_MEMORY),
        Register("shm_base_low", 0x0B8, 4, RO, NO_SHARED_MEMORY),
        Register("shm_base_high", 0x0BC, 4, RO, NO_SHARED_MEMORY),
        Register("config_generation", 0x0FC, 4, RO),
    ]


class VirtioMmio(MmioDevice):
    """``device`` behind the register block; the configuration space starts at 0x100.

    Drivers must use whole 32-bit accesses below 0x100 (4.2.2.2); others are served all the same.
    """

    def __init__(self, io: DeviceIo, device: VirtioDevice) -> None:
        super().__init__(io, _registers(), SIZE_BYTES, UNKNOWN_IS_ZERO)
        self.device: VirtioDevice = device

    def read(self, offset: i64, size: i64) -> i64:
        """See MmioDevice."""
        if offset >= CONFIG_SPACE:
            return to_signed(self.device.read_config(int(offset) - CONFIG_SPACE, int(size)))
        return to_signed(self.registers.read(int(offset), int(size)))

    def write(self, offset: i64, size: i64, value: i64) -> None:
        """See MmioDevice."""
        if offset >= CONFIG_SPACE:
            number = to_unsigned(value) & ((1 << (8 * int(size))) - 1)
            self.device.write_config(int(offset) - CONFIG_SPACE, int(size), number)
        else:
            self.registers.write(int(offset), int(size), to_unsigned(value))

    def reset(self) -> None:
        """Reset of the transport and the device (2.4, 4.2.2: status 0)."""
        self.registers.reset()
        self.device.reset()

    def read_device_id(self) -> int:
        """DeviceID."""
        return self.device.device_id

    def read_device_features(self) -> int:
        """DeviceFeatures: 32 of them, by DeviceFeaturesSel."""
        select = self.registers["device_features_sel"]
        return (self.device.features >> (32 * select)) & 0xFFFFFFFF if select < 2 else 0

    def write_driver_features(self, value: int) -> None:
        """DriverFeatures: final once FEATURES_OK is set."""
        select = self.registers["driver_features_sel"]
        device = self.device
        if device.status & FEATURES_OK:
            return
        if select == 0:
            device.negotiated = (device.negotiated & ~0xFFFFFFFF) | value
        elif select == 1:
            device.negotiated = (device.negotiated & 0xFFFFFFFF) | (value << 32)

    def _queue(self) -> VirtQueue | None:
        select = self.registers["queue_sel"]
        return self.device.queues[select] if select < len(self.device.queues) else None

    def _stopped_queue(self) -> VirtQueue | None:
        """The selected queue if its addresses and size may be set (4.2.2.2: not while ready)."""
        queue = self._queue()
        return queue if queue is not None and not queue.ready else None

    def read_queue_num_max(self) -> int:
        """QueueNumMax: 0 for a queue that does not exist."""
        queue = self._queue()
        return queue.max_size if queue is not None else 0

    def write_queue_num(self, value: int) -> None:
        """QueueNum."""
        queue = self._stopped_queue()
        if queue is not None:
            queue.size = value

    def read_queue_ready(self) -> int:
        """QueueReady."""
        queue = self._queue()
        return 1 if queue is not None and queue.ready else 0

    def write_queue_ready(self, value: int) -> None:
        """QueueReady."""
        queue = self._queue()
        if queue is not None and queue.ready != (value & 1 == 1):
            self.device.set_queue_ready(queue, value & 1 == 1)

    def write_queue_notify(self, value: int) -> None:
        """QueueNotify."""
        self.device.notify(value)

    def read_interrupt_status(self) -> int:
        """InterruptStatus."""
        return self.device.interrupt_status

    def write_interrupt_ack(self, value: int) -> None:
        """InterruptACK."""
        self.device.acknowledge(value)

    def read_status(self) -> int:
        """Status."""
        return self.device.status

    def write_status(self, value: int) -> None:
        """Status: zero resets."""
        if value & 0xFF == 0:
            self.reset()
        else:
            self.device.set_status(value)

    def write_queue_desc_low(self, value: int) -> None:
        """QueueDescLow."""
        queue = self._stopped_queue()
        if queue is not None:
            queue.descriptors = to_signed((int(queue.descriptors) & _HIGH) | value)

    def write_queue_desc_high(self, value: int) -> None:
        """QueueDescHigh."""
        queue = self._stopped_queue()
        if queue is not None:
            queue.descriptors = to_signed((int(queue.descriptors) & 0xFFFFFFFF) | (value << 32))

    def write_queue_driver_low(self, value: int) -> None:
        """QueueDriverLow: the available ring."""
        queue = self._stopped_queue()
        if queue is not None:
            queue.available = to_signed((int(queue.available) & _HIGH) | value)

    def write_queue_driver_high(self, value: int) -> None:
        """QueueDriverHigh."""
        queue = self._stopped_queue()
        if queue is not None:
            queue.available = to_signed((int(queue.available) & 0xFFFFFFFF) | (value << 32))

    def write_queue_device_low(self, value: int) -> None:
        """QueueDeviceLow: the used ring."""
        queue = self._stopped_queue()
        if queue is not None:
            queue.used = to_signed((int(queue.used) & _HIGH) | value)

    def write_queue_device_high(self, value: int) -> None:
        """QueueDeviceHigh."""
        queue = self._stopped_queue()
        if queue is not None:
            queue.used = to_signed((int(queue.used) & 0xFFFFFFFF) | (value << 32))

    def read_config_generation(self) -> int:
        """ConfigGeneration."""
        return self.device.config_generation

    def save(self) -> dict[str, object]:
        """The selectors and the device."""
        return {"version": 1, "registers": self.registers.save(), "device": self.device.save()}

    def load(self, saved: dict[str, object]) -> None:
        """See MmioDevice."""
        device = saved.get("device")
        if saved.get("version") != 1 or not isinstance(device, dict):
            raise ConfigError(f"{self.io.path}: saved state of an unknown version")
        self.device.check_saved(cast("dict[str, object]", device))
        self.registers.load(saved.get("registers"))
        self.device.load(cast("dict[str, object]", device))

    def resume(self) -> None:
        """See MmioDevice."""
        self.device.resume()
