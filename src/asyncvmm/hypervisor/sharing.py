"""When a guest's pages are looked at for equal ones: by its own instructions alone.

A guest that shares is walked through page by page, a page for so many instructions that it ran, so an
idle one costs nothing, and which of its pages are looked at when depends on no neighbour. After a round
it rests, unless its memory has grown.
"""

from __future__ import annotations

from typing import ClassVar, Final

import attrs
from attrs.validators import ge

from asyncvmm.plugin import VersionedState

STEPS_PER_PAGE: Final = 8192  # a page costs about as much as a few hundred instructions translated
PAGES_PER_PASS: Final = 1024
REST: Final = 8  # a round is followed by so many times its length, in steps, of rest
SHORTEST_ROUND: Final = 1_000_000  # steps
GROWTH: Final = 8  # one part in so many more resident pages end a rest


@attrs.frozen
class MergePaceState(VersionedState):
    """See MergePace."""

    version: ClassVar[int] = 1

    position: int = attrs.field(validator=ge(-1))
    paid_steps: int = attrs.field(validator=ge(0))
    began_steps: int = attrs.field(validator=ge(0))
    rest_until_steps: int = attrs.field(validator=ge(0))
    resident: int = attrs.field(validator=ge(0))


class MergePace:
    """Of one guest: where its round is, and what its instructions have paid for."""

    def __init__(self) -> None:
        self._position = -1  # the next page to look at; -1 between two rounds
        self._paid_steps = 0  # steps that were turned into pages
        self._began_steps = 0  # when the round began
        self._rest_until_steps = 0
        self._resident = 0  # resident pages as it began

    def budget(self, steps: int, resident: int) -> tuple[int, int]:
        """(first page, how many to look at) of a guest that has run ``steps`` (they never fall)."""
        if self._position < 0:
            grown = resident * GROWTH > self._resident * (GROWTH + 1)
            if steps < self._rest_until_steps and not grown:
                self._paid_steps = steps
                return 0, 0
            self._position = 0
            self._began_steps = self._paid_steps
            self._resident = resident
        pages = (steps - self._paid_steps) // STEPS_PER_PAGE
        if pages > PAGES_PER_PASS:
            pages = PAGES_PER_PASS
            self._paid_steps = steps
        else:
            self._paid_steps += pages * STEPS_PER_PAGE
        return self._position, pages

    def reached(self, steps: int, position: int) -> None:
        """The walk goes on at page ``position`` next time; -1 when the round is over."""
        self._position = position
        if position < 0:
            length = max(steps - self._began_steps, SHORTEST_ROUND)
            self._rest_until_steps = steps + REST * length

    def state(self) -> MergePaceState:
        """Everything, as a value."""
        return MergePaceState(
            self._position,
            self._paid_steps,
            self._began_steps,
            self._rest_until_steps,
            self._resident,
        )

    def restore(self, state: MergePaceState) -> None:
        """Go on where ``state`` was taken."""
        self._position = state.position
        self._paid_steps = state.paid_steps
        self._began_steps = state.began_steps
        self._rest_until_steps = state.rest_until_steps
        self._resident = state.resident
