"""The console device (virtio 1.2, 5.3), with several ports."""

from __future__ import annotations

import functools
import struct
from typing import Any, Final

from asyncvmm.base.errors import ConfigError, GuestError
from asyncvmm.device import CharPort, DeviceIo
from asyncvmm.virtio import Chain, VirtioDevice, VirtQueue
from asyncvmm_plugins.virtio_console.config import VirtioConsoleConfig
from asyncvmm_plugins.virtio_console.state import VirtioConsoleState

DEVICE_ID: Final = 3
QUEUE_SIZE: Final = 128

# Features (5.3.3).
F_SIZE: Final = 1 << 0
F_MULTIPORT: Final = 1 << 1
F_EMERG_WRITE: Final = 1 << 2

# Control events (5.3.6.2).
DEVICE_READY: Final = 0
PORT_ADD: Final = 1
PORT_READY: Final = 3
CONSOLE_PORT: Final = 4
RESIZE: Final = 5
PORT_OPEN: Final = 6
PORT_NAME: Final = 7

CONTROL_RECEIVE: Final = 2
CONTROL_TRANSMIT: Final = 3
EMERGENCY_OFFSET: Final = 8
PIECE_BYTES: Final = 1 << 16


class VirtioConsole(VirtioDevice):
    """Port 0 is ``io.console``; port N is the N-th name of the config.

    A port without the guest at its other end keeps its input until the guest opens it, because
    Linux throws away what comes earlier. Output waits in the guest's queue while the port is full.
    """

    def __init__(self, config: VirtioConsoleConfig, io: DeviceIo) -> None:
        self.names = ("", *config.ports)
        queues = [QUEUE_SIZE] * (2 * len(self.names) + 2)
        super().__init__(io, DEVICE_ID, queues, F_SIZE | F_MULTIPORT | F_EMERG_WRITE, bytes(12))
        self.rows_first = config.resize == "rows-first"
        self.ports: list[CharPort] = [io.console, *(io.port(name) for name in config.ports)]
        # How much of the buffer at the head of each transmit queue was sent already.
        self.sent = [0] * len(self.ports)
        self.blocked = [False] * len(self.ports)  # output waits for room at the host
        # Control messages that wait for a buffer: the newest value of each (port, event), so that
        # their number is bounded whatever the driver does.
        self.outbox: dict[tuple[int, int], int] = {}
        self._set_size()

    def reset(self) -> None:
        """See VirtioDevice; the guest has closed all ports."""
        super().reset()
        self.outbox.clear()
        self.sent = [0] * len(self.ports)
        self.blocked = [False] * len(self.ports)
        for number, port in enumerate(self.ports):
            port.set_guest_open(False)
            port.on_input = functools.partial(self._deliver, number)
            port.on_room = functools.partial(self._send, number)
            port.on_connection = functools.partial(self._connection_changed, number)
        self.ports[0].on_resize = self._resized

    def activated(self) -> None:
        """Without MULTIPORT there is only port 0, and it is open (5.3.5)."""
        if not self.has(F_MULTIPORT):
            self.ports[0].set_guest_open(True)

    # Queues.

    def _receive_queue(self, number: int) -> VirtQueue:
        """5.3.2: port 0 has queues 0 and 1, the control queues are 2 and 3, port 1 has 4 and 5."""
        return self.queues[2 * number + 2 if number else 0]

    def notified(self, queue: VirtQueue) -> None:
        """See VirtioDevice."""
        if queue.index == CONTROL_TRANSMIT:
            super().notified(queue)
        elif queue.index == CONTROL_RECEIVE:
            self._flush_outbox()
        else:
            number = queue.index // 2 - 1 if queue.index > 3 else 0
            if queue.index % 2:
                self._send(number)
            else:
                self._deliver(number)

    def _deliver(self, number: int) -> None:
        """The host's bytes to the guest."""
        port, queue = self.ports[number], self._receive_queue(number)
        if not port.guest_open:
            return
        queue.hold_signals()
        while port.input_waiting and (chain := queue.pop()):
            if chain.writable_bytes == 0:
                self.fail(f"port {number}: a receive buffer that cannot be written (5.3.6.1)")
                break
            chain.write(port.receive(chain.writable_bytes))
            queue.complete(chain)
        queue.release_signals()

    def _send(self, number: int) -> None:
        """The guest's bytes to the host, as far as the port has room."""
        port, queue = self.ports[number], self.queues[self._receive_queue(number).index + 1]
        left = queue.pending()
        self.blocked[number] = False
        queue.hold_signals()
        while left > 0 and (chain := queue.pop()):
            chain.skip(self.sent[number])
            while piece := chain.read(PIECE_BYTES):
                fitted = port.transmit(piece)
                self.sent[number] += fitted
                if fitted < len(piece):
                    self.blocked[number] = True
                    queue.unpop(chain)
                    queue.release_signals()
                    return
            self.sent[number] = 0
            queue.complete(chain, 0)
            left -= 1
        queue.release_signals()

    # Control messages.

    def handle(self, queue: VirtQueue, chain: Chain) -> None:
        """A control message of the driver (5.3.6.2)."""
        message = chain.read(8)
        if len(message) < 8:
            raise GuestError("a control message of less than 8 bytes (5.3.6.2)")
        queue.complete(chain, 0)
        number, event, value = struct.unpack("<IHH", message)
        if event == DEVICE_READY:
            if value == 1:
                for port in range(len(self.ports)):
                    self._post(port, PORT_ADD, 1)
        elif number >= len(self.ports):
            self.io.log(f"control message {event} for port {number}, which does not exist")
        elif event == PORT_READY and value == 1:
            self._introduce(number)
        elif event == PORT_OPEN:
            self.ports[number].set_guest_open(value == 1)
            self._deliver(number)

    def _introduce(self, number: int) -> None:
        if number == 0:
            self._post(number, CONSOLE_PORT, 1)
            self._post(number, RESIZE, 0)
        else:
            self._post(number, PORT_NAME, 1)
        self._post(number, PORT_OPEN, int(self.ports[number].connected))

    def _post(self, number: int, event: int, value: int) -> None:
        self.outbox[number, event] = value
        self._flush_outbox()

    def _flush_outbox(self) -> None:
        queue = self.queues[CONTROL_RECEIVE]
        while self.outbox and (chain := queue.pop()):
            (number, event), value = next(iter(self.outbox.items()))
            message = struct.pack("<IHH", number, event, value)
            if event == RESIZE:
                port = self.ports[number]
                size = (port.columns, port.rows)
                message += struct.pack("<HH", *(reversed(size) if self.rows_first else size))
            elif event == PORT_NAME:
                message += self.names[number].encode()
            if chain.writable_bytes < len(message):
                self.fail(f"a control buffer of {chain.writable_bytes} bytes (5.3.6.2)")
                return
            del self.outbox[number, event]
            queue.complete(chain, chain.write(message))

    def _connection_changed(self, number: int) -> None:
        if self.active and self.has(F_MULTIPORT):
            self._post(number, PORT_OPEN, int(self.ports[number].connected))

    # Configuration space (5.3.4).

    def _set_size(self) -> None:
        port = self.ports[0]
        self.config[:] = struct.pack("<HHII", port.columns, port.rows, len(self.ports), 0)

    def _resized(self) -> None:
        self._set_size()
        self.config_changed()
        if self.active and self.has(F_MULTIPORT):
            self._post(0, RESIZE, 0)

    def write_config(self, offset: int, size: int, value: int) -> None:
        """``emerg_wr``: a byte for the console, even before the driver is ready (5.3.4)."""
        if offset == EMERGENCY_OFFSET:
            self.ports[0].transmit(bytes([value & 0xFF]))

    # Snapshots.

    def state(self) -> VirtioConsoleState:
        """What a reset device lacks besides the transport's part."""
        return VirtioConsoleState(
            guest_open=tuple(port.guest_open for port in self.ports),
            sent=tuple(self.sent),
            outbox=tuple((number, event, value) for (number, event), value in self.outbox.items()),
            blocked=tuple(self.blocked),
        )

    def save(self) -> dict[str, object]:
        """See VirtioDevice."""
        return {**super().save(), "console": self.state().save()}

    def check_saved(self, saved: dict[str, Any]) -> None:
        """See VirtioDevice."""
        super().check_saved(saved)
        console = saved.get("console")
        if not isinstance(console, dict):
            raise ConfigError(f"{self.io.path}: the saved console has no state")
        state = VirtioConsoleState.load(console)
        count = len(self.ports)
        if not len(state.guest_open) == len(state.sent) == len(state.blocked) == count:
            raise ConfigError(f"{self.io.path}: the saved console has other ports")
        if any(number >= count for number, _, _ in state.outbox):
            raise ConfigError(f"{self.io.path}: a saved message is for a port that does not exist")

    def load(self, saved: dict[str, Any]) -> None:
        """See VirtioDevice."""
        super().load(saved)
        state = VirtioConsoleState.load(saved["console"])
        self.sent, self.blocked = list(state.sent), list(state.blocked)
        self.outbox = {(number, event): value for number, event, value in state.outbox}
        for port, is_open in zip(self.ports, state.guest_open, strict=True):
            port.set_guest_open(is_open)
        self._set_size()

    def resume(self) -> None:
        """See VirtioDevice: what waited for room goes on. What waits for a buffer waits for a bell."""
        super().resume()
        for number, blocked in enumerate(self.blocked):
            if blocked:
                self._send(number)
