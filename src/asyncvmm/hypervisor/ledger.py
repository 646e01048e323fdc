"""The isolation ledger: what was refused, throttled or stopped, when, and why. Bounded.

Events are rings of their own per kind, so that a guest that provokes a million throttles cannot
push the one kill out of the record; counters per guest and kind go on when a ring is full.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import attrs

from asyncvmm.base.errors import InternalError
from asyncvmm.hypervisor.book_state import LedgerEventState, LedgerState
from asyncvmm.hypervisor.cpu_state import require

# The kinds of event.
ADMITTED: Final = "admitted"
LEFT: Final = "left"
CHANGED: Final = "changed"
REFUSED: Final = "refused"  # an admission or a change of knobs that was turned down
THROTTLED: Final = "throttled"  # cpu.max: the pool of this period is empty
DELAYED: Final = "delayed"  # io.max or net: a request waits for its tokens
PRESSURE: Final = "pressure"  # memory.high
STOPPED: Final = "stopped"  # a guest was stopped for what it did
FAILED: Final = "failed"  # a device or plugin failed inside a guest
BLOCKED: Final = "blocked"  # a device kept the host's thread to itself (wall time)

KINDS: Final = (
    ADMITTED,
    LEFT,
    CHANGED,
    REFUSED,
    THROTTLED,
    DELAYED,
    PRESSURE,
    STOPPED,
    FAILED,
    BLOCKED,
)
GRAVE: Final = frozenset(
    (REFUSED, PRESSURE, STOPPED, FAILED, BLOCKED)
)  # what a guest's log repeats


MAX_CAUSE_CHARS: Final = 500


@attrs.frozen
class LedgerEvent:
    """One thing that the host did to a guest: ``kind`` is one of ``KINDS``, ``cause`` says why."""

    time_ns: int
    sequence: int
    kind: str
    guest: str
    cause: str


# ``Ledger.record``, or what passes on to it: time in ns, kind, guest, cause.
Recorder = Callable[[int, str, str, str], object]


def _nobody(event: LedgerEvent) -> None:
    return None


class Ledger:
    """Keeps the last ``events_per_kind`` events of each kind and counts all of them; ``listener``
    hears of each.
    """

    def __init__(self, events_per_kind: int = 1024) -> None:
        self._events_per_kind = events_per_kind
        self._rings = self._empty_rings()
        self._counts: dict[str, dict[str, int]] = {}
        self._sequence = 0
        self.listener: Callable[[LedgerEvent], None] = _nobody

    def record(self, time_ns: int, kind: str, guest: str, cause: str) -> LedgerEvent:
        """Add an event; ``cause`` is cut at ``MAX_CAUSE_CHARS``."""
        if kind not in self._rings:
            raise InternalError(f"no kind of ledger event {kind!r}")
        event = LedgerEvent(time_ns, self._sequence, kind, guest, cause[:MAX_CAUSE_CHARS])
        self._sequence += 1
        self._rings[kind].append(event)
        counts = self._counts.setdefault(guest, dict.fromkeys(KINDS, 0))
        counts[kind] += 1
        self.listener(event)
        return event

    @property
    def recorded(self) -> int:
        """How many events were ever recorded: the next event's sequence number."""
        return self._sequence

    def events(self, guest: str | None = None, since: int = 0) -> list[LedgerEvent]:
        """The kept events from sequence number ``since`` on, in order; of one guest or of all."""
        kept = [
            event
            for ring in self._rings.values()
            for event in ring
            if event.sequence >= since and (guest is None or event.guest == guest)
        ]
        return sorted(kept, key=lambda event: event.sequence)

    def count(self, guest: str, kind: str) -> int:
        """How many events of a kind a guest has had, kept or not."""
        counts = self._counts.get(guest)
        return 0 if counts is None else counts[kind]

    def forget(self, guest: str) -> None:
        """Drop the counters of a guest that is gone; its events stay until their ring turns."""
        self._counts.pop(guest, None)

    def state(self) -> LedgerState:
        """All events and counters, as a value."""
        return LedgerState(
            self._sequence,
            self._events_per_kind,
            tuple(LedgerEventState(**attrs.asdict(event)) for event in self.events()),
            tuple(
                (guest, kind, count)
                for guest, counts in self._counts.items()
                for kind, count in counts.items()
                if count
            ),
        )

    def restore(self, state: LedgerState) -> None:
        """Go on after the last event of ``state``; the listener stays and hears of none of them.

        ConfigError, with nothing changed, when anything about it is wrong.
        """
        require(state.events_per_kind == self._events_per_kind, "a ledger of another length")
        rings = self._empty_rings()
        last = -1
        for event in state.events:
            require(event.kind in rings, f"no kind of event {event.kind!r}")
            require(last < event.sequence < state.sequence, "events are not in order")
            require(len(event.cause) <= MAX_CAUSE_CHARS, "a cause is too long")
            require(len(rings[event.kind]) < state.events_per_kind, "too many events of a kind")
            last = event.sequence
            rings[event.kind].append(
                LedgerEvent(event.time_ns, event.sequence, event.kind, event.guest, event.cause)
            )
        counts: dict[str, dict[str, int]] = {}
        for guest, kind, count in state.counts:
            require(kind in rings and count > 0, f"{guest}: {count} events of kind {kind!r}")
            counts.setdefault(guest, dict.fromkeys(KINDS, 0))[kind] = count
        self._rings = rings
        self._counts = counts
        self._sequence = state.sequence

    def _empty_rings(self) -> dict[str, deque[LedgerEvent]]:
        return {kind: deque(maxlen=self._events_per_kind) for kind in KINDS}
