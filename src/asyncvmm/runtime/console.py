"""A guest's console: everything it said is kept for one reader, and goes to every tap at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from asyncvmm.device import CharPort
from asyncvmm.runtime.inputs import Note, forget
from asyncvmm.runtime.journal_file import RESIZE
from asyncvmm.runtime.outbox import Outbox
from asyncvmm.runtime.ports import PortStream, at_once

KEPT_BYTES = 4 << 20


class Console(PortStream):
    """The console as a trio stream with ``expect``. Output that nobody reads never stops the guest.

    The last 4 MiB are kept for ``receive_some``; ``bytes_dropped`` counts what was older. ``taps`` are
    called with the output of each stretch of virtual time: they must not block. One that raises is
    taken off the list, and its error ends the guest's task, and so the host's block.
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
        super().__init__(port, wake_guest, later, turn, outbox, note)
        self._size = port.columns, port.rows
        self.taps: list[Callable[[bytes], None]] = []
        self.bytes_dropped = 0
        self.tap_error: Exception | None = None
        self._untold = bytearray()
        self._signalled[self.tell] = False
        self._listen()
        self._take()

    def _listen(self) -> None:
        super()._listen()
        self._port.on_output = self._take

    def move(self, port: CharPort) -> None:
        """See PortStream. Its window is as large as the guest knows."""
        super().move(port)
        self._size = port.columns, port.rows

    def _take(self) -> None:
        data = self._port.take_output()
        if not data:
            return
        self._untold += data
        self._unread += data
        excess = len(self._unread) - KEPT_BYTES
        if excess > 0:
            del self._unread[:excess]
            self.bytes_dropped += excess
        self._signal(self.tell)

    def tell(self) -> None:
        """Call the taps with what they have not been told yet."""
        self._signalled[self.tell] = False
        data = bytes(self._untold)
        self._untold.clear()
        for tap in list(self.taps):
            # Nobody above catches this for the guest: the conductor asks for it when it is due.
            try:
                tap(data)
            except Exception as error:
                self.taps.remove(tap)
                self.tap_error = self.tap_error or error
        self._wake_readers()

    def raise_tap_error(self) -> None:
        """Raise the first error of a tap, once; nothing when there was none."""
        error, self.tap_error = self.tap_error, None
        if error is not None:
            raise error

    def resize(self, columns: int, rows: int) -> None:
        """The window has a new size in characters; devices that can tell their guest do, when tasks
        have their turn.
        """
        if not (1 <= columns <= 0xFFFF and 1 <= rows <= 0xFFFF):
            raise ValueError(f"a window of {columns} by {rows} characters")
        self._size = columns, rows
        self._later(self._resize)

    def _resize(self) -> None:
        columns, rows = self._size
        if (columns, rows) != (self._port.columns, self._port.rows) and not self._ended:
            self._wake_guest()
            self._note(RESIZE, columns=columns, rows=rows)
            self._port.resize(columns, rows)
            self._wake_guest()
