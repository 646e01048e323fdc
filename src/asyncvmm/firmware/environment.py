"""What the harts of every guest have around them: exact time."""

from __future__ import annotations

from mypy_extensions import i64, mypyc_attr

from asyncvmm.arch.hart import Environment, Hart
from asyncvmm.timeline.clock import Clock


@mypyc_attr(allow_interpreted_subclasses=True)
class ClockedEnvironment(Environment):
    """The time of ``clock``; every ECALL is the guest's own affair."""

    def __init__(self, clock: Clock) -> None:
        self.clock: Clock = clock

    def exact_clock(self) -> Clock | None:
        """See Environment."""
        return self.clock

    def time_ns(self, hart: Hart) -> i64:
        """Virtual time at the instruction that ``hart`` executes now."""
        return self.clock.now_ns()

    def time_ticks(self, hart: Hart) -> i64:
        """The ``time`` CSR shadows ``mtime`` (unprivileged specification, Zicntr)."""
        return self.clock.mtime()
