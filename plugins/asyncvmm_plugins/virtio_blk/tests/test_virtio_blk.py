"""The block device against virtio 1.2, 5.2."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.device import Blob, MemoryBlob
from asyncvmm.plugin import BlobSpec, split_options
from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm.testing.virtio_driver import NEEDS_RESET, Used, VirtioDriver
from asyncvmm.virtio import F_VERSION_1, VirtioMmio
from asyncvmm_plugins.virtio_blk.config import VirtioBlkConfig
from asyncvmm_plugins.virtio_blk.device import (
    F_CONFIG_WCE,
    F_DISCARD,
    F_FLUSH,
    F_RO,
    F_WRITE_ZEROES,
    VirtioBlk,
)
from asyncvmm_plugins.virtio_blk.hooks import asyncvmm_device_types

SECTORS = 64
OK, IOERR, UNSUPP = 0, 1, 2
IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13


class Disk:
    """A disk of 64 sectors, its driver, and requests by name."""

    def __init__(
        self,
        features: int | None = None,
        read_only: bool = False,
        config: VirtioBlkConfig | None = None,
    ) -> None:
        self.bench = DeviceBench()
        self.contents = random.Random(1).randbytes(SECTORS * 512)
        self.blob = MemoryBlob(self.contents, read_only)
        self.bench.io.blob = self.blob
        self.device = VirtioBlk(
            config or VirtioBlkConfig(Path("disk"), serial="S42"), self.bench.io
        )
        self.target = VirtioMmio(self.bench.io, self.device)
        self.target.reset()
        self.driver = VirtioDriver(self.target, self.bench.ram)
        (self.queue,) = self.driver.start(features)

    def request(
        self, kind: int, sector: int = 0, out: bytes = b"", room: int = 0, indirect: bool = False
    ) -> tuple[int, bytes, Used]:
        """(status, data, used) of one request."""
        header = struct.pack("<IIQ", kind, 0, sector)
        used = self.queue.request(
            [header, out] if out else [header], [room, 1] if room else [1], indirect
        )
        return used.data[-1], used.data[:-1], used


def ranges(*items: tuple[int, int, int]) -> bytes:
    return b"".join(struct.pack("<QII", *item) for item in items)


def test_virtio_5_2_4_configuration_layout() -> None:
    disk = Disk()
    assert disk.driver.register(8) == 2
    assert disk.driver.config(0, 8) == SECTORS
    assert disk.driver.config(12, 4) == 254
    assert disk.driver.config(20, 4) == 512
    assert disk.driver.config(24, 1) == 3
    assert disk.driver.config(32, 1) == 1
    assert disk.driver.config(34, 2) == 1
    assert disk.driver.config(40, 4) == 32
    assert disk.driver.config(44, 4) == 1
    assert disk.driver.config(56, 1) == 1


@pytest.mark.parametrize("indirect", [False, True])
def test_virtio_5_2_6_read_and_write(indirect: bool) -> None:
    disk = Disk()
    status, data, used = disk.request(IN, 3, room=1024, indirect=indirect)
    assert (status, data, used.length) == (OK, disk.contents[1536:2560], 1025)
    status, _, used = disk.request(OUT, 5, out=b"w" * 1536, indirect=indirect)
    assert (status, used.length) == (OK, 1)
    assert disk.blob.contents[2560 : 2560 + 1536] == b"w" * 1536
    assert disk.blob.contents[4096:] == disk.contents[4096:]
    assert disk.blob.contents[:2560] == disk.contents[:2560]


def test_virtio_2_7_4_3_header_and_status_may_share_or_split_buffers() -> None:
    disk = Disk()
    header = struct.pack("<IIQ", IN, 0, 1)
    used = disk.queue.request([header[:5], header[5:]], [100, 413])
    assert used.data == disk.contents[512:1024] + b"\0"
    header = struct.pack("<IIQ", OUT, 0, 1)
    used = disk.queue.request([header + b"z" * 512], [1])
    assert used.data == b"\0"
    assert disk.blob.contents[512:1024] == b"z" * 512


@pytest.mark.parametrize(
    ("sector", "size"),
    [(SECTORS, 512), (SECTORS - 1, 1024), (0, 511), (0, 513), (2**64 - 1, 512), (2**55, 1024)],
)
def test_virtio_5_2_6_2_bad_ranges_are_errors_and_touch_nothing(sector: int, size: int) -> None:
    disk = Disk()
    status, data, _ = disk.request(IN, sector, room=size)
    assert (status, data) == (IOERR, bytes(size))
    assert disk.request(OUT, sector, out=b"x" * size)[0] == IOERR
    assert disk.blob.contents == disk.contents


def test_virtio_5_2_6_2_flush() -> None:
    disk = Disk()
    disk.request(OUT, 0, out=bytes(512))
    assert disk.blob.flushes == 0
    assert disk.request(FLUSH)[0] == OK
    assert disk.blob.flushes == 1


def test_virtio_5_2_6_2_writes_are_durable_at_once_without_flush_feature() -> None:
    disk = Disk(features=F_VERSION_1)
    disk.request(OUT, 0, out=bytes(512))
    assert disk.blob.flushes == 1


def test_virtio_5_2_5_1_writethrough_by_configuration() -> None:
    disk = Disk(features=F_VERSION_1 | F_FLUSH | F_CONFIG_WCE)
    disk.target.write(0x100 + 32, 1, 0)
    flushes = disk.blob.flushes
    disk.request(OUT, 0, out=bytes(512))
    assert disk.blob.flushes == flushes + 1
    disk.target.write(0x100 + 32, 1, 1)
    disk.request(OUT, 0, out=bytes(512))
    assert disk.blob.flushes == flushes + 1


def test_virtio_5_2_6_get_id() -> None:
    disk = Disk()
    assert disk.request(GET_ID, room=20)[:2] == (OK, b"S42".ljust(20, b"\0"))
    assert disk.request(GET_ID, room=19)[0] == IOERR


def test_virtio_5_2_6_discard_and_write_zeroes() -> None:
    disk = Disk()
    assert disk.request(WRITE_ZEROES, out=ranges((2, 3, 0), (10, 1, 1)))[0] == OK
    expected = bytearray(disk.contents)
    expected[1024:2560] = bytes(1536)
    expected[5120:5632] = bytes(512)
    assert disk.blob.contents == expected
    assert disk.request(DISCARD, out=ranges((0, 8, 0)))[0] == OK


@pytest.mark.parametrize(
    ("kind", "data", "status"),
    [
        (DISCARD, ranges((0, 1, 1)), UNSUPP),
        (WRITE_ZEROES, ranges((0, 1, 2)), UNSUPP),
        (WRITE_ZEROES, ranges((SECTORS, 1, 0)), IOERR),
        (WRITE_ZEROES, ranges((2**64 - 1, 2, 0)), IOERR),
        (WRITE_ZEROES, ranges((0, 1, 0), (SECTORS, 1, 0)), IOERR),
        (WRITE_ZEROES, ranges((0, 1, 0))[:15], IOERR),
        (DISCARD, ranges(*[(0, 1, 0)] * 33), IOERR),
        (DISCARD, b"", IOERR),
    ],
)
def test_virtio_5_2_6_2_bad_discards_touch_nothing(kind: int, data: bytes, status: int) -> None:
    disk = Disk()
    assert disk.request(kind, out=data)[0] == status
    assert disk.blob.contents == disk.contents


def test_virtio_5_2_6_2_discard_needs_its_feature() -> None:
    disk = Disk(features=F_VERSION_1)
    assert disk.request(DISCARD, out=ranges((0, 1, 0)))[0] == UNSUPP
    assert disk.request(WRITE_ZEROES, out=ranges((0, 1, 0)))[0] == UNSUPP


def test_virtio_5_2_6_unknown_request() -> None:
    assert Disk().request(99)[0] == UNSUPP


@pytest.mark.parametrize("by_blob", [False, True])
def test_virtio_5_2_6_2_read_only(by_blob: bool) -> None:
    config = VirtioBlkConfig(Path("disk"), readonly=not by_blob)
    disk = Disk(read_only=by_blob, config=config)
    assert disk.driver.offered & (F_RO | F_DISCARD | F_WRITE_ZEROES) == F_RO
    assert disk.request(OUT, 0, out=bytes(512))[0] == IOERR
    assert disk.request(IN, 0, room=512)[:2] == (OK, disk.contents[:512])
    assert disk.request(FLUSH)[0] == OK
    assert disk.blob.contents == disk.contents


@pytest.mark.parametrize(
    ("readable", "writable"), [([b"short"], [1]), ([bytes(16)], []), ([bytes(15)], [1])]
)
def test_virtio_5_2_6_1_requests_without_header_or_status(
    readable: list[bytes], writable: list[int]
) -> None:
    disk = Disk()
    disk.queue.add(readable, writable)
    disk.queue.kick()
    assert disk.driver.status & NEEDS_RESET


class FailingBlob(Blob):
    """A host disk that breaks."""

    def __init__(self) -> None:
        super().__init__(SECTORS * 512, False)

    def pread(self, offset: int, length: int) -> bytes:
        raise BackendError("the host's disk is broken")


def test_a_failing_host_is_an_io_error_of_the_guest() -> None:
    disk = Disk()
    disk.device.blob = FailingBlob()
    status, data, used = disk.request(IN, 0, room=512)
    assert (status, data, used.length) == (IOERR, bytes(512), 0)
    assert "broken" in disk.bench.io.messages[-1]


def test_large_requests_arrive_whole() -> None:
    bench = DeviceBench(ram_size=16 << 20)
    contents = random.Random(2).randbytes(4 << 20)
    bench.io.blob = MemoryBlob(contents)
    target = VirtioMmio(bench.io, VirtioBlk(VirtioBlkConfig(Path("d")), bench.io))
    target.reset()
    driver = VirtioDriver(target, bench.ram)
    (queue,) = driver.start()
    used = queue.request([struct.pack("<IIQ", IN, 0, 0)], [1 << 20] * 3 + [(1 << 20) + 1])
    assert used.data == contents + b"\0"


def test_snapshot_needs_the_same_capacity() -> None:
    disk = Disk()
    disk.target.write(0x100 + 32, 1, 0)
    saved = disk.target.save()
    other = Disk()
    other.target.reset()
    other.target.load(saved)
    assert other.target.save() == saved
    assert not other.device.writeback
    device = saved["device"]
    assert isinstance(device, dict)
    bad = {**saved, "device": {**device, "blk": {**device["blk"], "capacity_sectors": 1}}}
    with pytest.raises(ConfigError, match="1 sectors"):
        other.target.load(bad)


def test_options() -> None:
    (kind,) = asyncvmm_device_types()
    name, options = split_options("virtio-blk,path=disk.img,readonly,serial=abc,queue-size=64")
    config = kind.parse(options)
    assert name == kind.name
    assert config == VirtioBlkConfig(Path("disk.img"), True, "abc", queue_size=64)
    assert kind.blob(config) == BlobSpec(Path("disk.img"), True)
    for bad, message in (
        ({"path": "d", "serial": "x" * 21}, "at most 20"),
        ({"path": "d", "block-size": "100"}, "must be in"),
        ({"file": "d"}, "no option 'file'"),
    ):
        with pytest.raises(ConfigError, match=message):
            kind.parse(bad)
