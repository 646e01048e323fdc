"""The base class of virtio devices: status, features, configuration space, queues (2.1 to 2.5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final, cast

from mypy_extensions import mypyc_attr

from asyncvmm.base.errors import ConfigError, GuestError
from asyncvmm.device.io import DeviceIo
from asyncvmm.device.mmio import load_state
from asyncvmm.virtio.chain import Chain
from asyncvmm.virtio.queue import QueueOwner, VirtQueue

# Device status (2.1).
ACKNOWLEDGE: Final = 1
DRIVER: Final = 2
DRIVER_OK: Final = 4
FEATURES_OK: Final = 8
DEVICE_NEEDS_RESET: Final = 64
FAILED: Final = 128

# Feature bits of every device here (6).
F_INDIRECT_DESC: Final = 1 << 28
F_EVENT_IDX: Final = 1 << 29
F_VERSION_1: Final = 1 << 32
COMMON_FEATURES: Final = (1 << 28) | (1 << 29) | (1 << 32)

# Interrupt status of the MMIO and PCI transports (4.2.2).
INTERRUPT_USED: Final = 1
INTERRUPT_CONFIG: Final = 2


@mypyc_attr(allow_interpreted_subclasses=True)
class VirtioDevice(QueueOwner):
    """A virtio device without its transport.

    A subclass passes its ``device_id`` (5), its own ``features`` and its ``queue_sizes``, fills
    ``config`` (the configuration space) and overrides ``handle``. A GuestError out of ``handle``,
    ``notified`` or ``activated`` means a driver that broke the rules: the device then needs a
    reset.

    Life: created -> ``reset`` -> features negotiated -> ``activated`` -> (``handle`` |
    ``notified`` | ``write_config``)* -> ``reset`` -> ... Nothing is popped before ``activated``.

    Status, features and queues are in snapshots by themselves, chains in flight included. What else
    a device has to keep is an attrs class in ``state_type``, as for ``MmioDevice``.
    """

    state_type: ClassVar[Any] = None

    def __init__(
        self,
        io: DeviceIo,
        device_id: int,
        queue_sizes: Sequence[int],
        features: int = 0,
        config: bytes = b"",
    ) -> None:
        self.io: DeviceIo = io
        self.device_id: int = device_id
        self.features: int = features | COMMON_FEATURES
        self.config: bytearray = bytearray(config)
        self.queues: list[VirtQueue] = []
        for size in queue_sizes:
            self.queues.append(VirtQueue(len(self.queues), size, io.dma, self))
        self.status: int = 0
        self.negotiated: int = 0
        self.interrupt_status: int = 0
        self.config_generation: int = 0

    # What a device author overrides.

    def handle(self, queue: VirtQueue, chain: Chain) -> None:
        """One request: read and write the chain, then ``queue.complete`` it, now or later."""
        raise GuestError(f"queue {queue.index} of this device takes no requests")

    def notified(self, queue: VirtQueue) -> None:
        """The driver made buffers available: ``handle`` each of them.

        Override it for queues whose buffers wait for something, such as received data. Work is
        bounded: the chains counted at the start, whatever the driver does to its rings meanwhile.
        """
        left = queue.pending()
        queue.hold_signals()
        while left > 0:
            chain = queue.pop()
            if chain is None:
                break
            self.handle(queue, chain)
            left -= 1
        queue.release_signals()

    def activated(self) -> None:
        """The driver is ready (DRIVER_OK); ``negotiated`` is final."""

    def read_config(self, offset: int, size: int) -> int:
        """``size`` bytes of the configuration space; zeros beyond its end."""
        return int.from_bytes(self.config[offset : offset + size], "little")

    def write_config(self, offset: int, size: int, value: int) -> None:
        """The driver writes the configuration space; ignored here."""

    def reset(self) -> None:
        """Initial state (2.4). Idempotent; a subclass extends it."""
        self.status = 0
        self.negotiated = 0
        self.interrupt_status = 0
        for queue in self.queues:
            queue.reset()
        self.io.inbox.clear()
        self.io.irq.set(False)

    def state(self) -> Any:
        """What the device has besides status and queues, as a ``state_type``."""
        return None

    def restore(self, state: Any) -> None:
        """Become what ``state`` says; status, queues and virtual time were restored before."""

    def fdt_properties(self) -> dict[str, Any]:
        """What the device has to say in its device tree node, besides what the transport knows."""
        return {}

    # What a device author calls.

    def has(self, feature: int) -> bool:
        """Whether the feature mask was negotiated (never before FEATURES_OK)."""
        return self.status & FEATURES_OK != 0 and self.negotiated & feature == feature

    @property
    def active(self) -> bool:
        """Whether the driver is ready and nothing is broken."""
        return self.status & (DRIVER_OK | DEVICE_NEEDS_RESET) == DRIVER_OK

    def config_changed(self) -> None:
        """The configuration space changed: tell the driver (2.3, 2.5)."""
        self.config_generation = (self.config_generation + 1) & 0xFFFFFFFF
        if self.status & DRIVER_OK:
            self._interrupt(INTERRUPT_CONFIG)

    def fail(self, message: str) -> None:
        """The driver broke the rules: DEVICE_NEEDS_RESET and a configuration interrupt (2.1.2)."""
        if self.status & DEVICE_NEEDS_RESET:
            return
        self.status |= DEVICE_NEEDS_RESET
        for queue in self.queues:
            queue.live = False
        self.io.log(f"the driver broke the rules, the device needs a reset: {message}")
        if self.status & DRIVER_OK:
            self._interrupt(INTERRUPT_CONFIG)

    # What a transport calls.

    def set_status(self, value: int) -> None:
        """The driver writes a non-zero status (3.1.1)."""
        accepted = value & 0xFF & ~DEVICE_NEEDS_RESET | (self.status & DEVICE_NEEDS_RESET)
        if self.status & FEATURES_OK:
            accepted |= FEATURES_OK
        elif accepted & FEATURES_OK and not self._features_accepted():
            # 2.2.2: the device must not accept what it did not offer.
            accepted &= ~FEATURES_OK
        begins = accepted & ~self.status & DRIVER_OK
        if begins and not accepted & FEATURES_OK:
            self.fail("DRIVER_OK without FEATURES_OK (3.1.1)")
            return
        self.status = accepted
        if begins and not accepted & DEVICE_NEEDS_RESET:
            self._activate()

    def _features_accepted(self) -> bool:
        return self.negotiated & ~self.features == 0 and self.negotiated & F_VERSION_1 != 0

    def _activate(self) -> None:
        self._set_live()
        try:
            self.activated()
        except GuestError as error:
            self.fail(str(error))
        # Drivers may have filled queues before they were ready.
        for queue in self.queues:
            if queue.live:
                self.notify(queue.index)

    def _set_live(self) -> None:
        for queue in self.queues:
            queue.event_index = self.negotiated & F_EVENT_IDX != 0
            queue.indirect = self.negotiated & F_INDIRECT_DESC != 0
            queue.live = queue.ready and self.active

    def set_queue_ready(self, queue: VirtQueue, ready: bool) -> None:
        """The driver starts or stops a queue (4.2.2)."""
        if not ready:
            queue.reset()
            return
        try:
            queue.enable()
        except GuestError as error:
            self.fail(str(error))
            return
        self._set_live()

    def notify(self, index: int) -> None:
        """The driver rings the bell of queue ``index`` (2.7.9); bells of no queue are ignored."""
        if index >= len(self.queues):
            return
        queue = self.queues[index]
        if not queue.live:
            return
        try:
            self.notified(queue)
        except GuestError as error:
            self.fail(str(error))

    def acknowledge(self, bits: int) -> None:
        """The driver has seen these interrupts."""
        self.interrupt_status &= ~bits
        self.io.irq.set(self.interrupt_status != 0)

    def used_buffers(self) -> None:
        """A queue asks for an interrupt."""
        self._interrupt(INTERRUPT_USED)

    def _interrupt(self, bits: int) -> None:
        self.interrupt_status |= bits
        self.io.irq.set(True)

    # Snapshots.

    def save(self) -> dict[str, object]:
        """Plain data with a version; a subclass with state of its own adds to it."""
        saved: dict[str, object] = {
            "version": 1,
            "status": self.status,
            "negotiated": self.negotiated,
            "interrupt_status": self.interrupt_status,
            "config_generation": self.config_generation,
            "queues": [queue.save() for queue in self.queues],
        }
        if getattr(self, "state_type", None) is not None:
            saved["state"] = self.state().save()
        return saved

    def check_saved(self, saved: dict[str, object]) -> None:
        """ConfigError unless ``saved`` can be loaded; a subclass checks its own part as well."""
        if saved.get("version") != 1:
            raise ConfigError(f"{self.io.path}: saved state of an unknown version")
        for name in ("status", "negotiated", "interrupt_status", "config_generation"):
            value = saved.get(name)
            if type(value) is not int or value < 0 or value >= 1 << 64:
                raise ConfigError(f"{self.io.path}: saved {name} is {value!r}")
        # Before FEATURES_OK it is only what the driver wrote.
        agreed = cast(int, saved["status"]) & FEATURES_OK != 0
        if agreed and cast(int, saved["negotiated"]) & ~self.features:
            raise ConfigError(f"{self.io.path}: saved features are not those of this device")
        if cast(int, saved["status"]) > 0xFF or cast(int, saved["interrupt_status"]) > 3:
            raise ConfigError(f"{self.io.path}: saved status is not possible")
        queues = saved.get("queues")
        if not isinstance(queues, list) or len(queues) != len(self.queues):
            raise ConfigError(f"{self.io.path}: saved queues are not those of this device")
        for number in range(len(queues)):
            scratch = VirtQueue(number, self.queues[number].max_size, self.io.dma, QueueOwner())
            if not isinstance(queues[number], dict):
                raise ConfigError(f"{self.io.path}: saved queue {number} is not a mapping")
            scratch.load(queues[number])
        load_state(self, saved)

    def load(self, saved: dict[str, object]) -> None:
        """Take back what ``save`` gave, into a device just reset; ConfigError, with nothing
        changed.
        """
        self.check_saved(saved)
        self.status = cast(int, saved["status"])
        self.negotiated = cast(int, saved["negotiated"])
        self.interrupt_status = cast(int, saved["interrupt_status"])
        self.config_generation = cast(int, saved["config_generation"])
        queues = cast(list[dict[str, object]], saved["queues"])
        for number in range(len(queues)):
            self.queues[number].load(queues[number])
        self._set_live()
        self.io.irq.set(self.interrupt_status != 0)
        state = load_state(self, saved)
        if state is not None:
            self.restore(state)

    def resume(self) -> None:
        """After ``load`` of the whole machine: take up the requests that were in flight. What the driver
        has made available since its last bell waits for the next one, as it did before.
        """
        for queue in self.queues:
            if queue.interrupted:
                queue.known_only = True
                try:
                    self.notify(queue.index)
                finally:
                    queue.known_only = False


class BrokenDevice(VirtioDevice):
    """What is left of a device whose own code has failed: it shows that it needs a reset (2.1.2),
    serves nothing, and after a reset accepts no features, so that drivers give it up.
    """

    def __init__(self, device: VirtioDevice) -> None:
        sizes = [queue.max_size for queue in device.queues]
        super().__init__(device.io, device.device_id, sizes, 0, bytes(device.config))
        self.features = device.features
        self.status = device.status | DEVICE_NEEDS_RESET
        self.negotiated = device.negotiated
        self.interrupt_status = device.interrupt_status
        self.config_generation = device.config_generation
        if self.status & DRIVER_OK:
            self._interrupt(INTERRUPT_CONFIG)

    def _features_accepted(self) -> bool:
        return False


class NoDevice(VirtioDevice):
    """What a transport without a device shows: device id 0, which drivers skip (4.2.2)."""

    def __init__(self, io: DeviceIo) -> None:
        super().__init__(io, 0, [])
