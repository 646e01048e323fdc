"""The host's side of a memory balloon: what is wanted, and what the guest says."""

from __future__ import annotations

from collections.abc import Callable

from asyncvmm.device.guard import DeviceGuard


def _nothing() -> None:
    return None


class Balloon:
    """``target_bytes`` is what the host would like to have; a hint that a guest may ignore.

    ``actual_bytes`` is what the guest says that the balloon holds, ``returned_bytes`` how much memory
    came back through it and through reports of free pages, ``statistics`` the guest's newest counters
    (bytes or events by name, for example ``free_memory``). ``on_target`` and ``on_poll`` are the
    device's listeners, ``on_change`` and ``on_statistics`` the host's.
    """

    def __init__(self) -> None:
        self.target_bytes: int = 0
        self.actual_bytes: int = 0
        self.returned_bytes: int = 0
        self.statistics: dict[str, int] = {}
        self.guard: DeviceGuard = DeviceGuard()
        self.on_target: Callable[[], None] = _nothing
        self.on_poll: Callable[[], None] = _nothing
        self.on_change: Callable[[], None] = _nothing
        self.on_statistics: Callable[[], None] = _nothing

    def set_target(self, size_bytes: int) -> None:
        """Ask for a balloon of that size from now on."""
        self.target_bytes = size_bytes
        self.guard.run(self.on_target)

    def poll(self) -> None:
        """Ask the guest for new statistics."""
        self.guard.run(self.on_poll)
