"""The clock that a machine hands to its devices: exact also in the middle of a slice."""

from __future__ import annotations

from collections.abc import Callable

from mypy_extensions import i64

from asyncvmm.device.guard import DeviceGuard, GuardedAction
from asyncvmm.device.io import DeviceClock
from asyncvmm.timeline.clock import Clock
from asyncvmm.timeline.events import DEVICES, Event


class MachineDeviceClock(DeviceClock):
    """A ``DeviceClock`` that reads ``clock`` instead of the time of the last event, and guards what a
    device does then.
    """

    def __init__(
        self,
        clock: Clock,
        epoch_ns: int = 0,
        guard: DeviceGuard | None = None,
        priority: i64 = DEVICES,
    ) -> None:
        super().__init__(clock.timeline, epoch_ns)
        self._guard: DeviceGuard = guard if guard is not None else DeviceGuard()
        self._clock: Clock = clock
        self._priority: i64 = priority

    @property
    def now_ns(self) -> int:
        """Virtual nanoseconds since the host's start."""
        return int(self._clock.now_ns())

    def after(self, delay_ns: int, action: Callable[[], None]) -> Event:
        """Run ``action`` in ``delay_ns`` (>= 0)."""
        guarded = GuardedAction(self._guard, action)
        return self._clock.after(delay_ns if delay_ns > 0 else 0, guarded.run, self._priority)
