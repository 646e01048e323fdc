"""The host's side of a character device: two bounded byte queues and a window size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from asyncvmm.base.errors import ConfigError
from asyncvmm.device.guard import DeviceGuard

DEFAULT_CAPACITY: Final = 1 << 20


def _nothing() -> None:
    return None


class CharPort:
    """Bytes between a device (``transmit``, ``receive``) and the host (``push``, ``take_output``).

    Neither side ever waits: each queue holds ``capacity`` bytes, ``transmit`` and ``push`` say how
    many they took, and whoever fell short is called back when there is room again. Callbacks take
    no arguments and run at once, in the caller's stack; each has one listener. Nobody is called
    back in the middle of a call of their own: after ``transmit`` or ``receive`` a device looks at
    the queues again instead.
    """

    def __init__(self, name: str, capacity: int = DEFAULT_CAPACITY) -> None:
        self.name: str = name
        self.capacity: int = capacity
        # The device's listeners.
        self.on_input: Callable[[], None] = _nothing
        self.on_room: Callable[[], None] = _nothing
        self.on_resize: Callable[[], None] = _nothing
        self.on_connection: Callable[[], None] = _nothing
        # What the device's listeners are called through.
        self.guard: DeviceGuard = DeviceGuard()
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
        self._output_starved: bool = False
        self._input_starved: bool = False
        self._device_busy: bool = False
        self._host_busy: bool = False

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
        """Send to the host; how many bytes fitted. ``on_room`` follows when some did not."""
        done = 0
        length = len(data)
        while done < length:
            count = length - done
            if count > self.room:
                count = self.room
            if count <= 0:
                self._output_starved = True
                break
            self._output += data[done : done + count]
            done += count
            if not self._host_busy:
                self._device_busy = True
                self.on_output()
                self._device_busy = False
        return done

    def receive(self, limit: int) -> bytes:
        """Up to ``limit`` bytes of what the host pushed."""
        if limit <= 0 or len(self._input) == 0:
            return b""
        data = bytes(self._input[:limit])
        del self._input[: len(data)]
        if self._input_starved and not self._host_busy:
            self._input_starved = False
            self._device_busy = True
            self.on_input_room()
            self._device_busy = False
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
        """Give the guest input; how many bytes fitted. ``on_input_room`` follows when some did
        not.
        """
        done = 0
        length = len(data)
        while done < length:
            count = length - done
            if count > self.input_room:
                count = self.input_room
            if count <= 0:
                self._input_starved = True
                break
            self._input += data[done : done + count]
            done += count
            if not self._device_busy:
                self._host_busy = True
                self.guard.run(self.on_input)
                self._host_busy = False
        return done

    def take_output(self, limit: int = DEFAULT_CAPACITY) -> bytes:
        """Up to ``limit`` bytes of what the guest sent."""
        if limit <= 0 or len(self._output) == 0:
            return b""
        data = bytes(self._output[:limit])
        del self._output[: len(data)]
        if self._output_starved and not self._device_busy:
            self._output_starved = False
            self._host_busy = True
            self.guard.run(self.on_room)
            self._host_busy = False
        return data

    def resize(self, columns: int, rows: int) -> None:
        """The host's window has a new size, in characters (1..65535)."""
        if columns < 1 or rows < 1 or columns > 0xFFFF or rows > 0xFFFF:
            raise ValueError(f"a window of {columns} by {rows} characters")
        if columns != self.columns or rows != self.rows:
            self.columns = columns
            self.rows = rows
            self.guard.run(self.on_resize)

    def set_connected(self, connected: bool) -> None:
        """Somebody on the host opened or closed the port."""
        if connected != self.connected:
            self.connected = connected
            self.guard.run(self.on_connection)

    # Snapshots.

    def save(self) -> dict[str, object]:
        """What is under way in both directions, and the window, as plain data."""
        return {
            "version": 1,
            "input": self._input.hex(),
            "output": self._output.hex(),
            "columns": self.columns,
            "rows": self.rows,
        }

    def load(self, saved: dict[str, object]) -> None:
        """Take back what ``save`` gave; nobody is called. ConfigError when it does not fit."""
        queues: list[bytearray] = []
        for name in ("input", "output"):
            text = saved.get(name)
            try:
                queues.append(bytearray.fromhex(text if isinstance(text, str) else "?"))
            except ValueError as error:
                raise ConfigError(f"port {self.name}: saved {name} is not bytes") from error
            if len(queues[-1]) > self.capacity:
                raise ConfigError(f"port {self.name}: saved {name} does not fit")
        columns, rows = saved.get("columns"), saved.get("rows")
        if type(columns) is not int or type(rows) is not int or saved.get("version") != 1:
            raise ConfigError(f"port {self.name}: saved state of an unknown version")
        if columns < 1 or rows < 1 or columns > 0xFFFF or rows > 0xFFFF:
            raise ConfigError(f"port {self.name}: saved window is {columns} by {rows}")
        self._input, self._output = queues[0], queues[1]
        self.columns, self.rows = columns, rows
        self._input_starved = self._output_starved = True
