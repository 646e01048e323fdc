"""Names the device that keeps a thread of the host to itself, while it does so."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from asyncvmm.bus.address_map import Bus

LOOK_S: Final = 0.2
BLOCKED_NS: Final = 600_000_000  # seen at two looks that far apart: named within a second

_log = logging.getLogger("asyncvmm")


class Watchdog:
    """Looks from a thread of its own at which device is being called, several times a second.

    Nothing is measured in the calls themselves, so that watching costs the guests nothing.
    """

    def __init__(self, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._now_ns = now_ns
        self._watched: dict[str, _Watched] = {}
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look."""
        self._thread = threading.Thread(target=self._watch, name="asyncvmm-watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking; the thread has ended when this returns."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()

    def enter(self, guest: str, bus: Bus) -> None:
        """From now on ``guest`` is watched: a call of a device at two looks is one and the same."""
        self._watched[guest] = _Watched(guest, bus)

    def leave(self, guest: str) -> None:
        """It has ended."""
        self._watched.pop(guest, None)

    def reports(self, guest: str) -> list[tuple[str, str]]:
        """The devices that were named since the last call: (path, what was logged)."""
        watched = self._watched.get(guest)
        if watched is None or not watched.reports:
            return []
        found = []
        while watched.reports:
            found.append(watched.reports.popleft())
        return found

    def look(self) -> None:
        """Is any call still going on that was at the last look?"""
        now = self._now_ns()
        for watched in list(self._watched.values()):
            watched.look(now)

    def _watch(self) -> None:
        while not self._end.wait(LOOK_S):
            self.look()


class _Watched:
    """One guest: which of its devices' calls went on at the last look, and since when."""

    def __init__(self, guest: str, bus: Bus) -> None:
        self.reports: Final[deque[tuple[str, str]]] = deque()
        self._guest = guest
        self._bus = bus
        self._seen: tuple[str, int] = ("", 0)
        self._seen_ns = 0
        self._named = False

    def look(self, now_ns: int) -> None:
        seen = (self._bus.busy, int(self._bus.calls))
        if seen != self._seen:
            self._seen, self._seen_ns, self._named = seen, now_ns, False
        elif seen[0] and not self._named:
            blocked_ns = now_ns - self._seen_ns
            if blocked_ns >= BLOCKED_NS:
                self._named = True
                text = f"blocks its thread of the host for more than {blocked_ns / 1e9:.1f} s"
                self.reports.append((seen[0], text))
                _log.warning("guest %s: device %s %s", self._guest, seen[0], text)
