"""The driver's end of the socket device for tests, and a program on the host."""

from __future__ import annotations

from typing import Any

from asyncvmm.device import Socket
from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm.testing.virtio_driver import VirtioDriver
from asyncvmm.virtio import VirtioMmio
from asyncvmm_plugins.virtio_vsock.config import VirtioVsockConfig
from asyncvmm_plugins.virtio_vsock.device import VirtioVsock
from asyncvmm_plugins.virtio_vsock.packets import HEADER, HOST_CID, STREAM, Packet

BUFFER = 4096
ALLOC = 64 << 10


class Guest:
    """A driver with ``buffers`` receive buffers; ``heard`` are the packets that came."""

    def __init__(self, buffers: int = 16) -> None:
        self.bench = DeviceBench(ram_size=1 << 24)
        self.device = VirtioVsock(VirtioVsockConfig(), self.bench.io)
        self.hub = self.bench.io.sockets
        self.target = VirtioMmio(self.bench.io, self.device)
        self.target.reset()
        self.buffers = buffers
        self.start()

    def start(self) -> None:
        self.driver = VirtioDriver(self.target, self.bench.ram)
        self.receive, self.transmit, self.events = self.driver.start()
        self.mark = self.driver._free
        self.add_buffers(self.buffers)

    def add_buffers(self, count: int, size: int = BUFFER) -> None:
        for _ in range(count):
            self.receive.add([], [size])
        if count:
            self.receive.kick()

    def heard(self) -> list[tuple[Packet, bytes]]:
        """Packets since the last call; their buffers are given to the device again."""
        found: list[tuple[Packet, bytes]] = []
        while used := self.receive.collect():
            for each in used:
                packet = Packet.parse(each.data[: HEADER.size])
                assert each.length == HEADER.size + packet.length
                found.append((packet, each.data[HEADER.size : each.length]))
            self.add_buffers(len(used))
        return found

    def operations(self) -> list[int]:
        return [packet.operation for packet, _ in self.heard()]

    def packet(self, operation: int, port: int, host_port: int, **fields: Any) -> Packet:
        given: dict[str, Any] = {
            "source_cid": 3, "target_cid": HOST_CID, "source_port": port,
            "target_port": host_port, "length": 0, "kind": STREAM, "operation": operation,
            "buffer_bytes": ALLOC, **fields,
        }  # fmt: skip
        return Packet(**given)

    def send(
        self, operation: int, port: int, host_port: int, data: bytes = b"", **fields: Any
    ) -> None:
        fields = {"length": len(data), **fields}
        self.raw(self.packet(operation, port, host_port, **fields).pack() + data)

    def raw(self, data: bytes) -> None:
        if self.driver._free > self.bench.ram.base + (12 << 20):
            self.driver._free = int(self.bench.ram.base) + (8 << 20)
        self.transmit.add([data])
        self.transmit.kick()
        self.transmit.collect()


class Listener:
    """Takes up to ``room`` sockets."""

    def __init__(self, room: int = 100) -> None:
        self.sockets: list[Socket] = []
        self.room = room

    def __call__(self, socket: Socket) -> bool:
        if len(self.sockets) >= self.room:
            return False
        self.sockets.append(socket)
        return True
