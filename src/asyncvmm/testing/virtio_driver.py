"""The other side of a virtio device: a small driver that lives in a test.

It follows virtio 1.2 (3.1.1, 4.2.3, 2.7.13) through the transport's registers and RAM only, so what
it can do a guest can do. ``DriverQueue.descriptor`` and ``make_available`` let a test break the
rules.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from asyncvmm.memory.pages import Ram
from asyncvmm.virtio import F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, VirtioMmio

NEXT, WRITE, INDIRECT = 1, 2, 4
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET = 1, 2, 4, 8, 64
COMMON = F_VERSION_1 | F_INDIRECT_DESC | F_EVENT_IDX

Buffer = tuple[int, int, bool]  # address, length, device-writable


@attrs.frozen
class Used:
    """One used ring entry: its head, its ``length`` field and what the writable buffers hold."""

    head: int
    length: int
    data: bytes


class DriverQueue:
    """One virtqueue as its driver sees it."""

    def __init__(self, driver: VirtioDriver, index: int, size: int) -> None:
        self.driver, self.index, self.size = driver, index, size
        self.ram = driver.ram
        self.descriptors = driver.allocate(16 * size, 16)
        self.available = driver.allocate(6 + 2 * size, 2)
        self.used = driver.allocate(6 + 8 * size, 4)
        for address, length in (
            (self.descriptors, 16 * size),
            (self.available, 6 + 2 * size),
            (self.used, 6 + 8 * size),
        ):
            self.ram.write(address, bytes(length))
        self.free = list(range(size))
        self.available_index = 0
        self.seen_used = 0
        self.outstanding: dict[int, tuple[list[int], list[Buffer]]] = {}

    def descriptor(
        self, number: int, address: int, length: int, flags: int, next_: int, table: int = 0
    ) -> None:
        """Write a descriptor, in the queue's table or in the one at ``table``."""
        entry = (table or self.descriptors) + 16 * number
        raw = address.to_bytes(8, "little") + length.to_bytes(4, "little")
        self.ram.write(entry, raw + flags.to_bytes(2, "little") + next_.to_bytes(2, "little"))

    def make_available(self, head: int) -> None:
        """Put ``head`` into the available ring and move the index."""
        self.ram.store(self.available + 4 + 2 * (self.available_index % self.size), 2, head)
        self.available_index = (self.available_index + 1) & 0xFFFF
        self.ram.store(self.available + 2, 2, self.available_index)

    def add(
        self, readable: Sequence[bytes] = (), writable: Sequence[int] = (), indirect: bool = False
    ) -> int:
        """Make a chain available without ringing the bell; returns its head."""
        buffers: list[Buffer] = []
        for data in readable:
            address = self.driver.allocate(len(data), 8)
            self.ram.write(address, data)
            buffers.append((address, len(data), False))
        buffers.extend((self.driver.allocate(size, 8), size, True) for size in writable)
        table = self.driver.allocate(16 * len(buffers), 16) if indirect else 0
        numbers = [self.free.pop(0) for _ in range(1 if indirect else len(buffers))]
        places = list(range(len(buffers))) if indirect else numbers
        for position, (address, length, is_writable) in enumerate(buffers):
            last = position == len(buffers) - 1
            flags = (0 if last else NEXT) | (WRITE if is_writable else 0)
            next_ = 0 if last else places[position + 1]
            self.descriptor(places[position], address, length, flags, next_, table)
        if indirect:
            self.descriptor(numbers[0], table, 16 * len(buffers), INDIRECT, 0)
        self.outstanding[numbers[0]] = (numbers, buffers)
        self.make_available(numbers[0])
        return numbers[0]

    def kick(self) -> None:
        """Ring the bell (4.2.2: QueueNotify)."""
        self.driver.target.write(0x50, 4, self.index)

    def kick_wanted(self) -> bool:
        """With the event index: did the device ask to hear of the last buffer added (2.7.10)?"""
        event = int(self.ram.load(self.used + 4 + 8 * self.size, 2))
        return event == (self.available_index - 1) & 0xFFFF

    def want_interrupt_at(self, index: int) -> None:
        """With the event index: used_event (2.7.7)."""
        self.ram.store(self.available + 4 + 2 * self.size, 2, index & 0xFFFF)

    def suppress_interrupts(self, suppress: bool) -> None:
        """Without the event index: VIRTQ_AVAIL_F_NO_INTERRUPT (2.7.7)."""
        self.ram.store(self.available, 2, 1 if suppress else 0)

    def collect(self) -> list[Used]:
        """What the device gave back since the last call; its descriptors are free again."""
        result: list[Used] = []
        used_index = int(self.ram.load(self.used + 2, 2))
        while self.seen_used != used_index:
            entry = self.used + 4 + 8 * (self.seen_used % self.size)
            head, length = int(self.ram.load(entry, 4)), int(self.ram.load(entry + 4, 4))
            numbers, buffers = self.outstanding.pop(head)
            self.free.extend(numbers)
            data = b"".join(self.ram.read(at, size) for at, size, writable in buffers if writable)
            result.append(Used(head, length, data))
            self.seen_used = (self.seen_used + 1) & 0xFFFF
        return result

    def request(
        self, readable: Sequence[bytes] = (), writable: Sequence[int] = (), indirect: bool = False
    ) -> Used:
        """Add, ring and collect: for devices that answer at once."""
        self.add(readable, writable, indirect)
        self.kick()
        (used,) = self.collect()
        return used


class VirtioDriver:
    """Drives the device behind ``target``; all its memory is taken from ``ram``, never given
    back.
    """

    def __init__(self, target: VirtioMmio, ram: Ram) -> None:
        self.target, self.ram = target, ram
        self.queues: list[DriverQueue] = []
        self._free = int(ram.base)

    def allocate(self, size: int, alignment: int) -> int:
        """The address of fresh memory."""
        address = -(-self._free // alignment) * alignment
        self._free = address + size
        if not self.ram.contains(address, size):
            raise MemoryError("the test driver's RAM is used up")
        return address

    def register(self, offset: int) -> int:
        """Read a 32-bit register."""
        return int(self.target.read(offset, 4))

    def set_register(self, offset: int, value: int) -> None:
        """Write a 32-bit register."""
        self.target.write(offset, 4, value)

    @property
    def status(self) -> int:
        """Device status."""
        return self.register(0x70)

    @property
    def offered(self) -> int:
        """The device's feature bits."""
        self.set_register(0x14, 0)
        low = self.register(0x10)
        self.set_register(0x14, 1)
        return low | self.register(0x10) << 32

    def negotiate(self, features: int | None = None) -> bool:
        """Reset, then features (all offered by default); whether the device keeps FEATURES_OK."""
        for value in (0, ACKNOWLEDGE, ACKNOWLEDGE | DRIVER):
            self.set_register(0x70, value)
        accepted = self.offered if features is None else features
        for select in range(2):
            self.set_register(0x24, select)
            self.set_register(0x20, (accepted >> (32 * select)) & 0xFFFFFFFF)
        self.set_register(0x70, self.status | FEATURES_OK)
        return bool(self.status & FEATURES_OK)

    def setup_queue(self, index: int, size: int | None = None) -> DriverQueue:
        """Give the device a queue (4.2.3.2)."""
        self.set_register(0x30, index)
        queue = DriverQueue(self, index, size or min(self.register(0x34), 64))
        self.set_register(0x38, queue.size)
        for offset, address in (
            (0x80, queue.descriptors),
            (0x90, queue.available),
            (0xA0, queue.used),
        ):
            self.set_register(offset, address & 0xFFFFFFFF)
            self.set_register(offset + 4, address >> 32)
        self.set_register(0x44, 1)
        return queue

    def start(self, features: int | None = None, size: int | None = None) -> list[DriverQueue]:
        """All of 3.1.1 with every queue the device has; returns the queues."""
        if not self.negotiate(features):
            raise AssertionError("the device refused the features")
        self.queues = []
        for index in range(1024):
            self.set_register(0x30, index)
            if self.register(0x34) == 0:
                break
            self.queues.append(self.setup_queue(index, size))
        self.set_register(0x70, self.status | DRIVER_OK)
        return self.queues

    def take_interrupts(self) -> int:
        """InterruptStatus, acknowledged."""
        bits = self.register(0x60)
        self.set_register(0x64, bits)
        return bits

    def config(self, offset: int, size: int) -> int:
        """A field of the configuration space."""
        return int(self.target.read(0x100 + offset, size)) & ((1 << (8 * size)) - 1)
