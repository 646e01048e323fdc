"""The two sides of a journal, as the conductor sees them: who notes what enters, and who enters it again.

Everything from outside that a guest can notice is noted *before* it is done, with the virtual instant
and the turn: how many stretches ended at that instant already. Nothing enters in the middle of a
stretch, so that is a place in the run to which a replay comes back exactly.
"""

from __future__ import annotations

from typing import Any, Protocol

from asyncvmm.machine import GuestConfig, Machine
from asyncvmm.timeline.events import FOREVER


class Note(Protocol):
    """Hears of what enters at one place: ``Inputs.note`` with the place's names."""

    def __call__(self, kind: int, data: bytes = b"", **names: Any) -> None:
        """See Inputs.note."""
        ...


def forget(kind: int, data: bytes = b"", **names: Any) -> None:
    """A Note that is not kept."""


class Inputs:
    """Is told what enters. This one forgets it. ``recording`` is whether anything comes of it."""

    recording = False

    def note(self, kind: int, data: bytes = b"", **names: Any) -> None:
        """Something of a kind of ``journal_file`` enters now."""

    def check(self, config: GuestConfig, live: list[str]) -> None:
        """ConfigError when a guest with these ``live`` devices could not be repeated."""

    def fingerprint(self, machine: Machine, *, disks: bool = True) -> dict[str, Any]:
        """What a new machine was made from, by contents; without ``disks`` for one that goes on from a
        snapshot, which has them. What disks that keep writes hold is put aside. May be called in a thread.
        """
        return {}

    def lost(self, why: str) -> None:
        """Something entered that cannot be noted."""

    def look(self) -> None:
        """Between two stretches."""


class Script:
    """Says what enters when, instead of the world outside. This one is empty."""

    def due(self, now_ns: int, turn: int) -> bool:
        """Whether something enters at this place."""
        return False

    def next_ns(self) -> int:
        """How far the next stretch may go: to what enters next, or to where one was to go that ended
        at ``answer_ns``; or FOREVER.
        """
        return FOREVER

    def answer_ns(self) -> int:
        """Where a stretch ended early when it was noted, if that is what comes next; or FOREVER."""
        return FOREVER

    async def enter(self) -> None:
        """Let the next thing enter."""
