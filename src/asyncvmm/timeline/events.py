"""The virtual clock and the one event queue, ordered by (virtual time, priority, sequence)."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

from mypy_extensions import i64, mypyc_attr

FOREVER: Final = 0x7FFFFFFFFFFFFFFF

# Priorities: whose events come first at one instant. Each owner (a hart's timer, a device) has one of its
# own, so that the order does not depend on who scheduled first, which a snapshot would not know.
MACHINE_TIMERS: Final = 0  # plus the hart's number
SUPERVISOR_TIMERS: Final = 10_000  # plus the hart's number
DEVICES: Final = 20_000  # plus the device's number on its board


class Event:
    """A scheduled call. ``cancel`` is O(1): the queue drops the entry when it comes to it."""

    def __init__(
        self, time_ns: i64, priority: i64, sequence: i64, action: Callable[[], None]
    ) -> None:
        self.time_ns: i64 = time_ns
        self.priority: i64 = priority
        self.sequence: i64 = sequence
        self.action: Callable[[], None] | None = action

    def __lt__(self, other: Event) -> bool:
        if self.time_ns != other.time_ns:
            return self.time_ns < other.time_ns
        if self.priority != other.priority:
            return self.priority < other.priority
        return self.sequence < other.sequence

    def cancel(self) -> None:
        """Take the event back; harmless when it has run already."""
        self.action = None

    @property
    def pending(self) -> bool:
        """Whether it still waits to run."""
        return self.action is not None


@mypyc_attr(allow_interpreted_subclasses=True)
class EarlierEventListener:
    """Told when an event is scheduled before all others, so that a running quantum can end there."""

    def earlier_event(self, time_ns: i64) -> None:
        """The first event is at ``time_ns`` now, earlier than before."""


class Timeline:
    """Virtual time in nanoseconds since the host's start, and what happens when."""

    def __init__(self) -> None:
        self.now_ns: i64 = 0
        self.listener: EarlierEventListener = EarlierEventListener()
        self._heap: list[Event] = []
        self._sweep_at: i64 = 1024
        self._sequence: i64 = 0

    def at(self, time_ns: i64, action: Callable[[], None], priority: i64 = 0) -> Event:
        """Run ``action`` at ``time_ns`` (not before now). Returns the event, which can be cancelled."""
        self._sequence += 1
        if len(self._heap) >= self._sweep_at:
            self._sweep()
        event = Event(time_ns, priority, self._sequence, action)
        first = self.next_time_ns()
        heapq.heappush(self._heap, event)
        if time_ns < first:
            self.listener.earlier_event(time_ns)
        return event

    def after(self, delay_ns: i64, action: Callable[[], None], priority: i64 = 0) -> Event:
        """Run ``action`` ``delay_ns`` (>= 0) from now."""
        return self.at(self.now_ns + delay_ns, action, priority)

    def _sweep(self) -> None:
        """Drop cancelled events, so that a guest that re-arms a timer for ever costs no memory."""
        self._heap = [event for event in self._heap if event.action is not None]
        heapq.heapify(self._heap)
        live: i64 = len(self._heap)
        self._sweep_at = 1024 if live < 512 else 2 * live

    def next_time_ns(self) -> i64:
        """When the first pending event is due, or FOREVER."""
        heap = self._heap
        while heap and heap[0].action is None:
            heapq.heappop(heap)
        if not heap:
            return FOREVER
        return heap[0].time_ns

    def __len__(self) -> int:
        """Entries of the queue; cancelled ones count until they are swept."""
        return len(self._heap)

    def run_due(self) -> i64:
        """Run every event due at or before ``now_ns``, in order; returns how many ran."""
        count: i64 = 0
        while self.next_time_ns() <= self.now_ns:
            event = heapq.heappop(self._heap)
            action = event.action
            if action is not None:
                event.action = None
                action()
                count += 1
        return count
