"""A 9P client for tests: requests by name, over the device's own queue."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from asyncvmm.device import Folder, MemoryFolder
from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm.testing.virtio_driver import VirtioDriver
from asyncvmm.virtio import VirtioMmio
from asyncvmm_plugins.virtio_9p.config import Virtio9pConfig
from asyncvmm_plugins.virtio_9p.device import Virtio9p

NO_FID = 0xFFFFFFFF
FILES: Mapping[str, bytes | str | None] = {
    "a.txt": b"hello\n",
    "big": bytes(range(256)) * 300,
    "sub/inner": b"inside",
    "sub/deep/er": b"",
    "link": "/etc/passwd",
    "up": "../../..",
}


def text(value: bytes) -> bytes:
    return struct.pack("<H", len(value)) + value


class NinePError(Exception):
    """Rlerror."""


class Client:
    """Attached with fid 0."""

    def __init__(
        self, cow: bool = True, folder: Folder | None = None, overlay: int = 1 << 20
    ) -> None:
        self.bench = DeviceBench(ram_size=1 << 26)
        self.bench.io.folder = folder if folder is not None else MemoryFolder(FILES)
        config = Virtio9pConfig(Path("folder"), cow=cow, overlay=overlay)
        self.device = Virtio9p(config, self.bench.io)
        self.target = VirtioMmio(self.bench.io, self.device)
        self.target.reset()
        self.connect()
        self.call(100, struct.pack("<I", 65536) + text(b"9P2000.L"))
        self.attach(0)

    def connect(self) -> None:
        self.driver = VirtioDriver(self.target, self.bench.ram)
        (self.queue,) = self.driver.start()

    def raw(self, request: bytes, room: int = 65536) -> bytes:
        self.driver._free = max(self.driver._free, int(self.bench.ram.base))
        mark = self.driver._free
        self.queue.add([request], [room])
        self.queue.kick()
        self.bench.advance(1_000_000_000)
        (used,) = self.queue.collect()
        self.driver._free = mark
        return used.data[: used.length]

    def call(self, kind: int, body: bytes, tag: int = 7, room: int = 65536) -> bytes:
        answer = self.raw(struct.pack("<IBH", 7 + len(body), kind, tag) + body, room)
        size, got, got_tag = struct.unpack_from("<IBH", answer)
        assert size == len(answer) and got_tag == tag
        if got == 7:
            raise NinePError(struct.unpack_from("<I", answer, 7)[0])
        assert got == kind + 1
        return answer[7:]

    def attach(self, fid: int) -> bytes:
        return self.call(
            104, struct.pack("<II", fid, NO_FID) + text(b"root") + text(b"") + bytes(4)
        )

    def walk(self, new: int, *names: bytes, fid: int = 0) -> int:
        """How many names it came along."""
        body = struct.pack("<IIH", fid, new, len(names)) + b"".join(map(text, names))
        return int(struct.unpack_from("<H", self.call(110, body))[0])

    def open(self, fid: int, flags: int = 0) -> None:
        self.call(12, struct.pack("<II", fid, flags))

    def read(self, fid: int, offset: int = 0, count: int = 60000) -> bytes:
        answer = self.call(116, struct.pack("<IQI", fid, offset, count))
        return answer[4:]

    def write(self, fid: int, offset: int, data: bytes) -> int:
        answer = self.call(118, struct.pack("<IQI", fid, offset, len(data)) + data)
        return int(struct.unpack("<I", answer)[0])

    def create(self, fid: int, name: bytes, flags: int = 2) -> None:
        self.call(14, struct.pack("<I", fid) + text(name) + struct.pack("<III", flags, 0o640, 5))

    def clunk(self, fid: int) -> None:
        self.call(120, struct.pack("<I", fid))

    def attributes(self, fid: int) -> dict[str, int]:
        answer = self.call(24, struct.pack("<IQ", fid, 0x7FF))
        assert len(answer) == 153
        kind, version, path = struct.unpack_from("<BIQ", answer, 8)
        mode, uid, gid, links, _, size = struct.unpack_from("<IIIQQQ", answer, 21)
        seconds = struct.unpack_from("<Q", answer, 21 + 36 + 16 + 16)[0]
        return {
            "kind": kind, "version": version, "path": path, "mode": mode, "uid": uid, "gid": gid,
            "links": links, "size": size, "mtime": seconds,
        }  # fmt: skip

    def names(self, fid: int, count: int = 60000) -> list[bytes]:
        found: list[bytes] = []
        cookie = 0
        while True:
            data = self.call(40, struct.pack("<IQI", fid, cookie, count))[4:]
            if not data:
                return found
            while data:
                cookie, _, length = struct.unpack_from("<QBH", data, 13)
                found.append(data[24 : 24 + length])
                data = data[24 + length :]

    def content(self, *names: bytes) -> bytes:
        self.walk(90, *names)
        self.open(90)
        data = b""
        while piece := self.read(90, len(data)):
            data += piece
        self.clunk(90)
        return data

    def folder(self, *names: bytes, count: int = 60000) -> list[bytes]:
        self.walk(91, *names)
        self.open(91)
        found = self.names(91, count)
        self.clunk(91)
        return found
