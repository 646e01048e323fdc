"""Names the device that keeps the host's one thread to itself, while it does so."""

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
        self._watched: tuple[str, Bus] | None = None
        self._seen: tuple[str, int] = ("", 0)
        self._seen_ns = 0
        self._named = False
        self._reports: deque[tuple[str, str]] = deque()
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
        """From now on ``guest`` runs."""
        self._watched = (guest, bus)

    def leave(self) -> list[tuple[str, str]]:
        """It does no more. The devices named meanwhile: (path, what was logged)."""
        self._watched = None
        reports = []
        while self._reports:
            reports.append(self._reports.popleft())
        return reports

    def look(self) -> None:
        """Is the call still going on that was at the last look?"""
        watched = self._watched
        now = self._now_ns()
        seen = ("", 0) if watched is None else (watched[1].busy, int(watched[1].calls))
        if seen != self._seen:
            self._seen, self._seen_ns, self._named = seen, now, False
        elif seen[0] and watched is not None and not self._named:
            blocked_ns = now - self._seen_ns
            if blocked_ns >= BLOCKED_NS:
                self._named = True
                text = f"blocks the host's thread for more than {blocked_ns / 1e9:.1f} s"
                self._reports.append((seen[0], text))
                _log.warning("guest %s: device %s %s", watched[0], seen[0], text)

    def _watch(self) -> None:
        while not self._end.wait(LOOK_S):
            self.look()
