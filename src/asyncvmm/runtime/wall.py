"""Where realtime hosts take the time from."""

from __future__ import annotations

from typing import Protocol

import trio


class WallClock(Protocol):
    """The wall's time; injected, so that tests need not wait."""

    def now_ns(self) -> int:
        """Monotonic wall time."""
        ...

    async def sleep_ns(self, ns: int) -> None:
        """Return after ``ns``."""
        ...


class TrioWallClock:
    """The event loop's own clock."""

    def now_ns(self) -> int:
        """See WallClock."""
        return int(trio.current_time() * 1e9)

    async def sleep_ns(self, ns: int) -> None:
        """See WallClock."""
        await trio.sleep(ns / 1e9)
