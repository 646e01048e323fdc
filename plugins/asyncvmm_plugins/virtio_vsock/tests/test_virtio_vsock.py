"""The socket device against virtio 1.2, 5.10, and against drivers that lie."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.base.errors import ConfigError
from asyncvmm.device import Socket
from asyncvmm.device.sockets import CLOSED, OPEN, SOCKET_BYTES
from asyncvmm.testing import DeviceConformance
from asyncvmm_plugins.virtio_vsock.hooks import asyncvmm_device_types
from asyncvmm_plugins.virtio_vsock.packets import (
    CREDIT_REQUEST,
    CREDIT_UPDATE,
    REQUEST,
    RESPONSE,
    RST,
    RW,
    SHUTDOWN,
)
from asyncvmm_plugins.virtio_vsock.state import MAX_RESETS
from asyncvmm_plugins.virtio_vsock.tests.bench import ALLOC, Guest, Listener
from asyncvmm_plugins.virtio_vsock.tests.fuzz import fuzz_one


class TestVirtioVsock(DeviceConformance):
    device_type = asyncvmm_device_types()[0]


def opened(guest: Guest) -> tuple[Socket, int]:
    """A socket that the host opened to port 5, and its own port."""
    socket = guest.hub.connect(5)
    ((packet, _),) = guest.heard()
    assert packet.operation == REQUEST and packet.target_port == 5 and packet.target_cid == 3
    guest.send(RESPONSE, 5, packet.source_port)
    assert socket.state == OPEN
    return socket, packet.source_port


def test_5_10_4_configuration_layout() -> None:
    guest = Guest()
    assert guest.driver.register(8) == 19
    assert guest.driver.config(0, 8) == 3


def test_a_connection_from_the_host() -> None:
    guest = Guest()
    socket, port = opened(guest)
    assert socket.send(b"hello") == 5
    ((packet, data),) = guest.heard()
    assert (packet.operation, data) == (RW, b"hello")
    guest.send(RW, 5, port, b"answer", forwarded=5)
    assert socket.receive(100) == b"answer"
    socket.finish()
    ((packet, _),) = guest.heard()
    assert (packet.operation, packet.flags) == (SHUTDOWN, 2)
    guest.send(SHUTDOWN, 5, port, flags=3, forwarded=5)
    assert guest.operations() == [RST]
    assert socket.state == CLOSED and socket.eof and socket.failure == ""
    assert not guest.device.connections


def test_a_connection_from_the_guest() -> None:
    guest = Guest()
    listener = Listener(1)
    guest.hub.listen(7, listener)
    guest.send(REQUEST, 1000, 7)
    assert guest.operations() == [RESPONSE]
    (socket,) = listener.sockets
    guest.send(RW, 1000, 7, b"request")
    assert socket.receive(100) == b"request"
    guest.send(REQUEST, 1001, 7)  # the listener takes no more
    assert guest.operations() == [RST]
    guest.send(REQUEST, 1002, 8)  # nobody listens
    assert guest.operations() == [RST]
    guest.hub.unlisten(7)
    guest.send(REQUEST, 1003, 7)
    assert guest.operations() == [RST]
    assert socket.state == OPEN
    socket.close()
    assert guest.operations() == [SHUTDOWN]
    guest.send(RST, 1000, 7)
    assert not guest.device.connections and socket.failure == ""


def test_a_refused_connection() -> None:
    guest = Guest()
    socket = guest.hub.connect(5)
    ((packet, _),) = guest.heard()
    guest.send(RST, 5, packet.source_port)
    assert socket.state == CLOSED and "refused" in socket.failure


def test_nothing_is_sent_without_credit() -> None:
    guest = Guest(buffers=40)
    socket, port = opened(guest)
    assert socket.send(bytes(SOCKET_BYTES)) == SOCKET_BYTES
    packets = guest.heard()
    assert sum(len(data) for _, data in packets) == ALLOC
    assert packets[-1][0].operation == CREDIT_REQUEST
    guest.send(CREDIT_UPDATE, 5, port, forwarded=ALLOC // 2)
    packets = guest.heard()
    assert sum(len(data) for _, data in packets) == ALLOC // 2
    assert packets[-1][0].operation == CREDIT_REQUEST


def test_the_guest_gets_credit_as_the_host_reads() -> None:
    guest = Guest()
    socket, port = opened(guest)
    piece = bytes(32 << 10)
    for _ in range(SOCKET_BYTES // len(piece)):
        guest.send(RW, 5, port, piece)
    assert socket.readable == SOCKET_BYTES
    assert guest.heard() == []
    socket.receive(60 << 10)
    assert not socket.has_segments
    socket.receive(40 << 10)
    assert socket.has_segments
    socket.taken()
    ((packet, _),) = guest.heard()
    assert (packet.operation, packet.buffer_bytes, packet.forwarded) == (
        CREDIT_UPDATE, SOCKET_BYTES, 100 << 10
    )  # fmt: skip
    guest.send(CREDIT_REQUEST, 5, port)
    assert guest.operations() == [CREDIT_UPDATE]
    for _ in range(3):
        guest.send(RW, 5, port, piece)
    guest.send(RW, 5, port, piece)  # 4 KiB more than there is room for
    assert guest.operations()[-1] == RST
    assert socket.state == CLOSED and "room" in socket.failure


@pytest.mark.parametrize("forwarded", [1, 6, (1 << 32) - 1, 1 << 31])
def test_credit_lies_reset_the_connection(forwarded: int) -> None:
    guest = Guest()
    socket, port = opened(guest)
    socket.send(b"12345")
    guest.heard()
    guest.send(CREDIT_UPDATE, 5, port, forwarded=5)
    guest.send(CREDIT_UPDATE, 5, port, forwarded=(5 + forwarded) & 0xFFFFFFFF)
    assert guest.operations() == [RST]
    assert "not sent" in socket.failure


def test_hostile_headers() -> None:
    guest = Guest()
    socket, port = opened(guest)
    guest.raw(b"short")
    guest.send(RW, 5, port, b"x", source_cid=4)  # another guest's
    guest.send(RW, 5, port, b"x", length=2)  # longer than it is
    assert guest.device.dropped == 3 and guest.heard() == []
    guest.send(RW, 5, port, b"x", target_cid=4)  # to another guest
    ((packet, _),) = guest.heard()
    assert (packet.operation, packet.source_cid, packet.target_cid) == (RST, 4, 3)
    guest.send(REQUEST, 5, port, kind=2)  # SEQPACKET was not offered
    ((packet, _),) = guest.heard()
    assert (packet.operation, packet.kind) == (RST, 2)
    guest.send(RST, 6, 6)  # an RST of no connection is not answered
    assert guest.heard() == []
    assert socket.state == OPEN
    guest.send(99, 5, port)
    assert guest.operations() == [RST]
    assert "unknown operation" in socket.failure


def test_answers_to_nobody_are_bounded() -> None:
    guest = Guest(buffers=0)
    for number in range(4 * MAX_RESETS):
        if not guest.transmit.free:
            break
        guest.send(RW, number, 9)
    assert len(guest.device._resets) == MAX_RESETS
    waiting = len(guest.transmit.outstanding)
    assert waiting == 64  # the rest waits in the driver's queue
    guest.add_buffers(64)
    heard = 0
    while found := guest.heard():
        heard += len(found)
    assert heard == MAX_RESETS + waiting
    guest.transmit.collect()
    assert not guest.transmit.outstanding


def test_a_guest_that_does_not_answer_a_shutdown_is_reset() -> None:
    guest = Guest()
    socket, port = opened(guest)
    socket.send(b"last words")
    socket.close()
    assert guest.operations() == [RW, SHUTDOWN]
    guest.send(RW, 5, port, b"for nobody", forwarded=10)
    guest.bench.advance(3_000_000_000)
    assert guest.operations() == [RST]
    assert not guest.device.connections


def test_a_driver_reset_ends_connections_but_not_those_that_wait_for_it() -> None:
    guest = Guest()
    socket, _ = opened(guest)
    guest.driver.set_register(0x70, 0)
    assert socket.state == CLOSED and "driver was reset" in socket.failure
    waiting = guest.hub.connect(6)
    guest.start()
    ((packet, _),) = guest.heard()
    assert packet.operation == REQUEST and waiting.state != CLOSED


def test_connections_of_a_snapshot_are_reset_when_it_goes_on() -> None:
    guest = Guest()
    socket, port = opened(guest)
    guest.send(RW, 5, port, b"data")
    saved = json.loads(json.dumps(guest.target.save()))
    other = Guest()
    other.bench.ram.write(other.bench.ram.base, guest.bench.ram.read(guest.bench.ram.base, 1 << 24))
    other.target.reset()
    other.target.load(saved)
    assert json.loads(json.dumps(other.target.save())) == saved
    other.receive.seen_used, other.receive.outstanding = (
        guest.receive.seen_used,
        dict(guest.receive.outstanding),
    )
    other.target.resume()
    ((used),) = other.receive.collect()
    assert used.data[30] == RST
    assert not other.device.connections
    assert socket.receive(100) == b"data" and socket.state == OPEN
    saved["device"]["state"]["connections"] *= 2
    other.target.reset()
    with pytest.raises(ConfigError, match="twice"):
        other.target.load(saved)


def test_ports_are_checked() -> None:
    guest = Guest()
    for port in (-1, 1 << 32):
        with pytest.raises(ConfigError):
            guest.hub.connect(port)
        with pytest.raises(ConfigError):
            guest.hub.listen(port, Listener())
    guest.hub.listen(1, Listener())
    with pytest.raises(ConfigError, match="already"):
        guest.hub.listen(1, Listener())


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_no_driver_is_an_exception(data: bytes) -> None:
    fuzz_one(data)


def test_no_driver_is_an_exception_at_random() -> None:
    rng = random.Random(19)
    for _ in range(60):
        fuzz_one(rng.randbytes(300))


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=8), st.integers(1, 60))
@settings(deadline=None)
def test_bytes_arrive_in_order(sizes: list[int], buffers: int) -> None:
    guest = Guest(buffers)
    socket, port = opened(guest)
    data = random.Random(len(sizes)).randbytes(sum(sizes))
    sent = 0
    got = b""
    for _ in range(10_000):
        if got == data:
            return
        sent += socket.send(data[sent : sent + sizes[sent % len(sizes)]])
        for packet, piece in guest.heard():
            got += piece
            if packet.operation in (RW, CREDIT_REQUEST):
                guest.send(CREDIT_UPDATE, 5, port, forwarded=len(got))
    raise AssertionError(f"{len(got)} of {len(data)} bytes")
