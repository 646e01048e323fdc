"""The gateway's sockets: a scripted guest on one side, this machine's loopback on the other."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

import pytest
import trio

from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.device import Packet
from asyncvmm.network.config import NetworkConfig
from asyncvmm.network.inet import ACK, RST, SYN, TCP, TcpSegment, parse_ipv4
from asyncvmm.network.tcp import CLOSED, TcpConnection
from asyncvmm.runtime.connections import ConnectFailedError, GuestStream
from asyncvmm.runtime.edge import Edge, Forward, cannot_listen
from asyncvmm.runtime.entrance import Entrance
from asyncvmm.runtime.inputs import Inputs
from asyncvmm.runtime.splice import Splice
from tests.unit.network.guest import FakeGuest, address, dns_query, tcp_of, udp_of

LOOPBACK = address("127.0.0.1")
MSS = 1460


class Clock:
    """Stands in for the conductor: time goes on by a millisecond at each kick."""

    between = True

    def __init__(self) -> None:
        self.now_ns = 0
        self.inputs = Inputs()
        self.on_kick: Callable[[], None] = lambda: None

    def kick(self) -> None:
        self.now_ns += 1_000_000
        self.on_kick()

    def later(self, call: Callable[[], object]) -> None:
        call()

    async def turn(self) -> None:
        await trio.lowlevel.checkpoint()


class World:
    """A guest with a real TCP of its own behind the gateway, all in one place."""

    def __init__(self, nursery: trio.Nursery, *rules: str) -> None:
        self.guest = FakeGuest(NetworkConfig.from_mapping({"allow": rules}))
        self.guest.announce()
        self.clock = Clock()
        self.entrance = Entrance(cast(Any, self.clock))
        self.edge = Edge(nursery, self.entrance)
        self.connections: dict[int, TcpConnection] = {}
        self.other: list[Packet] = []
        self.accept = True
        self.news = trio.Event()

    async def pump(self) -> None:
        """Carry frames to and fro, again and again."""
        while True:
            await trio.sleep(0)
            self.guest.now = self.clock.now_ns = self.clock.now_ns + 1_000_000
            for key in list(self.guest.gateway.connections):
                self.guest.gateway.changed(key, self.guest.now)
            for packet in self.guest.exchange():
                self.take(packet)
            for port, connection in list(self.connections.items()):
                for segment in connection.take_segments():
                    target = getattr(connection, "remote", LOOPBACK)
                    self.guest.gateway.arrive(self.guest.now, self.guest.tcp(target, segment))
                if connection.state == CLOSED:
                    del self.connections[port]
            self.edge.serve(self.guest.gateway)

    def take(self, packet: Packet) -> None:
        ip = parse_ipv4(packet)
        if ip is None or ip.protocol != TCP:
            self.other.append(packet)
            return
        segment = tcp_of(packet)
        connection = self.connections.get(segment.target_port)
        if connection is not None:
            connection.segment(segment, self.guest.now)
        elif segment.flags == SYN and self.accept:
            made = Server.accept(segment, 1, self.guest.now, MSS)
            cast(Any, made).remote = ip.source
            self.connections[segment.target_port] = made
        elif segment.flags == SYN:
            reset = TcpSegment(
                segment.target_port, segment.source_port, 0, segment.sequence + 1, RST | ACK, 0
            )
            self.guest.gateway.arrive(self.guest.now, self.guest.tcp(ip.source, reset))


class Server(TcpConnection):
    """Sends back what it gets, and finishes when the other end has."""

    remote: bytes

    def segment(self, segment: TcpSegment, now_ns: int) -> None:
        super().segment(segment, now_ns)
        self.send(self.receive(self.send_room), now_ns)
        if self.eof:
            self.finish(now_ns)


async def connect(world: World, live: bool = False) -> GuestStream:
    key, connection = world.entrance.enter(
        lambda now: world.guest.gateway.connect(now, world.guest.address, 80), live=live
    )
    stream = GuestStream(world.guest.gateway, key, connection, world.entrance, live=live)
    await stream.wait_connected()
    return stream


async def run(test: Callable[[World], Any], *rules: str) -> None:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            world = World(nursery, *rules)
            nursery.start_soon(world.pump)
            await test(world)
            nursery.cancel_scope.cancel()


async def test_a_stream_into_a_guest() -> None:
    async def test(world: World) -> None:
        stream = await connect(world)
        got = bytearray()

        async def receive() -> None:
            async for data in stream:
                got.extend(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await stream.send_all(bytes(range(256)) * 1000)
            await stream.send_eof()
        assert bytes(got) == bytes(range(256)) * 1000
        await stream.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"x")
        assert not world.entrance.live

    await run(test)


async def test_a_guest_that_refuses_and_one_that_resets() -> None:
    async def test(world: World) -> None:
        world.accept = False
        with pytest.raises(ConnectFailedError, match="refused"):
            await connect(world)
        world.accept = True
        stream = await connect(world)
        next(iter(world.connections.values())).abort()
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await stream.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")

    await run(test)


async def test_a_forward_leads_from_a_socket_into_the_guest() -> None:
    async def test(world: World) -> None:
        port = await world.edge.forward(Forward(0, 80), lambda live: connect(world, live))
        async with await trio.open_tcp_stream("127.0.0.1", port) as outside:
            await outside.send_all(b"hello" * 10_000)
            await outside.send_eof()
            got = b"".join([data async for data in outside])
        assert got == b"hello" * 10_000
        assert world.entrance.live
        with pytest.raises(BackendError, match=str(port)):
            await world.edge.forward(Forward(port, 80), lambda live: connect(world, live))
        world.accept = False
        async with await trio.open_tcp_stream("127.0.0.1", port) as outside:
            assert await _ends(outside)

    await run(test)


def small_sockets() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Two ends that hold a few kilobytes."""
    ends = socket.socketpair()
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    one, other = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in ends)
    return one, other


async def test_an_end_outside_that_is_slow_loses_nothing() -> None:
    async def test(world: World) -> None:
        data = bytes(range(256)) * 1000
        outside, far = small_sockets()
        splice = Splice(await connect(world, live=True), outside)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(splice.run)
            await far.send_all(data)
            await far.send_eof()
            for _ in range(100):  # the guest has answered, and what goes into the socket is there
                await trio.sleep(0)
            got = b"".join([piece async for piece in far])
        assert got == data
        await far.aclose()

    await run(test)


async def test_an_end_outside_that_breaks_is_cut_in_the_guest() -> None:
    async def test(world: World) -> None:
        inside = await connect(world, live=True)
        (server,) = world.connections.values()
        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        port = listener.socket.getsockname()[1]
        far = await trio.open_tcp_stream("127.0.0.1", port)
        outside = await listener.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Splice(inside, outside).run)
            await far.send_all(b"hello")
            assert await far.receive_some() == b"hello"
            far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await far.aclose()  # RST
        while server.state != CLOSED:
            await trio.sleep(0)
        assert server.failure == "reset by the guest"
        await listener.aclose()

    await run(test)


async def test_a_guest_that_resets_ends_the_socket_outside() -> None:
    async def test(world: World) -> None:
        inside = await connect(world, live=True)
        outside, far = small_sockets()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Splice(inside, outside).run)
            await far.send_all(b"hello")
            assert await far.receive_some() == b"hello"
            next(iter(world.connections.values())).abort()
            assert await _ends(far)
        assert inside.cut
        await far.aclose()

    await run(test)


async def _ends(stream: trio.SocketStream) -> bool:
    try:
        return await stream.receive_some() == b""
    except trio.BrokenResourceError:
        return True


async def test_a_guest_reaches_a_server_outside() -> None:
    async def test(world: World) -> None:
        async def echo(stream: trio.SocketStream) -> None:
            async for data in stream:
                await stream.send_all(data.upper())
            await stream.send_eof()

        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, echo, listeners)
            client = TcpConnection(5000, port, 9, world.clock.now_ns, MSS)
            world.connections[5000] = client
            client.send(b"question", 0)
            client.finish(0)
            while not client.readable:
                await trio.sleep(0)
            assert client.receive(100) == b"QUESTION"
            while not client.eof:
                await trio.sleep(0)
            nursery.cancel_scope.cancel()
        assert world.entrance.live
        # Nobody listens there any more.
        refused = TcpConnection(5001, port, 9, world.clock.now_ns, MSS)
        world.connections[5001] = refused
        while refused.state != CLOSED:
            await trio.sleep(0)
        assert refused.failure == "refused"

    await run(test, "127.0.0.1")


async def test_datagrams_and_names() -> None:
    async def test(world: World) -> None:
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside:
            await outside.bind(("127.0.0.1", 0))
            port = outside.getsockname()[1]
            world.guest.gateway.arrive(1, world.guest.udp(LOOPBACK, (999, port), b"ping"))
            data, sender = await outside.recvfrom(100)
            assert data == b"ping"
            await outside.sendto(b"pong", sender)
            while not world.other:
                await trio.sleep(0)
            datagram = udp_of(world.other.pop())
            assert (datagram.source_port, datagram.target_port) == (port, 999)
            assert datagram.payload == b"pong"
        query = world.guest.udp(world.guest.gateway.address, (7, 53), dns_query("localhost"))
        world.guest.gateway.arrive(2, query)
        while not world.other:
            await trio.sleep(0)
        assert udp_of(world.other.pop()).payload[-4:] == LOOPBACK

    await run(test, "127.0.0.1", "localhost")


@pytest.mark.parametrize(
    ("text", "forward"),
    [
        ("8080:80", Forward(8080, 80, "127.0.0.1")),
        ("0.0.0.0:8080:80", Forward(8080, 80, "0.0.0.0")),
        ("0:22", Forward(0, 22)),
    ],
)
def test_forwards_as_texts(text: str, forward: Forward) -> None:
    assert Forward.parse(text) == forward


@pytest.mark.parametrize("text", ["", "80", "a:b", "70000:80", "80:0", "80:"])
def test_wrong_forwards_are_named(text: str) -> None:
    with pytest.raises(ConfigError):
        Forward.parse(text)


async def test_closing_wakes_whoever_reads() -> None:
    async def test(world: World) -> None:
        stream = await connect(world)
        with pytest.raises(ValueError, match="max_bytes"):
            await stream.receive_some(0)

        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await stream.receive_some()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(0)
            await stream.aclose()

    await run(test)


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.EADDRINUSE, "in use"), "another program has it: choose another port, or 0"),
        (PermissionError(errno.EACCES, "denied"), "choose a port above 1023"),
        (OSError(errno.EADDRNOTAVAIL, "no"), "no address of this machine"),
        (socket.gaierror(socket.EAI_NONAME, "unknown"), "no address of this machine"),
        (OSError(errno.EMFILE, "too many"), "too many"),
    ],
)
def test_a_port_that_cannot_be_had_has_a_remedy(error: OSError, remedy: str) -> None:
    text = str(cannot_listen("127.0.0.1", 80, error))
    assert text.startswith("port 80 of 127.0.0.1 cannot be listened on: ") and remedy in text
