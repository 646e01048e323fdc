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
TELL_BYTES: Final = 64 << 10
MAX_PORT: Final = (1 << 32) - 2
MAX_LISTENERS: Final = 1024


def _nothing() -> None:
    return None


class Socket:
    """One connection. ``target_port`` is the one that was asked for, on either side.

    The host's end calls ``send``, ``taken``, ``finish``, ``close`` and ``abort``, each of which tells
    the device through ``on_host``; ``on_change`` is called when the guest did something. The device's
    end takes from ``outbox`` and fills ``inbox``, at most SOCKET_BYTES.
    """

    def __init__(self, target_port: int, from_guest: bool) -> None:
        self.target_port: int = target_port
        self.from_guest: bool = from_guest
        self.state: str = CONNECTING
        # Why it ended, where it did not end in good order.
        self.failure: str = ""
        self.inbox: bytearray = bytearray()
        self.outbox: bytearray = bytearray()
        # The guest will send no more; the guest reads no more; the host will send no more; nobody on
        # the host has it any more; it is to be cut.
        self.guest_finished: bool = False
        self.guest_deaf: bool = False
        self.finished: bool = False
        self.gone: bool = False
        self.cut: bool = False
        self.on_change: Callable[[], None] = _nothing
        self.on_host: Callable[[], None] = _nothing
        self.guard: DeviceGuard = DeviceGuard()
        self._taken: int = 0  # bytes of which the device has not heard

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
        if self.state != OPEN or self.finished:
            return 0
        return SOCKET_BYTES - len(self.outbox)

    def send(self, data: bytes, now_ns: int = 0) -> int:
        """Queue bytes for the guest; how many fitted. A guest that reads no more loses them."""
        count = min(len(data), self.send_room)
        if count > 0 and not self.guest_deaf:
            self.outbox += data[:count]
            self._tell()
        return count

    def receive(self, limit: int) -> bytes:
        """At most ``limit`` bytes from the guest; ``taken`` follows when there is enough to tell."""
        data = bytes(self.inbox[:limit])
        del self.inbox[:limit]
        self._taken += len(data)
        return data

    @property
    def has_segments(self) -> bool:
        """Whether ``receive`` has made so much room that the guest should hear of it."""
        return self._taken >= TELL_BYTES and self.state == OPEN

    def taken(self) -> None:
        """Tell the device what ``receive`` has taken."""
        self._taken = 0
        self._tell()

    def finish(self, now_ns: int = 0) -> None:
        """No more will be sent."""
        self.finished = True
        self._tell()

    def close(self, now_ns: int = 0) -> None:
        """Nobody on the host wants it any more; what was queued is still sent."""
        self.finished = True
        self.gone = True
        self.inbox.clear()
        self._tell()

    def abort(self) -> None:
        """Cut it at once."""
        self.cut = True
        self.outbox.clear()
        self.close()

    def _tell(self) -> None:
        if self.state != CLOSED:
            self.guard.run(self.on_host)
            if self.guard.broken:
                self.ended("the device has failed")

    def changed(self) -> None:
        """The device says: the guest did something."""
        self.on_change()

    def ended(self, failure: str) -> None:
        """The device says: it is over, in good order when ``failure`` is empty."""
        if self.state != CLOSED:
            self.state = CLOSED
            self.failure = failure
            self.outbox.clear()
            self.on_change()


class _Opening:
    """A call of the device about one socket, without arguments, as guards make them."""

    def __init__(self, opener: Callable[[Socket], None], socket: Socket) -> None:
        self._opener: Callable[[Socket], None] = opener
        self._socket: Socket = socket

    def run(self) -> None:
        """Make it."""
        self._opener(self._socket)


class SocketHub:
    """All sockets of one device, and the ports on which programs on the host listen."""

    def __init__(self) -> None:
        self.guard: DeviceGuard = DeviceGuard()
        self.on_connect: Callable[[Socket], None] | None = None
        self.listeners: dict[int, Callable[[Socket], bool]] = {}

    def connect(self, port: int) -> Socket:
        """A socket on its way to the guest's ``port``, or ended already; ConfigError for no port."""
        opener = self.on_connect
        if opener is None:
            raise ConfigError("no device of this guest takes connections")
        check_port(port)
        socket = Socket(port, False)
        socket.guard = self.guard
        self.guard.run(_Opening(opener, socket).run)
        if self.guard.broken:
            socket.ended("the device has failed")
        return socket

    def listen(self, port: int, accept: Callable[[Socket], bool]) -> None:
        """Call ``accept`` with each socket that the guest opens to ``port``; False refuses it.

        ConfigError when the port is taken or is none.
        """
        check_port(port)
        if port in self.listeners:
            raise ConfigError(f"vsock port {port}: something listens there already")
        if len(self.listeners) >= MAX_LISTENERS:
            raise ConfigError(f"more than {MAX_LISTENERS} vsock listeners")
        self.listeners[port] = accept

    def unlisten(self, port: int) -> None:
        """Nobody listens there any more; sockets that are open stay so."""
        self.listeners.pop(port, None)


def check_port(port: int) -> None:
    """ConfigError unless it is one."""
    if port < 0 or port > MAX_PORT:
        raise ConfigError(f"vsock ports are 0 to {MAX_PORT}, not {port}")
