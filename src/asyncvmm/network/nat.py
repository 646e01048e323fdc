"""What the gateway remembers of guests' way outside: flows of datagrams, and what was denied."""

from __future__ import annotations

from typing import Any, Final

import attrs

from asyncvmm.base.units import SECOND
from asyncvmm.network.saved import Saved

MAX_FLOWS: Final = 256
IDLE_NS: Final = 120 * SECOND
MAX_DENIED: Final = 256


@attrs.frozen
class DatagramFlow:
    """A guest's address and port, and those outside that it talks to."""

    source: bytes
    source_port: int
    target: bytes
    target_port: int


class Flows:
    """The flows of datagrams that are open: at most 256, each for two minutes after its last use."""

    def __init__(self) -> None:
        self._seen: dict[DatagramFlow, int] = {}  # the longest unused first

    def touch(self, flow: DatagramFlow, time_ns: int) -> bool:
        """Use a flow, opening it when there is room; False when there is not."""
        while self._seen:
            oldest = next(iter(self._seen))
            if time_ns - self._seen[oldest] <= IDLE_NS:
                break
            del self._seen[oldest]
        if flow not in self._seen and len(self._seen) >= MAX_FLOWS:
            return False
        self._seen.pop(flow, None)
        self._seen[flow] = time_ns
        return True

    def __len__(self) -> int:
        return len(self._seen)

    def save(self) -> list[list[Any]]:
        """The flows as rows."""
        return [
            [f.source.hex(), f.source_port, f.target.hex(), f.target_port, seen_ns]
            for f, seen_ns in self._seen.items()
        ]

    def load(self, saved: Saved, key: str) -> None:
        """What ``save`` gave."""
        rows = saved.rows(key, "bnbnn", MAX_FLOWS)
        self._seen = {DatagramFlow(*row[:4]): row[4] for row in rows}


class NatDenied:
    """What guests wanted of the outside and did not get, counted by what it was."""

    def __init__(self) -> None:
        self.counts: Final[dict[str, int]] = {}
        self.others = 0

    def count(self, what: str) -> None:
        """Once more."""
        if what in self.counts or len(self.counts) < MAX_DENIED:
            self.counts[what] = self.counts.get(what, 0) + 1
        else:
            self.others += 1

    def save(self) -> dict[str, Any]:
        """The counters."""
        return {"counts": [[what, n] for what, n in self.counts.items()], "others": self.others}

    def load(self, saved: Saved) -> None:
        """What ``save`` gave."""
        self.counts.update(dict(saved.rows("counts", "tn", MAX_DENIED)))
        self.others = saved.number("others")
        saved.done()
