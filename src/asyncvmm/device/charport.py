"""The host's side of a character device: two bounded byte queues and a window size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

DEFAULT_CAPACITY: Final = 1 << 20


def _nothing() -> None:
    return None


class CharPort:
    """Bytes between a device (``transmit``, ``receive``) and the host (``push``, ``take_output``).

    Neither side ever waits: each queue holds ``capacity`` bytes, ``room`` and ``input_room`` say
    how many more fit, and the side that was short is called back when there is room again.
    Callbacks take no arguments and run at once, in the caller's stack; each has one listener.
    """

    def __init__(self, name: str, capacity: int = DEFAULT_CAPACITY) -> None:
        self.name: str = name
        self.capacity: int = capacity
        # The device's listeners.
        self.on_input: Callable[[], None] = _nothing
        self.on_room: Callable[[], None] = _nothing
        self.on_resize: Callable[[], None] = _nothing
        self.on_connection: Callable[[], None] = _nothing
        # The host's listeners.
        self.on_output: Callable[[], None] = _nothing
        self.on_input_room: Callable[[], None] = _nothing
        self.on_guest_open: Callable[[], None] = _nothing
        # Whether somebody on the host has the port open, and whether the guest has.
        self.connected: bool = True
        self.guest_open: bool = False
        self.columns: int = 80
        self.rows: int = 24
        self._input: bytearray = bytearray()
        self._output: bytearray = bytearray()
        self._starved: bool = False

    # The device's side.

    @property
    def room(self) -> int:
        """How many bytes ``transmit`` accepts now."""
        return self.capacity - len(self._output)

    @property
    def input_waiting(self) -> int:
        """How many bytes ``receive`` can give now."""
        return len(self._input)

    def transmit(self, data: bytes) -> int:
        """Send to the host; returns how many bytes fitted. ``on_room`` follows when some did
        not.
        """
        count = len(data)
        if count > self.room:
            count = self.room
            self._starved = True
        if count > 0:
            self._output += data if count == len(data) else data[:count]
            self.on_output()
        return count

    def receive(self, limit: int) -> bytes:
        """Up to ``limit`` bytes of what the host pushed."""
        data = bytes(self._input[:limit])
        if data:
            was_full = len(self._input) >= self.capacity
            del self._input[: len(data)]
            if was_full:
                self.on_input_room()
        return data

    def set_guest_open(self, is_open: bool) -> None:
        """The guest opened or closed its end."""
        if is_open != self.guest_open:
            self.guest_open = is_open
            self.on_guest_open()

    # The host's side.

    @property
    def input_room(self) -> int:
        """How many bytes ``push`` accepts now."""
        return self.capacity - len(self._input)

    @property
    def output_waiting(self) -> int:
        """How many bytes ``take_output`` can give now."""
        return len(self._output)

    def push(self, data: bytes) -> int:
        """Give the guest input; returns how many bytes fitted (``on_input_room`` tells of room)."""
        count = len(data)
        if count > self.input_room:
            count = self.input_room
        if count > 0:
            self._input += data if count == len(data) else data[:count]
            self.on_input()
        return count

    def take_output(self, limit: int = DEFAULT_CAPACITY) -> bytes:
        """Up to ``limit`` bytes of what the guest sent."""
        data = bytes(self._output[:limit])
        if data:
            del self._output[: len(data)]
            if self._starved:
                self._starved = False
                self.on_room()
        return data

    def resize(self, columns: int, rows: int) -> None:
        """The host's window has a new size, in characters (1..65535)."""
        if columns < 1 or rows < 1 or columns > 0xFFFF or rows > 0xFFFF:
            raise ValueError(f"a window of {columns} by {rows} characters")
        if columns != self.columns or rows != self.rows:
            self.columns = columns
            self.rows = rows
            self.on_resize()

    def set_connected(self, connected: bool) -> None:
        """Somebody on the host opened or closed the port."""
        if connected != self.connected:
            self.connected = connected
            self.on_connection()
