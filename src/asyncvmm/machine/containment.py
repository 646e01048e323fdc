"""What becomes of a guest when the code of one of its devices fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import attrs

from asyncvmm.base.errors import GuestError
from asyncvmm.bus.address_map import Bus, FailureListener, MmioTarget
from asyncvmm.device import CharPort
from asyncvmm.machine.bugs import bug_text
from asyncvmm.machine.devices import Attached
from asyncvmm.virtio import BrokenDevice, VirtioMmio

FailureMode = Literal["device", "guest"]


@attrs.frozen
class DeviceFailure:
    """A device's bug: its path, and what it raised."""

    device: str
    cause: str


class DeadTarget(MmioTarget):
    """Refuses every access: what is left of a device at its address."""

    def read(self, offset: int, size: int) -> int:
        """Refused."""
        raise GuestError("this device has failed")

    def write(self, offset: int, size: int, value: int) -> None:
        """Refused."""
        raise GuestError("this device has failed")


class Containment(FailureListener):
    """Decides by ``mode``: the device alone is given up, or the guest stops (InternalError out of
    ``Machine.run``). Controllers of the board, without which no guest can go on, always stop it.
    """

    def __init__(self, bus: Bus, stop: Callable[[], None]) -> None:
        super().__init__()
        self.mode: FailureMode = "guest"
        self.devices: list[Attached] = []
        self._bus = bus
        self._stop = stop
        self._news: list[DeviceFailure] = []
        bus.listener = self

    def failed(self, name: str, error: Exception) -> None:
        """See FailureListener."""
        device = next((device for device in self.devices if device.io.path == name), None)
        if self.mode == "guest" or device is None:
            self._stop()
            return
        self._bus.failures = [failure for failure in self._bus.failures if failure[0] != name]
        if device.io.guard.broken:
            return
        self._news.append(DeviceFailure(name, bug_text(error)))
        self.give_up(device)

    def take_news(self) -> list[DeviceFailure]:
        """The devices given up since the last call."""
        if not self._news:
            return []
        news, self._news = self._news, []
        return news

    def give_up(self, device: Attached) -> None:
        """The device is dead from now on: its accesses are refused, its line is low."""
        io = device.io
        io.guard.broken = True
        if isinstance(device.target, VirtioMmio):
            device.target.device = BrokenDevice(device.target.device)
        else:
            device.region.target = DeadTarget()
            io.irq.set(False)
        for port in (io.console, *io.ports.values()):
            _drop_input(port)


def _drop_input(port: CharPort) -> None:
    """Nobody reads this port any more: writers must not wait for it."""
    port.receive(port.input_waiting)
