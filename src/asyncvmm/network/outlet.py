"""A cable whose other end is no guest: what a network backend of a plugin is plugged into.

The backend has a card like a guest's, a clock that shows the network's time, and a timeline of its own,
which the network runs in the one order of all frames. So it sees a frame at the instant at which a guest
would, and what it says depends on nothing else.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from asyncvmm.device import DeviceClock, DeviceGuard, Inbox, NetPort, Packet, RandomStream
from asyncvmm.network.saved import Saved
from asyncvmm.timeline.events import FOREVER, Event, Timeline

Report = Callable[[str], None]
LOG_LINES: Final = 1000


class NetworkEnd(Protocol):
    """The backend as its network sees it: ``asyncvmm.plugin.NetworkBackend``."""

    def save(self) -> Any:
        """Its own state as plain data."""
        ...

    def load(self, saved: Any) -> None:
        """What ``save`` gave; ConfigError, with nothing changed, when that cannot be."""
        ...

    def resume(self) -> None:
        """All is loaded: set timers again."""
        ...

    def entered(self, data: bytes) -> None:
        """Something came from outside."""
        ...


class OutletGuard(DeviceGuard):
    """After its first exception a backend is called no more, and its cable is dead."""

    def __init__(self, report: Report) -> None:
        super().__init__()
        self._report = report

    def run(self, action: Callable[[], None]) -> None:
        """See DeviceGuard."""
        if self.broken:
            return
        try:
            action()
        except Exception as error:
            self.broken = True
            self._report(f"failed, and is called no more: {type(error).__name__}: {error}")


class NetworkClock:
    """Virtual time for a network backend, as a device's ``io.clock``."""

    def __init__(self, timeline: Timeline, guard: DeviceGuard) -> None:
        self._clock: Final = DeviceClock(timeline)
        self._guard: Final = guard

    @property
    def now_ns(self) -> int:
        """Virtual nanoseconds since the host's start."""
        return self._clock.now_ns

    def after(self, delay_ns: int, action: Callable[[], None]) -> Event:
        """Run ``action`` in ``delay_ns`` (>= 0); the event can be cancelled and has ``time_ns``."""
        return self._clock.after(delay_ns, functools.partial(self._guard.run, action))


class NetworkIo:
    """All that a network backend is handed, named as a device's: its card ``net``, ``clock``, ``rng``,
    ``inbox`` (requests to its own ``run(io)``) and ``log``. ``path`` names it in messages; ``report``
    is told of its failure.
    """

    def __init__(self, path: str, seed: int, report: Report) -> None:
        self.path: Final = path
        self.timeline: Final = Timeline()  # the network's: a backend has ``clock``
        self.guard: Final = OutletGuard(report)
        self.clock: Final = NetworkClock(self.timeline, self.guard)
        self.rng: Final = RandomStream(seed, path)
        self.inbox: Final = Inbox()
        self.net: Final = NetPort(path, b"\x02" + self.rng.bytes(5), lambda: self.clock.now_ns)
        self.net.guard = self.guard
        self.net.schedule = self.clock.after
        self.messages: Final[deque[str]] = deque(maxlen=LOG_LINES)

    def log(self, message: str) -> None:
        """Leave a line in ``messages``, which keeps the last 1000."""
        self.messages.append(message)


class Outlet:
    """One backend at its cable: ``end``, which was made from ``io``."""

    def __init__(self, name: str, io: NetworkIo, end: NetworkEnd) -> None:
        self.name: Final = name
        self.io: Final = io
        self.end: Final = end

    def next_ns(self) -> int:
        """When it wants to run next; FOREVER when not."""
        return FOREVER if self.io.guard.broken else int(self.io.timeline.next_time_ns())

    def arrive(self, time_ns: int, frame: Packet) -> None:
        """A frame comes, which is on its way until then."""
        if not self.io.guard.broken:
            self.io.net.arrive(time_ns, frame)

    def run(self, time_ns: int) -> None:
        """That time has come."""
        self.io.timeline.now_ns = time_ns
        self.io.timeline.run_due()

    def enter(self, now_ns: int, data: bytes) -> None:
        """Data from outside, between two stretches."""
        self.io.timeline.now_ns = now_ns
        self.io.guard.run(lambda: self.end.entered(data))

    def save(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "now_ns": int(self.io.timeline.now_ns),
            "random": self.io.rng.position,
            "broken": self.io.guard.broken,
            "card": self.io.net.save(),
            "state": self.end.save(),
        }

    def load(self, saved: Saved) -> None:
        """What ``save`` gave; ConfigError when that cannot be."""
        now_ns, random = saved.number("now_ns"), saved.number("random")
        broken, card, state = saved.flag("broken"), saved.take("card"), saved.take("state")
        saved.done()
        if not isinstance(card, dict):
            raise saved.wrong("card", "is not a mapping")
        self.end.load(state)
        self.io.timeline.now_ns = now_ns
        self.io.rng.position = random
        self.io.net.load(card)
        self.io.guard.broken = broken
        self.io.guard.run(self.end.resume)
