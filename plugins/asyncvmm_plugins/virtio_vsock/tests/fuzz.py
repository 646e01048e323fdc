"""``fuzz_one``: a hostile driver and a busy host, from ``data``: never an exception, always bounded."""

from __future__ import annotations

import json

from asyncvmm.device import Socket
from asyncvmm.device.sockets import CLOSED, SOCKET_BYTES
from asyncvmm_plugins.virtio_vsock.packets import HEADER, Packet
from asyncvmm_plugins.virtio_vsock.state import MAX_CONNECTIONS, MAX_RESETS
from asyncvmm_plugins.virtio_vsock.tests.bench import Guest, Listener

WORDS = (0, 1, 100, 4096, 65536, 65537, 1 << 18, (1 << 18) + 1, (1 << 31), (1 << 32) - 1)


def fuzz_one(data: bytes) -> None:
    """AssertionError when the device breaks one of its promises; anything else is a bug, too."""
    guest = Guest(buffers=data[0] % 8 if data else 0)
    listener = Listener(4)
    guest.hub.listen(7, listener)
    sockets: list[Socket] = []
    at = 1
    while at + 6 <= len(data):
        act, one, two, three, four, five = data[at : at + 6]
        at += 6
        known = [*sockets, *listener.sockets]
        socket = known[one % len(known)] if known else None
        if act < 150:
            ports = list(guest.device.connections)
            port, host_port = (one % 4, (7, 8)[two % 2])
            if ports and two & 4:
                port, host_port = ports[one % len(ports)]
            payload = bytes([five]) * (WORDS[four % 6] if five < 128 else five)
            length = len(payload) if four < 240 else WORDS[five % len(WORDS)]
            packet = Packet(
                3 if act != 149 else five, 2 if act != 148 else one, port, host_port, length,
                1 if act < 145 else act - 144, three % 9, four % 4,
                WORDS[five % len(WORDS)], WORDS[three // 9 % len(WORDS)] if act & 1 else 0,
            )  # fmt: skip
            raw = packet.pack() + payload
            guest.raw(raw if three < 250 else raw[: five % 60] or b"x")
        elif act < 170:
            if len(sockets) < 50:
                sockets.append(guest.hub.connect(one % 4))
        elif act < 180 and socket is not None:
            socket.send(bytes(WORDS[two % 7]))
        elif act < 190 and socket is not None:
            socket.receive(WORDS[two % 7] or 1)
            if socket.has_segments or three & 1:
                socket.taken()
        elif act < 200 and socket is not None:
            (socket.finish, socket.close, socket.abort)[two % 3]()
        elif act < 210:
            guest.bench.advance(one * 20_000_000)
        elif act < 214:
            guest.start()
        elif act < 220:
            saved = json.loads(json.dumps(guest.target.save()))
            guest.target.reset()
            guest.target.load(saved)
            assert json.loads(json.dumps(guest.target.save())) == saved
            guest.target.resume()
        elif guest.driver.status & 0x40 == 0:
            for _, payload in guest.heard():
                assert len(payload) <= 65536 - HEADER.size
        device = guest.device
        assert len(device.connections) <= MAX_CONNECTIONS
        assert len(device._resets) <= MAX_RESETS
        for each in (*sockets, *listener.sockets):
            assert len(each.inbox) <= SOCKET_BYTES and len(each.outbox) <= SOCKET_BYTES
            assert not (each.state == CLOSED and each.outbox)
        for key, connection in device.connections.items():
            assert not connection.wants or key in device._ready
