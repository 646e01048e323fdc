"""Hostile drivers from bytes: every input is a ring of descriptors for one queue of a virtio device.

Contained means that no exception comes out of the transport but the device's own GuestError inside it,
and that no byte changes but those that the driver offered as writable, and the used rings.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm.testing.virtio_driver import INDIRECT, NEXT, WRITE, DriverQueue, VirtioDriver
from asyncvmm.virtio import VirtioDevice, VirtioMmio

BASE: Final = 0x8000_0000
SIZE: Final = 1 << 14
BUFFERS: Final = BASE + 0x2000
BUFFER_BYTES: Final = SIZE - 0x2000 - 64
ENTRIES: Final = 8
ROUNDS: Final = 256  # inputs for one device; then there is a new one
DESCRIPTOR: Final = struct.Struct("<QIHH")
ADDRESSES: Final = (
    BASE, BASE + 0x1000, BASE + SIZE - 1, BASE + SIZE, BASE - 1, 0, (1 << 64) - 1, 1 << 63,
    BUFFERS + BUFFER_BYTES - 1, (1 << 63) - 1,
)  # fmt: skip
LENGTHS: Final = (0, 1, 2, 4, 10, 12, 16, 17, 32, 60, 74, 512, 513, 1024, 1514, 1526, 4096)
WRONG_LENGTHS: Final = (0, SIZE, SIZE + 1, 1 << 31, (1 << 32) - 1)
HEAD_BYTES: Final = 2
ENTRY_BYTES: Final = 6
TAME: Final = 160  # of 256 inputs have few broken rules, so that devices see what is in the buffers
INPUT_BYTES: Final = HEAD_BYTES + ENTRIES * (ENTRY_BYTES + 1)  # what follows is in the buffers


class QueueFuzzer:
    """``run`` gives queue ``index`` of the device from ``make`` what an input spells.

    ``writable`` is what a buffer of this queue usually is for the device: True, False, or None for a
    request of both. ``start`` does what a driver does first, once a device. ``before`` is called
    before each input, when the device has its state, ``after`` when virtual time has passed.
    """

    def __init__(
        self,
        make: Callable[[DeviceBench], VirtioDevice],
        index: int,
        *,
        writable: bool | None = None,
        start: Callable[[list[DriverQueue]], None] | None = None,
        before: Callable[[DeviceBench], None] | None = None,
        after: Callable[[DeviceBench], None] | None = None,
    ) -> None:
        self.index: Final = index
        self._make = make
        self._writable = writable
        self._start = start
        self._before = before
        self._after = after
        self._left = 0
        self._begin()

    def _begin(self) -> None:
        """A new device with a driver that has done all of 3.1.1."""
        self._left = ROUNDS
        self.bench = DeviceBench(ram_base=BASE, ram_size=SIZE)
        self.device = self._make(self.bench)
        self.target = VirtioMmio(self.bench.io, self.device)
        self.target.reset()
        driver = VirtioDriver(self.target, self.bench.ram)
        queues = driver.start(size=ENTRIES)
        self.queue = queues[self.index]
        if self._start is not None:
            self._start(queues)
        self._end_of_rings = driver.allocate(0, 16)
        self._used_rings = [(queue.used, queue.used + 6 + 8 * ENTRIES) for queue in queues]
        self._rings = self.bench.ram.read(BASE, self._end_of_rings - BASE)
        self._saved = self.target.save()

    def run(self, data: bytes) -> None:
        """One input. AssertionError when the device touches what it must not."""
        if self._left == 0:
            self._begin()
        self._left -= 1
        ram = self.bench.ram
        data = data.ljust(INPUT_BYTES, b"\0")
        ram.write(BASE, self._rings)
        self.target.reset()
        self.target.load(self._saved)
        if self._before is not None:
            self._before(self.bench)
        tame = data[1] < TAME
        payload = data[INPUT_BYTES:] or data[HEAD_BYTES:]
        ram.write(BUFFERS, (payload * (BUFFER_BYTES // len(payload) + 1))[:BUFFER_BYTES])
        step = len(payload) if tame else 1
        table = [self._descriptor(data, number, tame, step) for number in range(ENTRIES)]
        ram.write(self.queue.descriptors, b"".join(DESCRIPTOR.pack(*entry) for entry in table))
        ring = data[HEAD_BYTES + ENTRIES * ENTRY_BYTES :][:ENTRIES]
        heads = [head % ENTRIES if tame or head < 240 else head for head in ring]
        if tame:
            # Requests begin with what the device reads.
            starts = ENTRIES // 2 if self._writable is None else ENTRIES
            heads = list(dict.fromkeys(head % starts for head in heads))
        ahead = data[0] % (len(heads) + 1) if tame or data[0] < 250 else data[0] << 8
        heads += [0] * (ENTRIES - len(heads))
        available = struct.pack(f"<HH{ENTRIES}H", data[1] & 1, ahead & 0xFFFF, *heads)
        ram.write(self.queue.available, available)
        spans = self._granted(table)
        before = ram.read(BASE, SIZE) if spans is not None else b""
        self.target.write(0x50, 4, self.index)
        self.bench.advance(20_000_000)
        if self._after is not None:
            self._after(self.bench)
        if spans is not None:
            self._compare(before, ram.read(BASE, SIZE), spans)

    def _descriptor(
        self, data: bytes, number: int, tame: bool, step: int
    ) -> tuple[int, int, int, int]:
        at = HEAD_BYTES + number * ENTRY_BYTES
        place, size, flag = int.from_bytes(data[at : at + 2], "little"), data[at + 2], data[at + 3]
        next_, low = data[at + 4], data[at + 5]
        wild = not tame or low == 255
        address = BUFFERS + place % BUFFER_BYTES // step * step
        length = LENGTHS[1 + size % (len(LENGTHS) - 1)]
        if address + length > BASE + SIZE:
            address = BUFFERS
        if wild and low >= 240:
            address = ADDRESSES[place % len(ADDRESSES)]
        if wild and size >= 245:
            length = WRONG_LENGTHS[size % len(WRONG_LENGTHS)]
        if wild and flag >= 230:
            return address, length, flag & 7, next_ % (ENTRIES + 2)
        if flag >= (252 if tame else 210):
            return address & -16, 16 * (1 + size % 6), INDIRECT, 0
        writes = self._writable if self._writable is not None else number >= ENTRIES // 2
        last = number == ENTRIES - 1 if tame else not flag & 3
        follows = not last and (self._writable is None or bool(flag & 3))
        flags = (NEXT if follows else 0) | (WRITE if writes else 0)
        return address, length, flags, (number + 1) % ENTRIES if next_ < 230 or tame else next_ % 10

    def _granted(self, table: list[tuple[int, int, int, int]]) -> list[tuple[int, int]] | None:
        """What the device may write, at most; None when it may write over what says so."""
        entries = list(table)
        held: list[tuple[int, int]] = [(BASE, self._end_of_rings)]
        for address, length, flags, _ in table:
            if flags & INDIRECT and self.bench.ram.contains(_signed(address), length):
                raw = self.bench.ram.read(address, length)
                whole = len(raw) // DESCRIPTOR.size * DESCRIPTOR.size
                entries += DESCRIPTOR.iter_unpack(raw[:whole])
                held.append((address, address + length))
        spans = [(a, a + n) for a, n, flags, _ in entries if flags & WRITE]
        for begin, end in spans:
            if any(begin < other_end and other_begin < end for other_begin, other_end in held):
                return None
        return spans + self._used_rings

    def _compare(self, before: bytes, after: bytes, spans: list[tuple[int, int]]) -> None:
        old, new = bytearray(before), bytearray(after)
        for begin, end in spans:
            low, high = max(begin - BASE, 0), min(end - BASE, SIZE)
            if low < high:
                old[low:high] = new[low:high] = bytes(high - low)
        if old != new:
            at = next(n for n in range(SIZE) if old[n] != new[n])
            raise AssertionError(f"byte {BASE + at:#x} was not granted and has changed")


def _signed(address: int) -> int:
    return address - (1 << 64) if address >= 1 << 63 else address
