"""Whom the conductor lets live, and what they have between them, as far as it has to know them."""

from __future__ import annotations

from typing import Protocol

from asyncvmm.base.errors import AsyncvmmError
from asyncvmm.machine import Machine
from asyncvmm.runtime.outbox import Outbox
from asyncvmm.timeline.events import FOREVER


class Resident(Protocol):
    """A guest as the conductor sees it."""

    max_steps: int | None
    busy_ns: int

    @property
    def name(self) -> str:
        """Unique on the host."""
        ...

    @property
    def machine(self) -> Machine:
        """What runs."""
        ...

    @property
    def outbox(self) -> Outbox:
        """What its devices have to tell."""
        ...

    def machine_stopped(self) -> bool:
        """The machine stopped itself: False when it goes on after a reset."""
        ...

    def machine_failed(self, error: AsyncvmmError) -> None:
        """The machine cannot go on."""
        ...

    def limit_reached(self) -> None:
        """``max_steps`` have run."""
        ...

    def raise_tap_error(self) -> None:
        """Raise what a console's tap raised: it is its owner's error, not the machine's."""
        ...

    async def halted(self) -> None:
        """A debugger stopped the machine in the middle of a stretch: return when it may go on."""
        ...


class Exchange(Protocol):
    """What guests have between them: called between two stretches, when nobody runs."""

    def next_ns(self) -> int:
        """The first instant at which it has something to do, in host time; FOREVER when none."""
        ...

    def advance(self, now_ns: int) -> None:
        """Every guest has lived to ``now_ns``."""
        ...

    def has_sent(self, guest: str) -> bool:
        """Whether a guest has sent something that ``advance`` has not moved yet. For its thread."""
        ...


class NoExchange:
    """Guests that have nothing between them."""

    def next_ns(self) -> int:
        """See Exchange."""
        return FOREVER

    def advance(self, now_ns: int) -> None:
        """See Exchange."""

    def has_sent(self, guest: str) -> bool:
        """See Exchange."""
        return False
