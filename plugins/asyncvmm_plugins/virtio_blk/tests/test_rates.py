"""Requests that wait: for the host's rate, and for the disk's own speed."""

from __future__ import annotations

import random
import struct
from pathlib import Path

from asyncvmm.device import IoRate, MemoryBlob
from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm.testing.virtio_driver import VirtioDriver
from asyncvmm.virtio import VirtioMmio
from asyncvmm_plugins.virtio_blk.config import VirtioBlkConfig
from asyncvmm_plugins.virtio_blk.device import VirtioBlk
from asyncvmm_plugins.virtio_blk.requests import WORK_BURST_NS, WORK_BYTES_PER_NS

IN, OUT, FLUSH, WRITE_ZEROES = 0, 1, 4, 13
MS = 1_000_000


class OneAMillisecond(IoRate):
    """Reads are free, writes take a millisecond each, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.free_at = 0

    def take(self, now_ns: int, size_bytes: int, write: bool) -> int:
        if not write:
            return now_ns
        self.free_at = max(self.free_at, now_ns) + MS
        return self.free_at


class Disk:
    """A disk and its driver, in virtual time."""

    def __init__(self, rate: IoRate | None = None, size: int = 64 * 512) -> None:
        self.bench = DeviceBench(ram_size=64 << 20)
        self.blob = MemoryBlob(random.Random(3).randbytes(size))
        self.bench.io.blob = self.blob
        if rate is not None:
            self.bench.io.rate = rate
        self.device = VirtioBlk(VirtioBlkConfig(Path("disk")), self.bench.io)
        self.target = VirtioMmio(self.bench.io, self.device)
        self.target.reset()
        self.driver = VirtioDriver(self.target, self.bench.ram)
        (self.queue,) = self.driver.start()

    def add(self, kind: int, sector: int = 0, out: bytes = b"", room: int = 0) -> int:
        """Make a request available; its head."""
        header = struct.pack("<IIQ", kind, 0, sector)
        return self.queue.add([header, out] if out else [header], [room, 1] if room else [1])

    def done(self) -> list[int]:
        """The heads that came back since the last call, in order."""
        return [used.head for used in self.queue.collect()]


def test_requests_wait_in_order_and_a_flush_waits_for_the_writes_before_it() -> None:
    disk = Disk(OneAMillisecond())
    heads = [disk.add(OUT, n, out=bytes([n]) * 512) for n in (1, 2)]
    heads += [disk.add(FLUSH), disk.add(IN, 2, room=512)]
    disk.queue.kick()
    assert disk.done() == [] and disk.blob.flushes == 0
    disk.bench.advance(MS - 1)
    assert disk.done() == []
    disk.bench.advance(1)
    assert disk.done() == heads[:1] and disk.bench.irq
    disk.bench.advance(MS)
    used = disk.queue.collect()
    assert [entry.head for entry in used] == heads[1:]
    assert used[-1].data == bytes([2]) * 512 + b"\0"
    assert disk.blob.flushes == 1


def test_a_reset_forgets_what_waits() -> None:
    disk = Disk(OneAMillisecond())
    before = bytes(disk.blob.contents)
    disk.add(OUT, 1, out=bytes(512))
    disk.queue.kick()
    disk.target.write(0x70, 4, 0)
    disk.bench.advance(10 * MS)
    assert bytes(disk.blob.contents) == before


def test_requests_in_flight_keep_their_time_over_a_snapshot() -> None:
    disk = Disk(OneAMillisecond())
    heads = [disk.add(OUT, n, out=bytes([n]) * 512) for n in (1, 2)]
    disk.queue.kick()
    saved = disk.target.save()
    disk.bench.io.rate = IoRate()  # another host, another rate
    disk.target.reset()
    disk.target.load(saved)
    assert disk.target.save() == saved
    disk.target.resume()
    disk.bench.advance(MS)
    assert disk.done() == heads[:1]
    disk.bench.advance(MS)
    assert disk.done() == heads[1:]


def test_a_flood_takes_virtual_time() -> None:
    disk = Disk(size=8 << 20)
    zeroes = struct.pack("<QII", 0, 8192, 0)
    heads = [disk.add(WRITE_ZEROES, out=zeroes * 32) for _ in range(4)]
    disk.queue.kick()
    assert disk.done() == []
    one_ns = (32 * 8192 * 512) // WORK_BYTES_PER_NS
    disk.bench.advance(one_ns - WORK_BURST_NS + MS)
    assert disk.done() == heads[:1]
    disk.bench.advance(3 * one_ns)
    assert disk.done() == heads[1:]
