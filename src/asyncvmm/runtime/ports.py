"""A guest's character port as a trio stream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from asyncvmm.base.errors import GuestError
from asyncvmm.device import CharPort
from asyncvmm.runtime.inputs import Note, forget
from asyncvmm.runtime.journal_file import INPUT, TAKE
from asyncvmm.runtime.outbox import Outbox

SCAN_LIMIT = 1 << 20


class GuestEndedError(GuestError):
    """The guest stopped while something was still expected of it; the text shows its last words."""


def at_once(call: Callable[[], object]) -> None:
    """Call it now: for a stream without a conductor."""
    call()


class PortStream(trio.abc.Stream):
    """Bytes to and from a guest's port: a console, or a named port of virtio-console.

    ``receive_some`` returns b"" once the guest has ended and everything was read. Input enters the
    guest between two quanta; ``send_all`` waits while the port's queue (1 MiB) is full.

    ``later`` calls a function when tasks have their turn, and ``turn`` returns then. ``note`` hears
    of what enters the guest.
    """

    def __init__(
        self,
        port: CharPort,
        wake_guest: Callable[[], None],
        later: Callable[[Callable[[], object]], None] = at_once,
        turn: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
        outbox: Outbox | None = None,
        note: Note = forget,
    ) -> None:
        self._port = port
        self._note = note
        self._outbox = Outbox() if outbox is None else outbox
        self._later = later
        self._turn = turn
        self._wake_guest = wake_guest
        self._readable = trio.lowlevel.ParkingLot()
        self._writable = trio.lowlevel.ParkingLot()
        self._send_conflict = trio.Lock()
        self._unread = bytearray()  # what expect() looked at beyond its match
        self._closed = False
        self._ended = False
        self.bytes_received = 0
        self._signalled = {self._wake_readers: False, self._wake_writers: False}
        self._listen()

    def _listen(self) -> None:
        self._port.on_output = lambda: self._signal(self._wake_readers)
        self._port.on_input_room = lambda: self._signal(self._wake_writers)

    def move(self, port: CharPort) -> None:
        """The guest has another port: it was put back to another instant."""
        self._port = port
        self._listen()
        self._writable.unpark_all()

    def _signal(self, wake: Callable[[], None]) -> None:
        """Something is new at the guest's end: ``wake`` who waits for it, once its stretch is over."""
        if not self._signalled[wake]:
            self._signalled[wake] = True
            self._outbox.call(wake)

    def _wake_readers(self) -> None:
        self._signalled[self._wake_readers] = False
        if self._readable:
            self._later(self._readable.unpark_all)

    def _wake_writers(self) -> None:
        self._signalled[self._wake_writers] = False
        if self._writable:
            self._later(self._writable.unpark_all)

    @property
    def unread(self) -> bytes:
        """What was taken from the guest and not read yet."""
        return bytes(self._unread)

    @unread.setter
    def unread(self, data: bytes) -> None:
        self._unread[:] = data

    def guest_ended(self) -> None:
        """No more output will come: readers get what is left, then b""."""
        self._ended = True
        self._readable.unpark_all()
        self._writable.unpark_all()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Give the guest input; trio.BrokenResourceError when the guest has ended."""
        rest = bytes(data)
        async with self._send_conflict:
            while True:
                await self._turn()
                if self._closed:
                    raise trio.ClosedResourceError("this stream was closed")
                if self._ended:
                    raise trio.BrokenResourceError("the guest has ended")
                self._wake_guest()  # before: what the input starts must start at the right time
                fits = rest[: self._port.input_room]
                if fits:
                    self._note(INPUT, fits)
                    rest = rest[self._port.push(fits) :]
                    self._wake_guest()
                if not rest:
                    return
                if not self._port.input_room:
                    self._port.push(rest)  # takes nothing: the port says when it has room again
                    await self._writable.park()

    async def wait_send_all_might_not_block(self) -> None:
        """Return when the port's queue has room."""
        await trio.lowlevel.checkpoint()
        while not self._port.input_room and not self._ended:
            await self._writable.park()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """At least one byte of what the guest sent, or b"" after its end."""
        if max_bytes is not None and max_bytes < 1:
            raise ValueError("max_bytes must be at least 1")
        await trio.lowlevel.checkpoint()
        limit = max_bytes or 65536
        while True:
            if self._closed:
                raise trio.ClosedResourceError("this stream was closed")
            if self._unread:
                data = bytes(self._unread[:limit])
                del self._unread[:limit]
                return data
            if self._port.output_waiting:
                await self._turn()
                data = self._take_output(limit)
                if data:
                    return data
                continue
            if self._ended:
                return b""
            await self._readable.park()

    def _take_output(self, limit: int) -> bytes:
        was_full = self._port.room == 0
        if was_full:
            self._wake_guest()
        if self._port.output_waiting:
            self._note(TAKE, count=min(limit, self._port.output_waiting))
        data = self._port.take_output(limit)
        self.bytes_received += len(data)
        if was_full:
            self._wake_guest()
        return data

    async def expect(self, text: str | bytes, *, limit: int = SCAN_LIMIT) -> bytes:
        """Read up to and including ``text`` and return all of it, leaving what follows unread.

        GuestEndedError when the guest ends first; GuestError after ``limit`` bytes without it.
        """
        wanted = text.encode() if isinstance(text, str) else text
        if not wanted:
            raise ValueError("expect() needs a text to look for")
        seen = bytearray()
        while True:
            data = await self.receive_some()
            start = max(0, len(seen) - len(wanted) + 1)
            seen += data
            at = seen.find(wanted, start)
            if at >= 0:
                end = at + len(wanted)
                self._unread[:0] = seen[end:]
                return bytes(seen[:end])
            if not data:
                last = bytes(seen[-500:]).decode(errors="replace")
                raise GuestEndedError(f"the guest ended before it said {text!r}; it said: {last!r}")
            if len(seen) > limit:
                raise GuestError(f"{limit} bytes came from the guest without {text!r}")

    async def aclose(self) -> None:
        """Close this end; the guest goes on, and its output is kept for nobody."""
        self._closed = True
        self._readable.unpark_all()
        self._writable.unpark_all()
        await trio.lowlevel.checkpoint()
