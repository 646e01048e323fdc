"""``guest.vsock``: streams between programs on the host and in the guest, without a network.

What the host does enters between two stretches of virtual time, through the host's one entrance; what
the guest does is heard of when its stretch is over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import trio

from asyncvmm.base.errors import ConfigError
from asyncvmm.device import Socket, SocketHub
from asyncvmm.machine import Machine
from asyncvmm.runtime.connections import GuestStream
from asyncvmm.runtime.entrance import Entrance
from asyncvmm.runtime.journal_file import (
    ABORT,
    FINISH,
    HANG_UP,
    RECEIVE,
    SEND,
    VSOCK,
)
from asyncvmm.runtime.outbox import Outbox

VSOCK_PLACE: Final = "vsock "  # and the guest's name, in journals
BACKLOG: Final = 16
MAX_BACKLOG: Final = 128


class _Direct:
    """The device hears of a socket's use from the socket itself, but for what was received."""

    def __init__(self, guest: str, socket: Socket) -> None:
        self.place: Final = VSOCK_PLACE + guest
        self._socket = socket

    def changed(self, key: Any, time_ns: int) -> None:
        """See Carrier."""
        if self._socket.has_segments:
            self._socket.taken()


class GuestSockets:
    """The host's side of a guest's ``virtio-vsock`` device; ConfigError for guests without one."""

    def __init__(self, machine: Machine, entrance: Entrance, outbox: Outbox) -> None:
        hubs = [device.io.used_sockets for device in machine.devices]
        self._hub: SocketHub | None = next((hub for hub in hubs if hub is not None), None)
        self._name = machine.name
        self._entrance = entrance
        self._outbox = outbox
        self._sockets: dict[Socket, None] = {}
        self._listeners: dict[int, GuestListener] = {}
        self._ended = False
        self._next = 0  # sockets have numbers in a journal, in the order in which programs got them
        self._again: dict[int, Socket] = {}  # of a replay

    async def connect(self, port: int) -> GuestStream:
        """A stream to a program in the guest that listens on vsock ``port``.

        Waits until the guest's driver is there; ConnectFailedError when nobody takes it.
        """
        hub = self._device()
        await self._entrance.turn()
        self._check()
        note = self._note("connect", port)
        stream = self._stream(
            self._entrance.enter(lambda now: hub.connect(port), live=False, note=note)
        )
        try:
            await stream.wait_connected()
        except BaseException:
            stream.abort()
            raise
        return stream

    async def listen(self, port: int, backlog: int = BACKLOG) -> GuestListener:
        """Take what programs in the guest connect to vsock ``port`` of their host (CID 2).

        At most ``backlog`` wait to be accepted; further ones are refused. ConfigError when the port is
        taken. Close the listener to free it.
        """
        hub = self._device()
        if not 1 <= backlog <= MAX_BACKLOG:
            raise ConfigError(f"a backlog is 1 to {MAX_BACKLOG}, not {backlog}")
        await self._entrance.turn()
        self._check()
        listener = GuestListener(self, hub, port, backlog)
        note = self._note("listen", port, backlog=backlog)
        self._entrance.enter(lambda now: hub.listen(port, listener.offer), live=False, note=note)
        self._listeners[port] = listener
        return listener

    def _note(self, do: str, port: int, **more: int) -> tuple[int, dict[str, Any], bytes]:
        return (VSOCK, {"guest": self._name, "do": do, "port": port, **more}, b"")

    def _device(self) -> SocketHub:
        if self._hub is None:
            raise ConfigError(f"guest {self._name} has no vsock: give it the device virtio-vsock")
        return self._hub

    def _check(self) -> None:
        if self._ended:
            raise trio.BrokenResourceError(f"guest {self._name} has ended")

    def _stream(self, socket: Socket) -> GuestStream:
        number, self._next = self._next, self._next + 1
        stream = GuestStream(_Direct(self._name, socket), number, socket, self._entrance)
        wake = socket.on_change
        self._sockets[socket] = None

        def changed() -> None:
            self._outbox.call(self._heard, socket, wake)

        socket.on_change = changed
        return stream

    def _heard(self, socket: Socket, wake: Callable[[], None]) -> None:
        if socket.state == "closed":
            self._sockets.pop(socket, None)
        wake()

    def tell(self, call: Callable[[], object]) -> None:
        """The guest said something: ``call`` when its stretch is over and tasks have their turn."""
        self._outbox.call(self._entrance.later, call)

    async def turn(self) -> None:
        """Return when tasks have their turn."""
        await self._entrance.turn()

    def accepted(self, listener: GuestListener) -> GuestStream:
        """The host's end of the next socket that the guest opened."""
        note = self._note("accept", listener.port)
        return self._stream(self._entrance.take(listener.take, note=note))

    def close_listener(self, listener: GuestListener) -> None:
        """Free its port, and cut what nobody has accepted, when tasks have their turn."""
        if self._listeners.get(listener.port) is listener:
            del self._listeners[listener.port]
        note = self._note("unlisten", listener.port)
        self._entrance.later(
            lambda: self._entrance.enter(lambda now: self._stop(listener), live=False, note=note)
        )

    def _stop(self, listener: GuestListener) -> None:
        self._device().unlisten(listener.port)
        while listener.waiting:
            listener.take().abort()

    def again(self, kind: int, names: Mapping[str, Any], data: bytes) -> None:
        """What a journal says that programs did."""
        if kind != VSOCK:
            self._again_with(kind, self._again[int(names["key"][0])], names, data)
            return
        hub, port, do = self._device(), int(names["port"]), names["do"]
        enter = self._entrance.enter_again
        if do == "listen":
            listener = GuestListener(self, hub, port, int(names["backlog"]))
            enter(lambda now: hub.listen(port, listener.offer))
            self._listeners[port] = listener
        elif do == "unlisten":
            stopped = self._listeners.pop(port)
            enter(lambda now: self._stop(stopped))
        else:
            accepts = do == "accept"
            socket = (
                self._listeners[port].take() if accepts else enter(lambda now: hub.connect(port))
            )
            self._again[self._next] = socket
            self._next += 1

    def _again_with(self, kind: int, socket: Socket, names: Mapping[str, Any], data: bytes) -> None:
        def act(now_ns: int) -> None:
            if kind == SEND:
                socket.send(data)
            elif kind == RECEIVE:
                socket.receive(int(names["limit"]))
            elif kind == FINISH:
                socket.finish()
            elif kind == HANG_UP:
                socket.close()
            elif kind == ABORT:
                socket.abort()
            if socket.has_segments:
                socket.taken()

        self._entrance.enter_again(act)

    def guest_ended(self) -> None:
        """Streams break, listeners end."""
        self._ended = True
        for socket in list(self._sockets):
            socket.ended("the guest has ended")
        self._sockets.clear()
        for listener in list(self._listeners.values()):
            listener.guest_ended()
        self._listeners.clear()


class GuestListener(trio.abc.Listener[GuestStream]):
    """Connections of a guest to one port of its host. Made by ``guest.vsock.listen``."""

    def __init__(self, sockets: GuestSockets, hub: SocketHub, port: int, backlog: int) -> None:
        self.port: Final = port
        self._sockets = sockets
        self._backlog = backlog
        self._waiting: deque[Socket] = deque()
        self._news = trio.lowlevel.ParkingLot()
        self._closed = False
        self._ended = False

    def offer(self, socket: Socket) -> bool:
        """The device has a new connection. The guest runs, perhaps in another thread."""
        if len(self._waiting) >= self._backlog:
            return False
        self._waiting.append(socket)
        self._sockets.tell(self._news.unpark_all)
        return True

    async def accept(self) -> GuestStream:
        """The next connection; trio.BrokenResourceError when the guest has ended."""
        await self._sockets.turn()
        while not self._waiting:
            if self._closed:
                raise trio.ClosedResourceError("this listener was closed")
            if self._ended:
                raise trio.BrokenResourceError("the guest has ended")
            await self._news.park()
            await self._sockets.turn()
        return self._sockets.accepted(self)

    @property
    def waiting(self) -> int:
        """How many nobody has accepted."""
        return len(self._waiting)

    def take(self) -> Socket:
        """The oldest of them."""
        return self._waiting.popleft()

    def guest_ended(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self._waiting.clear()
        self._news.unpark_all()

    async def aclose(self) -> None:
        """Free the port; connections that were accepted stay."""
        if not self._closed:
            self._closed = True
            self._news.unpark_all()
            if not self._ended:
                self._sockets.close_listener(self)
        await trio.lowlevel.checkpoint()
