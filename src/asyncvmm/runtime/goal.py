"""How far time is to go, and whether it may go on at all: what ``run_until``, ``pause`` and ``held`` say."""

from __future__ import annotations

import trio

from asyncvmm.runtime.places import Places
from asyncvmm.timeline.events import FOREVER


class Goal:
    """``time_ns`` is where time stands still (FOREVER: never), ``held`` how many want that it stands
    still at once. ``grid_ns`` is the quantum.

    Where it is not ``exact``, a goal is as soon after what was asked for as a stop changes nothing.
    Harts that run side by side share quanta, of which each runs all before the next one does: a
    quantum that ends early is another order of what they do. So with such a guest time stands still on
    the grid only.
    """

    def __init__(self, places: Places, grid_ns: int) -> None:
        self.time_ns: int = FOREVER
        self.held = 0
        self._places = places
        self._grid_ns = grid_ns
        self._exact = False
        self._reached = trio.Event()

    def set(self, time_ns: int, now_ns: int, *, exact: bool) -> None:
        """Time is to go to ``time_ns`` from now on."""
        self._exact = exact
        self.time_ns = time_ns
        self._reached = trio.Event()
        self.guest_came(now_ns)

    def guest_came(self, now_ns: int) -> None:
        """Perhaps one of several harts: the goal may have to be later."""
        if (
            not self._exact
            and now_ns < self.time_ns < FOREVER
            and any(len(place.vcpus) > 1 for place in self._places.by_name.values())
        ):
            self.time_ns = -(-self.time_ns // self._grid_ns) * self._grid_ns

    def reach(self) -> bool:
        """Time has come there; whether that is news. Whoever waits for it goes on."""
        news = not self._reached.is_set()
        self._reached.set()
        return news

    async def wait(self) -> None:
        """Return when time has come there."""
        await self._reached.wait()
