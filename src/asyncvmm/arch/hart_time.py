"""Where a hart is in virtual time."""

from __future__ import annotations

from mypy_extensions import i64

from asyncvmm.arch.hart import Hart
from asyncvmm.timeline.clock import Clock, TimeSource


class HartTime(TimeSource):
    """The place of one hart in time, and what it reads there.

    When ``share`` harts run the same interval one after the other, the first reads the first part
    of it, the second the next part, and so on: readings then rise in the order of execution, which
    is what a guest can compare them by. A hart that runs alone reads its exact place.
    """

    def __init__(self, hart: Hart, clock: Clock) -> None:
        self.hart: Hart = hart
        self.clock: Clock = clock
        self.opened_ns: i64 = 0
        self.base_ns: i64 = 0
        self.share: i64 = 1

    def place_ns(self) -> i64:
        """Where the hart is."""
        hart = self.hart
        return hart.slice_start_ns + self.clock.ns_for(hart.steps - hart.slice_start_steps)

    def time_ns(self) -> i64:
        """What it reads: see TimeSource."""
        return self.base_ns + (self.place_ns() - self.opened_ns) // self.share
