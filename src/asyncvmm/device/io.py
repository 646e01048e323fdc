"""What a device is handed: capabilities, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mypy_extensions import i64, mypyc_attr

from asyncvmm.base.errors import ConfigError
from asyncvmm.device.balloon import Balloon
from asyncvmm.device.blob import Blob
from asyncvmm.device.charport import CharPort
from asyncvmm.device.folder import Folder
from asyncvmm.device.guard import DeviceGuard
from asyncvmm.device.inbox import Inbox
from asyncvmm.device.net import NetPort
from asyncvmm.device.rate import IoRate
from asyncvmm.device.rng import RandomStream
from asyncvmm.device.sockets import SocketHub
from asyncvmm.device.window import MemoryWindow
from asyncvmm.interrupts.lines import InterruptLine
from asyncvmm.memory.pages import Ram
from asyncvmm.timeline.events import Event, Timeline

LOG_LINES: Final = 1000
LOG_LINE_LENGTH: Final = 500
MAX_PORTS: Final = 64


class Dma:
    """A device's reach into its guest's RAM, and no further: DmaError outside it.

    Addresses are guest-physical; they may be any i64 (an unsigned address from 2**63 up is negative
    here and always outside).
    """

    def __init__(self, ram: Ram) -> None:
        self._ram: Ram = ram

    @property
    def size_bytes(self) -> int:
        """How much RAM there is."""
        return self._ram.size

    def contains(self, address: i64, length: i64) -> bool:
        """Whether ``length`` bytes from ``address`` can be reached."""
        return self._ram.contains(address, length)

    def read(self, address: i64, length: i64) -> bytes:
        """``length`` bytes from ``address``."""
        return self._ram.read(address, length)

    def write(self, address: i64, data: bytes) -> None:
        """Write ``data`` at ``address``, all or nothing."""
        self._ram.write(address, data)

    def discard(self, address: i64, length: i64) -> int:
        """The guest has no use for what is there: every whole page within reads as zeros from now on
        and takes no memory until it is written; how many did so far. DmaError outside RAM.
        """
        return self._ram.discard(address, length)

    def load(self, address: i64, size: i64) -> i64:
        """The little-endian number of ``size`` (1, 2, 4 or 8) bytes at ``address``; 8 is signed."""
        ram = self._ram
        bits = (address & 7) << 3
        if size == 8 and bits == 0 and ram.contains(address, 8):
            return ram.load64(address)
        if size < 8 and bits + (size << 3) <= 64 and ram.contains(address, size):
            one: i64 = 1
            return (ram.load64(address & -8) >> bits) & ((one << (size << 3)) - 1)
        return ram.load(address, size)

    def store(self, address: i64, size: i64, value: i64) -> None:
        """Store the low ``size`` (1, 2, 4 or 8) bytes of ``value`` at ``address``."""
        ram = self._ram
        if size == 8 and address & 7 == 0 and ram.contains(address, 8):
            ram.store64(address, value)
        else:
            ram.store(address, size, value)


class DeviceClock:
    """Virtual time for devices. ``epoch_ns`` is the wall time (Unix, ns) of virtual time 0."""

    def __init__(self, timeline: Timeline, epoch_ns: int = 0) -> None:
        self._timeline: Timeline = timeline
        self.epoch_ns: int = epoch_ns

    @property
    def now_ns(self) -> int:
        """Virtual nanoseconds since the host's start."""
        return self._timeline.now_ns

    def after(self, delay_ns: int, action: Callable[[], None]) -> Event:
        """Run ``action`` in ``delay_ns`` (>= 0); the event can be cancelled and has ``time_ns``."""
        return self._timeline.after(delay_ns if delay_ns > 0 else 0, action)


@mypyc_attr(allow_interpreted_subclasses=True)
class Power:
    """The machine's power, for devices that control it. This one only records the last request."""

    def __init__(self) -> None:
        self.requested: str = ""
        self.code: int = 0

    def poweroff(self, code: int) -> None:
        """Stop the machine after the current instruction; ``code`` 0 means success."""
        self.requested = "poweroff"
        self.code = code

    def reboot(self) -> None:
        """Reset the machine after the current instruction."""
        self.requested = "reboot"


class DeviceIo:
    """All capabilities of one device. ``path`` names it in messages and seeds its randomness.

    ``blob``, ``folder``, ``console``, ``power``, ``rate``, ``guard`` and ``log_sink`` may be replaced
    before the device is created: an empty blob, an empty folder, a port nobody reads, a power button that
    only records, no limit, no guard and a list of log lines are what it gets otherwise. ``inbox`` leads
    to the device's own ``run(io)``, for those that have one; ``window`` is memory at its address range,
    for those whose type asks for it.
    """

    def __init__(
        self,
        path: str,
        dma: Dma,
        irq: InterruptLine,
        clock: DeviceClock,
        rng: RandomStream,
    ) -> None:
        self.path: str = path
        self.dma: Dma = dma
        self.irq: InterruptLine = irq
        self.clock: DeviceClock = clock
        self.rng: RandomStream = rng
        self.blob: Blob = Blob()
        self.folder: Folder = Folder()
        self.power: Power = Power()
        self.rate: IoRate = IoRate()
        self.guard: DeviceGuard = DeviceGuard()
        self.inbox: Inbox = Inbox()
        self.window: MemoryWindow = MemoryWindow()
        self.ports: dict[str, CharPort] = {}
        self.messages: list[str] = []
        self.log_sink: Callable[[str, str], None] | None = None
        self._lines: int = 0
        self._console: CharPort = CharPort("console")
        self._net: NetPort = NetPort(path, b"\x02\0\0\0\0\1", self._time)
        # Made when the device asks for them: who has one is known by that.
        self.used_sockets: SocketHub | None = None
        self.used_balloon: Balloon | None = None

    def _time(self) -> int:
        return self.clock.now_ns

    @property
    def net(self) -> NetPort:
        """The device's socket in a network; a cable that leads nowhere unless the host plugs it in."""
        if self._net.schedule is None:
            self._net.guard = self.guard
            self._net.schedule = self.clock.after
        return self._net

    @property
    def sockets(self) -> SocketHub:
        """Stream sockets to programs on the host."""
        hub = self.used_sockets
        if hub is None:
            hub = SocketHub()
            hub.guard = self.guard
            self.used_sockets = hub
        return hub

    @property
    def balloon(self) -> Balloon:
        """What the host wants of a memory balloon, and is told."""
        balloon = self.used_balloon
        if balloon is None:
            balloon = Balloon()
            balloon.guard = self.guard
            self.used_balloon = balloon
        return balloon

    @property
    def console(self) -> CharPort:
        """The port for the device's one or first character stream."""
        return self._console

    @console.setter
    def console(self, port: CharPort) -> None:
        port.guard = self.guard
        self._console = port

    def port(self, name: str) -> CharPort:
        """The further port of that name, made on first use; at most 64 a device."""
        port = self.ports.get(name)
        if port is None:
            if len(self.ports) >= MAX_PORTS:
                raise ConfigError(f"{self.path}: more than {MAX_PORTS} ports")
            port = CharPort(name)
            port.guard = self.guard
            self.ports[name] = port
        return port

    def log(self, message: str) -> None:
        """Leave a line for the guest's log: ``log_sink(path, message)``, or ``messages`` without
        one.

        A device says at most 1000 lines of 500 characters in its life, since a guest may provoke
        them.
        """
        if self._lines > LOG_LINES:
            return
        self._lines += 1
        if self._lines > LOG_LINES:
            message = "further messages are dropped"
        elif len(message) > LOG_LINE_LENGTH:
            message = message[:LOG_LINE_LENGTH] + "..."
        sink = self.log_sink
        if sink is not None:
            sink(self.path, message)
        else:
            self.messages.append(message)
