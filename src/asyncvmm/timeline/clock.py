"""What time it is: exactly, also in the middle of a hart's slice.

``Timeline.now_ns`` moves from event to event. While a hart runs, the instruction that it executes
is somewhere after that; its ``TimeSource`` says where. Harts of one guest run the same virtual
interval one after the other, so a hart may be behind a time that another one has read already. A
guest must never see time run backwards through shared memory, so a reading is at least the highest
one handed out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mypy_extensions import i64, mypyc_attr

from asyncvmm.base.errors import ConfigError
from asyncvmm.timeline.events import FOREVER, Event, Timeline

DEFAULT_MIPS: Final = 1000
MAX_MIPS: Final = 1_000_000
TICK_NS: Final = 100  # the timebase of ``mtime`` and of the ``time`` CSR: 10 MHz
TIMEBASE_HZ: Final = 10_000_000


@mypyc_attr(allow_interpreted_subclasses=True)
class TimeSource:
    """Knows the exact virtual time of something that runs between two events."""

    def time_ns(self) -> i64:
        """Virtual time at the instruction being executed, in ns."""
        raise NotImplementedError


class Clock:
    """Reads virtual time; ``mips`` million steps (instructions, traps) are one second."""

    def __init__(self, timeline: Timeline, mips: i64 = DEFAULT_MIPS) -> None:
        if mips < 1 or mips > MAX_MIPS:
            raise ConfigError(f"mips must be 1 to {MAX_MIPS}, not {int(mips)}")
        self.timeline: Timeline = timeline
        self.mips: i64 = mips
        self.running: TimeSource | None = None
        self.highest_ns: i64 = 0
        self.mtime_offset: i64 = 0  # ticks that a guest's write to mtime put it ahead (wraps)

    def now_ns(self) -> i64:
        """Virtual time now: never less than any earlier reading."""
        source = self.running
        now = self.timeline.now_ns if source is None else source.time_ns()
        if now < self.highest_ns:
            return self.highest_ns
        self.highest_ns = now
        return now

    def mtime(self) -> i64:
        """The 64-bit ``mtime`` counter (privileged specification 3.2.1), also the ``time`` CSR."""
        return self.now_ns() // TICK_NS + self.mtime_offset

    def set_mtime(self, value: i64) -> None:
        """Let ``mtime`` read ``value`` now and count on from there."""
        self.mtime_offset = value - self.now_ns() // TICK_NS

    def when(self, mtime: i64) -> i64:
        """The virtual time in ns at which ``mtime`` reaches a value; FOREVER when out of reach.

        The distance is unsigned: for a value that has passed it is the time until it comes again.
        """
        now = self.now_ns() // TICK_NS
        delta = mtime - (now + self.mtime_offset)
        if delta < 0 or delta > FOREVER // TICK_NS - now:
            return FOREVER
        return (now + delta) * TICK_NS

    def at(self, time_ns: i64, action: Callable[[], None], priority: i64 = 0) -> Event:
        """Run ``action`` at ``time_ns``, or as soon as possible when that is past."""
        now = self.now_ns()
        return self.timeline.at(time_ns if time_ns > now else now, action, priority)

    def after(self, delay_ns: i64, action: Callable[[], None], priority: i64 = 0) -> Event:
        """Run ``action`` ``delay_ns`` (>= 0) after the exact time now."""
        return self.timeline.at(self.now_ns() + delay_ns, action, priority)

    def steps_for(self, ns: i64) -> i64:
        """The fewest steps that take at least ``ns`` (>= 0); saturates far away."""
        if ns <= 0:
            return 0
        if ns // 1000 > FOREVER // 4 // self.mips:
            return FOREVER // 4
        return ns // 1000 * self.mips + (ns % 1000 * self.mips + 999) // 1000

    def ns_for(self, steps: i64) -> i64:
        """How long ``steps`` steps take, in whole ns."""
        return steps // self.mips * 1000 + steps % self.mips * 1000 // self.mips
