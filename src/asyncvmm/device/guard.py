"""Every way into a device's code besides the bus: its events, its ports, its reset."""

from __future__ import annotations

from collections.abc import Callable

from mypy_extensions import mypyc_attr

from asyncvmm.bus.address_map import Bus


@mypyc_attr(allow_interpreted_subclasses=True)
class DeviceGuard:
    """Calls a device. This one lets exceptions through, as a test of a device wants it."""

    def __init__(self) -> None:
        self.broken: bool = False

    def run(self, action: Callable[[], None]) -> None:
        """``action()``, unless the device is broken."""
        if not self.broken:
            action()


class BusGuard(DeviceGuard):
    """Reports exceptions as failures of the device called ``name``, like the bus does."""

    def __init__(self, bus: Bus, name: str) -> None:
        super().__init__()
        self._bus: Bus = bus
        self._name: str = name

    def run(self, action: Callable[[], None]) -> None:
        """See DeviceGuard."""
        if self.broken:
            return
        bus = self._bus
        outer = bus.busy
        bus.calls += 1
        bus.busy = self._name
        try:
            action()
        except Exception as error:
            bus.fail(self._name, error)
        bus.busy = outer


class GuardedAction:
    """An event's action that goes through the guard."""

    def __init__(self, guard: DeviceGuard, action: Callable[[], None]) -> None:
        self._guard: DeviceGuard = guard
        self._action: Callable[[], None] = action

    def run(self) -> None:
        """Call it."""
        self._guard.run(self._action)
