"""Where a gateway meets the sockets of the world outside: connections, datagrams, names, forwards."""

from __future__ import annotations

import errno
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import attrs
import trio

from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.network.gateway import (
    MTU,
    DatagramRequest,
    Gateway,
    OpenRequest,
    ResolveRequest,
)
from asyncvmm.network.nat import DatagramFlow
from asyncvmm.runtime.connections import ConnectFailedError, GuestStream
from asyncvmm.runtime.entrance import Entrance
from asyncvmm.runtime.journal_file import DATAGRAM, OPENED, RESOLVED
from asyncvmm.runtime.splice import Splice

CONNECT_S: Final = 30
RESOLVE_S: Final = 10
IDLE_S: Final = 120
QUEUED: Final = 64
LOOPBACK: Final = "127.0.0.1"

Connect = Callable[[bool], Awaitable[GuestStream]]


@attrs.frozen
class Forward:
    """``-p``: what comes to ``host``:``host_port`` goes to ``port`` of a guest."""

    host_port: int
    port: int
    host: str = LOOPBACK

    @classmethod
    def parse(cls, text: str) -> Forward:
        """From ``[ADDRESS:]HOSTPORT:GUESTPORT``; ConfigError otherwise. Host port 0 takes a free one."""
        rest, _, port = text.rpartition(":")
        host, _, host_port = rest.rpartition(":")
        try:
            made = cls(int(host_port), int(port), host or LOOPBACK)
        except ValueError:
            made = cls(-1, -1)
        if not 0 <= made.host_port <= 65535 or not 1 <= made.port <= 65535:
            raise ConfigError(f"{text!r} is not [ADDRESS:]HOSTPORT:GUESTPORT, such as 8080:80")
        return made


class Edge:
    """Serves the requests of gateways with real sockets, in ``nursery``."""

    def __init__(self, nursery: trio.Nursery, entrance: Entrance) -> None:
        self._nursery = nursery
        self._entrance = entrance
        self._flows: dict[DatagramFlow, trio.MemorySendChannel[bytes]] = {}

    def serve(self, gateway: Gateway) -> None:
        """Take what the gateway asks for; the answers come later."""
        while gateway.requests:
            request = gateway.requests.popleft()
            gateway.asked += 1
            if isinstance(request, OpenRequest):
                self._nursery.start_soon(self._open, gateway, request, gateway.asked)
            elif isinstance(request, ResolveRequest):
                self._nursery.start_soon(self._resolve, gateway, request, gateway.asked)
            else:
                self._datagram(gateway, request)

    async def forward(self, forward: Forward, connect: Connect) -> int:
        """Listen until the host ends; the host's port. BackendError when the port cannot be had."""
        try:
            listeners = await trio.open_tcp_listeners(forward.host_port, host=forward.host)
        except (OSError, ValueError) as error:
            raise cannot_listen(forward.host, forward.host_port, error) from error

        async def handle(stream: trio.SocketStream) -> None:
            try:
                inside = await connect(True)
            except ConnectFailedError:
                await trio.aclose_forcefully(stream)
                return
            await Splice(inside, stream).run()

        self._nursery.start_soon(trio.serve_listeners, handle, listeners)
        return int(listeners[0].socket.getsockname()[1])

    async def _open(self, gateway: Gateway, request: OpenRequest, number: int) -> None:
        stream: trio.SocketStream | None = None
        with trio.move_on_after(CONNECT_S):
            try:
                stream = await trio.open_tcp_stream(request.host, request.port)
            except OSError:
                stream = None
        works = stream is not None
        await self._entrance.turn()
        names = {"gateway": gateway.place, "request": number, "works": works}
        connection = self._entrance.enter(
            lambda now: gateway.opened(now, request, works), live=True, note=(OPENED, names, b"")
        )
        if stream is None:
            return
        if connection is None:
            await trio.aclose_forcefully(stream)
            return
        inside = GuestStream(gateway, request.key, connection, self._entrance, live=True)
        await Splice(inside, stream).run()

    async def _resolve(self, gateway: Gateway, request: ResolveRequest, number: int) -> None:
        found: list[bytes] = []
        with trio.move_on_after(RESOLVE_S):
            try:
                answers = await trio.socket.getaddrinfo(
                    request.query.name, None, family=socket.AF_INET, type=socket.SOCK_STREAM
                )
                found = [socket.inet_aton(str(answer[4][0])) for answer in answers]
            except OSError:
                found = []
        found = list(dict.fromkeys(found))
        await self._entrance.turn()
        names = {"gateway": gateway.place, "request": number}
        names["found"] = [address.hex() for address in found]
        self._entrance.enter(
            lambda now: gateway.resolved(now, request, found),
            live=True,
            note=(RESOLVED, names, b""),
        )

    # -- datagrams: a socket for each flow

    def _datagram(self, gateway: Gateway, request: DatagramRequest) -> None:
        channel = self._flows.get(request.flow)
        if channel is None:
            channel, receive = trio.open_memory_channel[bytes](QUEUED)
            self._flows[request.flow] = channel
            self._nursery.start_soon(self._serve_flow, gateway, request.flow, receive)
        try:
            channel.send_nowait(request.payload)
        except trio.WouldBlock:
            return  # a datagram may be lost

    async def _serve_flow(
        self, gateway: Gateway, flow: DatagramFlow, payloads: trio.MemoryReceiveChannel[bytes]
    ) -> None:
        try:
            with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside:
                await outside.connect((socket.inet_ntoa(flow.target), flow.target_port))
                async with trio.open_nursery() as nursery:
                    scope = nursery.cancel_scope
                    scope.deadline = trio.current_time() + IDLE_S
                    nursery.start_soon(self._receive_flow, gateway, flow, outside, scope)
                    async for payload in payloads:
                        scope.deadline = trio.current_time() + IDLE_S
                        await _try_send(outside, payload)
        except OSError:
            pass  # the guest sees that nothing comes back
        finally:
            self._flows.pop(flow, None)

    async def _receive_flow(
        self,
        gateway: Gateway,
        flow: DatagramFlow,
        outside: trio.socket.SocketType,
        scope: trio.CancelScope,
    ) -> None:
        while True:
            try:
                data = await outside.recv(MTU)
            except ConnectionError:
                continue
            scope.deadline = trio.current_time() + IDLE_S
            await self._entrance.turn()
            names = {"gateway": gateway.place, "flow": flow_text(flow)}
            self._entrance.enter(
                lambda now, data=data: gateway.datagram(now, flow, data),  # type: ignore[misc]
                live=True,
                note=(DATAGRAM, names, data),
            )


def cannot_listen(host: str, port: int, error: Exception) -> BackendError:
    """What to do about a port that cannot be had."""
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.EADDRINUSE:
        why = "another program has it: choose another port, or 0 for a free one"
    elif number == errno.EACCES:
        why = "that takes privileges: choose a port above 1023"
    elif number == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        why = "that is no address of this machine (127.0.0.1 is, and 0.0.0.0 for all of them)"
    else:
        why = str(error)
    return BackendError(f"port {port} of {host} cannot be listened on: {why}")


def flow_text(flow: DatagramFlow) -> list[str | int]:
    """A flow's name in a journal."""
    return [flow.source.hex(), flow.source_port, flow.target.hex(), flow.target_port]


async def _try_send(outside: trio.socket.SocketType, payload: bytes) -> None:
    with suppress(ConnectionError):
        await outside.send(payload)
