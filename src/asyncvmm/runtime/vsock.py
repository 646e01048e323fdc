"""``guest.vsock``: streams between programs on the host and in the guest, without a network.

What the host does enters between two stretches of virtual time, through the host's one entrance; what
the guest does is heard of when its stretch is over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

import trio

from asyncvmm.base.errors import ConfigError
from asyncvmm.device import Socket, SocketHub
from asyncvmm.machine import Machine
from asyncvmm.runtime.connections import GuestStream
from asyncvmm.runtime.entrance import Entrance
from asyncvmm.runtime.outbox import Outbox

BACKLOG: Final = 16
MAX_BACKLOG: Final = 128


class _Direct:
    """The device hears of a socket's use from the socket itself, but for what was received."""

    place: Final = ""  # not in journals

    def changed(self, key: Any, time_ns: int) -> None:
        """See Carrier; ``key`` is the socket."""
        if key.has_segments:
            key.taken()


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

    async def connect(self, port: int) -> GuestStream:
        """A stream to a program in the guest that listens on vsock ``port``.

        Waits until the guest's driver is there; ConnectFailedError when nobody takes it.
        """
        hub = self._device()
        await self._entrance.turn()
        self._check()
        stream = self._stream(self._entrance.enter(lambda now: hub.connect(port), live=False))
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
        self._entrance.enter(lambda now: hub.listen(port, listener.offer), live=False)
        self._listeners[port] = listener
        return listener

    def _device(self) -> SocketHub:
        if self._hub is None:
            raise ConfigError(f"guest {self._name} has no vsock: give it the device virtio-vsock")
        return self._hub

    def _check(self) -> None:
        if self._ended:
            raise trio.BrokenResourceError(f"guest {self._name} has ended")

    def _stream(self, socket: Socket) -> GuestStream:
        stream = GuestStream(_Direct(), socket, socket, self._entrance)
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

    def accepted(self, socket: Socket) -> GuestStream:
        """The host's end of a socket that the guest opened."""
        return self._stream(socket)

    def close_listener(self, listener: GuestListener) -> None:
        """Free its port, and cut what nobody has accepted, when tasks have their turn."""
        if self._listeners.get(listener.port) is listener:
            del self._listeners[listener.port]
        hub = self._device()

        def act(now_ns: int) -> None:
            hub.unlisten(listener.port)
            for socket in listener.take_all():
                socket.abort()

        self._entrance.later(lambda: self._entrance.enter(act, live=False))

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
        return self._sockets.accepted(self._waiting.popleft())

    def take_all(self) -> list[Socket]:
        """What nobody has accepted."""
        left = list(self._waiting)
        self._waiting.clear()
        return left

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
