"""Break- and watchpoints of one guest: what its harts are watched for, by virtual address.

The guest's memory is never changed for them. A breakpoint keeps the slots at its place in a page from
staying decoded, so that execution comes by here each time; a watchpoint keeps its pages out of the
load and store tables, so that accesses come by in the slow path. Only the interpreter is watched: a
``GuardedEngine`` sees to it that nothing else runs while ``active``.
"""

from __future__ import annotations

from typing import Final

from librt.vecs import vec
from mypy_extensions import i64

SLOTS: Final = 2048  # halfwords of a page
MAX_POINTS: Final = 256  # of each kind

# What ``hit`` says.
NO_HIT: Final = 0
HIT_BREAK: Final = 1
HIT_WATCH: Final = 2

# Which accesses a watchpoint is for.
READS: Final = 1
WRITES: Final = 2


class Guard:
    """The break- and watchpoints, and the first hit since ``forget_hit``."""

    def __init__(self, harts: i64) -> None:
        self.active: bool = False  # something here can stop a hart
        self.breaking: bool = False  # there are breakpoints
        self.watching: bool = False  # there are watchpoints
        # Breakpoints by address, and how many there are at each halfword of a page. Empty at first:
        # hardly any guest is ever debugged.
        self.breaks: set[int] = set()
        self.slots: vec[i64] = vec[i64]([0] * 0)
        self._watches: i64 = 0
        self._starts: vec[i64] = vec[i64]([0] * 0)
        self._lasts: vec[i64] = vec[i64]([0] * 0)
        self._hows: vec[i64] = vec[i64]([0] * 0)
        # The hit: what, by whom, where (a breakpoint's address, or the watched one), which accesses.
        self.hit: i64 = NO_HIT
        self.hit_hart: i64 = -1
        self.hit_address: i64 = 0
        self.hit_how: i64 = 0
        # A hart that goes on from a breakpoint it was stopped at is not stopped there again.
        self._passed_pc: vec[i64] = vec[i64]([0] * int(harts))
        self._passed_steps: vec[i64] = vec[i64]([-1] * int(harts))
        # ``step_hart`` stops when it has done ``step_until`` steps, or later, once it is outside of
        # ``range_start`` .. ``range_end`` - 1.
        self.step_hart: i64 = -1
        self.step_until: i64 = 0
        self.range_start: i64 = 0
        self.range_end: i64 = 0

    @property
    def point_count(self) -> int:
        """How many break- and watchpoints there are."""
        return len(self.breaks) + int(self._watches)

    def add_break(self, address: i64) -> bool:
        """Stop before what is executed at ``address``; False when there are too many.

        The caller forgets what is decoded there: see ``CodeCache.forget_slot``.
        """
        key: int = address
        if key in self.breaks:
            return True
        if len(self.breaks) >= MAX_POINTS:
            return False
        self.breaks.add(key)
        if len(self.slots) == 0:
            self.slots = vec[i64]([0] * SLOTS)
        self.slots[(address & 4095) >> 1] += 1
        self._update()
        return True

    def remove_break(self, address: i64) -> None:
        """Harmless when there is none."""
        key: int = address
        if key in self.breaks:
            self.breaks.discard(key)
            self.slots[(address & 4095) >> 1] -= 1
            self._update()

    def add_watch(self, start: i64, length: i64, how: i64) -> bool:
        """Stop after accesses of kind ``how`` to ``length`` (at least 1) bytes; False when too many.

        The caller forgets the harts' translations.
        """
        if self._watches >= MAX_POINTS or length < 1:
            return False
        if len(self._starts) == 0:
            self._starts = vec[i64]([0] * MAX_POINTS)
            self._lasts = vec[i64]([0] * MAX_POINTS)
            self._hows = vec[i64]([0] * MAX_POINTS)
        self._starts[self._watches] = start
        self._lasts[self._watches] = start + length - 1
        self._hows[self._watches] = how
        self._watches += 1
        self._update()
        return True

    def remove_watch(self, start: i64, length: i64, how: i64) -> None:
        """Harmless when there is none."""
        i: i64 = 0
        while i < self._watches:
            if (
                self._starts[i] == start
                and self._lasts[i] == start + length - 1
                and self._hows[i] == how
            ):
                self._watches -= 1
                self._starts[i] = self._starts[self._watches]
                self._lasts[i] = self._lasts[self._watches]
                self._hows[i] = self._hows[self._watches]
                break
            i += 1
        self._update()

    def clear(self) -> None:
        """No breakpoint, no watchpoint, no step, no hit."""
        self.breaks.clear()
        self.slots = vec[i64]([0] * 0)
        self._watches = 0
        self.forget_step()
        self.forget_hit()
        self.forget_passed()

    def step(self, hart: i64, until: i64, start: i64, end: i64) -> None:
        """Stop ``hart`` at ``until`` steps, or later, where its pc is not in ``start`` .. ``end`` - 1."""
        self.step_hart = hart
        self.step_until = until
        self.range_start = start
        self.range_end = end
        self._update()

    def forget_step(self) -> None:
        """Nobody is stepped."""
        self.step_hart = -1
        self.range_start = 0
        self.range_end = 0
        self._update()

    def forget_hit(self) -> None:
        """What was hit has been seen."""
        self.hit = NO_HIT
        self.hit_hart = -1

    def forget_passed(self) -> None:
        """Harts are somewhere else in time: all breakpoints count again."""
        i: i64 = 0
        while i < len(self._passed_steps):
            self._passed_steps[i] = -1
            i += 1

    def pass_by(self, hart: i64, pc: i64, steps: i64) -> None:
        """``hart``, which is at ``pc`` after ``steps``, goes on without being stopped there."""
        self._passed_pc[hart] = pc
        self._passed_steps[hart] = steps

    def stops(self, hart: i64, pc: i64, steps: i64) -> bool:
        """Whether ``hart`` is to stop before the instruction at ``pc``; the hit is noted."""
        key: int = pc
        if key not in self.breaks:
            return False
        if self._passed_steps[hart] == steps and self._passed_pc[hart] == pc:
            return False
        self._note(HIT_BREAK, hart, pc, 0)
        self.pass_by(hart, pc, steps)
        return True

    def withholds(self, address: i64, how: i64) -> bool:
        """Whether the page of ``address`` has a watchpoint for such accesses."""
        first = address & -4096
        last = first | 4095
        i: i64 = 0
        while i < self._watches:
            if (self._hows[i] & how) != 0 and self._starts[i] <= last and self._lasts[i] >= first:
                return True
            i += 1
        return False

    def watches(self, hart: i64, address: i64, size: i64, how: i64) -> bool:
        """Whether an access that ``hart`` makes is watched; the hit is noted."""
        i: i64 = 0
        while i < self._watches:
            if (
                (self._hows[i] & how) != 0
                and self._starts[i] <= address + size - 1
                and self._lasts[i] >= address
            ):
                self._note(HIT_WATCH, hart, self._starts[i], self._hows[i])
                return True
            i += 1
        return False

    def _note(self, what: i64, hart: i64, address: i64, how: i64) -> None:
        if self.hit == NO_HIT:
            self.hit = what
            self.hit_hart = hart
            self.hit_address = address
            self.hit_how = how

    def _update(self) -> None:
        self.breaking = len(self.breaks) != 0
        self.watching = self._watches != 0
        self.active = self.breaking or self.watching or self.step_hart >= 0
