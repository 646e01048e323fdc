"""A connection of a gateway, or of a guest's socket device, as a trio stream."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

import trio

from asyncvmm.base.errors import GuestError
from asyncvmm.runtime.entrance import Entrance
from asyncvmm.runtime.journal_file import ABORT, FINISH, HANG_UP, RECEIVE, SEND

T = TypeVar("T")

CHUNK: Final = 1 << 16
CLOSED: Final = "closed"


class StreamConnection(Protocol):
    """What a stream needs of a connection; it never waits. See ``network.tcp`` and ``device.sockets``."""

    on_change: Callable[[], None]

    @property
    def target_port(self) -> int:
        """The one that was asked for."""
        ...

    @property
    def state(self) -> str:
        """CLOSED at its end."""
        ...

    @property
    def failure(self) -> str:
        """Why it ended, if it was cut."""
        ...

    @property
    def connected(self) -> bool:
        """Whether the other side has accepted."""
        ...

    @property
    def send_room(self) -> int:
        """How much ``send`` takes."""
        ...

    @property
    def readable(self) -> int:
        """How much ``receive`` gives."""
        ...

    @property
    def eof(self) -> bool:
        """Whether nothing more will come."""
        ...

    @property
    def has_segments(self) -> bool:
        """Whether there is something to tell the guest, such as the room that ``receive`` has made."""
        ...

    def send(self, data: bytes, now_ns: int) -> int:
        """How much fitted."""
        ...

    def receive(self, limit: int) -> bytes:
        """What has come."""
        ...

    def finish(self, now_ns: int) -> None:
        """No more will be sent."""
        ...

    def close(self, now_ns: int) -> None:
        """Nobody wants it any more."""
        ...

    def abort(self) -> None:
        """Cut it."""
        ...


class Carrier(Protocol):
    """Whoever takes what a connection has to send."""

    @property
    def place(self) -> str:
        """Its name in a journal; empty for what no journal can repeat."""
        ...

    def changed(self, key: Any, time_ns: int) -> None:
        """The connection called ``key`` was used."""
        ...


class ConnectFailedError(GuestError):
    """Nobody in the guest takes connections on that port; the text says how it showed."""


class GuestStream(trio.abc.HalfCloseableStream):
    """Bytes to and from a program in a guest: over TCP through a gateway, or through its vsock.

    As with any trio stream: ``receive_some`` returns b"" when the guest has finished, and
    trio.BrokenResourceError is raised when the connection was cut.
    """

    def __init__(
        self,
        gateway: Carrier,
        key: Any,
        connection: StreamConnection,
        entrance: Entrance,
        *,
        live: bool = False,
    ) -> None:
        self.connection: Final = connection
        self._gateway = gateway
        self._key = key
        self._entrance = entrance
        self._live = live
        self._changed = trio.lowlevel.ParkingLot()
        self._send_conflict = trio.Lock()
        self._closed = False
        # Called in tasks' turn when there is news, before tasks are woken for it.
        self.on_turn: Callable[[], None] | None = None
        connection.on_change = self._wake

    def _wake(self) -> None:
        if self._changed or self.on_turn is not None:
            self._entrance.later(self._tell)

    def _tell(self) -> None:
        if self.on_turn is not None:
            self.on_turn()
        self._changed.unpark_all()

    def _enter(
        self, action: Callable[[int], T], kind: int, data: bytes = b"", **names: object
    ) -> T:
        def act(now_ns: int) -> T:
            done = action(now_ns)
            self._gateway.changed(self._key, now_ns)
            return done

        return self._entrance.enter(act, live=self._live, note=self._note(kind, data, names))

    def _note(
        self, kind: int, data: bytes, names: dict[str, object]
    ) -> tuple[int, dict[str, Any], bytes] | None:
        if not self._gateway.place:
            return None
        place = {"gateway": self._gateway.place, "key": key_text(self._key)}
        return (kind, place | names, data)

    async def wait_connected(self) -> None:
        """Return when the guest has accepted; ConnectFailedError when it does not."""
        await self._entrance.turn()
        while not self.connection.connected:
            if self.connection.state == CLOSED:
                raise ConnectFailedError(
                    f"port {self.connection.target_port}: {self.connection.failure}"
                )
            await self._changed.park()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Return when everything is queued; bounded by the guest's window and a buffer of 512 KiB."""
        rest = memoryview(bytes(data))
        async with self._send_conflict:
            while True:
                await self._entrance.turn()
                self._check()
                if self.connection.send_room and rest:
                    piece = bytes(rest[: self.connection.send_room])
                    sent = self._enter(functools.partial(self.connection.send, piece), SEND, piece)
                    rest = rest[sent:]
                if not rest:
                    return
                await self._changed.park()

    async def wait_send_all_might_not_block(self) -> None:
        """See trio.abc.SendStream."""
        await self._entrance.turn()
        while not self.connection.send_room:
            self._check()
            await self._changed.park()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """At least one byte, or b"" at the end."""
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        while True:
            await self._entrance.turn()
            if self._closed:
                raise trio.ClosedResourceError("this stream was closed")
            if self.connection.readable:
                return self._take(max_bytes or CHUNK)
            if self.cut:
                raise trio.BrokenResourceError(self.connection.failure)
            if self.connection.eof:
                return b""
            await self._changed.park()

    async def turn(self) -> None:
        """Return when tasks have their turn, as ``take_now`` and ``send_now`` need."""
        await self._entrance.turn()

    def send_now(self, data: bytes) -> bool:
        """Queue all of ``data`` without waiting; False, with nothing done, when that cannot be now."""
        if not self._entrance.between or self._closed or self._send_conflict.locked():
            return False
        if self.connection.send_room < len(data):
            return False
        self._enter(functools.partial(self.connection.send, data), SEND, data)
        return True

    def take_now(self, limit: int) -> bytes | None:
        """What has come, b"" at the end, None when it is too early for either. In tasks' turn only.
        trio.BrokenResourceError when the connection was cut.
        """
        if self._closed:
            return b""
        if self.connection.readable:
            return self._take(limit)
        if self.cut:
            raise trio.BrokenResourceError(self.connection.failure)
        return b"" if self.connection.eof else None

    @property
    def cut(self) -> bool:
        """Whether the connection is over otherwise than in good order."""
        return self.connection.state == CLOSED and bool(self.connection.failure)

    def _take(self, limit: int) -> bytes:
        note = self._note(RECEIVE, b"", {"limit": limit})
        data = self._entrance.take(lambda: self.connection.receive(limit), note=note)
        if self.connection.has_segments:  # more room, of which the guest is told
            self._entrance.enter_again(lambda now: self._gateway.changed(self._key, now))
        return data

    async def send_eof(self) -> None:
        """No more will be sent."""
        async with self._send_conflict:
            await self._entrance.turn()
            self._check()
            self._enter(self.connection.finish, FINISH)

    async def aclose(self) -> None:
        """Close both directions; what was queued is still sent."""
        if not self._closed:
            self._closed = True
            self.connection.on_change = _nothing
            self._entrance.later(lambda: self._enter(self.connection.close, HANG_UP))
            self._changed.unpark_all()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """Cut it: RST."""
        if not self._closed:
            self._closed = True
            self.connection.on_change = _nothing
            self._entrance.later(lambda: self._enter(lambda now: self.connection.abort(), ABORT))
            self._changed.unpark_all()

    def _check(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self.connection.state == CLOSED:
            raise trio.BrokenResourceError(self.connection.failure or "the connection is over")


def key_text(key: Any) -> list[str | int]:
    """A connection's name in a journal. Those of a guest's vsock have numbers."""
    if isinstance(key, int):
        return [key]
    return [key[0].hex(), key[1], key[2].hex(), key[3]]


def _nothing() -> None:
    return None
