"""Stream sockets between a guest and programs on its host: both ends of each, and who listens.

The device moves bytes and says what the guest did; the host's end is what ``guest.vsock`` gives as a
trio stream. Nothing here waits, and every buffer is bounded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from asyncvmm.base.errors import ConfigError
from asyncvmm.device.guard import DeviceGuard

CONNECTING: Final = "connecting"
OPEN: Final = "open"
CLOSED: Final = "closed"
SOCKET_BYTES: Final = 256 << 10  # each way of one socket
MAX_SOCKETS: Final = 1024
MAX_LISTENERS: Final = 1024


def _nothing() -> None:
    return None


class Socket:
    """One connection. ``target_port`` is the one that was asked for, on either side.

    The host's end: ``send``, ``receive``, ``finish``, ``close``, ``abort``, each followed by
    ``on_host`` into the device; ``on_change`` is called when the guest did something. The device's
    end: ``inbox`` (from the guest, at most SOCKET_BYTES) and ``outbox`` (to the guest).
    """

    def __init__(self, target_port: int, from_guest: bool) -> None:
        self.target_port: int = target_port
        self.from_guest: bool = from_guest
        self.state: str = CONNECTING
        self.failure: str = ""
        self.inbox: bytearray = bytearray()
        self.outbox: bytearray = bytearray()
        self.guest_finished: bool = False
        self.finished: bool = False
        self.gone: bool = False
        self.on_change: Callable[[], None] = _nothing
        self.on_host: Callable[[], None] = _nothing
        self.guard: DeviceGuard = DeviceGuard()

    @property
    def connected(self) -> bool:
        """Whether the other side has accepted and nothing ended it since."""
        return self.state == OPEN

    @property
    def readable(self) -> int:
        """How many bytes ``receive`` can give now."""
        return len(self.inbox)

    @property
    def eof(self) -> bool:
        """Whether nothing more will come than what is ``readable``."""
        return self.guest_finished or self.state == CLOSED

    @property
    def send_room(self) -> int:
        """How many bytes ``send`` takes now."""
        if self.state != OPEN or self.finished or self.gone:
            return 0
        return SOCKET_BYTES - len(self.outbox)

    def send(self, data: bytes, now_ns: int = 0) -> int:
        """Queue bytes for the guest; how many fitted."""
        count = min(len(data), self.send_room)
        self.outbox += data[:count]
        if count:
            self.guard.run(self.on_host)
        return count

    def receive(self, limit: int) -> bytes:
        """At most ``limit`` bytes from the guest."""
        data = bytes(self.inbox[:limit])
        del self.inbox[:limit]
        if data:
            self.guard.run(self.on_host)
        return data

    def finish(self, now_ns: int = 0) -> None:
        """No more will be sent."""
        self.finished = True
        self.guard.run(self.on_host)

    def close(self, now_ns: int = 0) -> None:
        """Nobody on the host wants it any more; what was queued is still sent."""
        self.finished = True
        self.gone = True
        self.inbox.clear()
        self.guard.run(self.on_host)

    def abort(self) -> None:
        """Cut it at once."""
        self.outbox.clear()
        if not self.failure:
            self.failure = "it was cut by its host"
        self.close()

    def ended(self, failure: str) -> None:
        """The device says: it is over, in good order when ``failure`` is empty."""
        if self.state != CLOSED:
            self.state = CLOSED
            if failure and not self.failure:
                self.failure = failure
            self.outbox.clear()
            self.on_change()


class SocketHub:
    """All sockets of one device, and the ports on which programs on the host listen."""

    def __init__(self) -> None:
        self.guard: DeviceGuard = DeviceGuard()
        self.on_connect: Callable[[Socket], None] | None = None
        self.listeners: dict[int, Callable[[Socket], bool]] = {}

    def connect(self, port: int) -> Socket:
        """A socket on its way to the guest's ``port``; ConfigError when no driver could ever see it."""
        socket = Socket(port, False)
        socket.guard = self.guard
        opener = self.on_connect
        if opener is None:
            raise ConfigError("no device of this guest takes connections")
        self.guard.run(lambda: opener(socket))
        if self.guard.broken:
            socket.ended("the device has failed")
        return socket

    def listen(self, port: int, accept: Callable[[Socket], bool]) -> None:
        """Call ``accept`` with each socket that the guest opens to ``port``; False refuses it.

        ConfigError when the port is taken or is none.
        """
        if port < 0 or port >= (1 << 32) - 1:
            raise ConfigError(f"vsock ports are 0 to {(1 << 32) - 2}, not {port}")
        if port in self.listeners:
            raise ConfigError(f"vsock port {port}: something listens there already")
        if len(self.listeners) >= MAX_LISTENERS:
            raise ConfigError(f"more than {MAX_LISTENERS} vsock listeners")
        self.listeners[port] = accept

    def unlisten(self, port: int) -> None:
        """Nobody listens there any more; sockets that are open stay so."""
        self.listeners.pop(port, None)
