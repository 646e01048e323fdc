"""The one place through which the outside of a simulated network comes in.

Everything that a socket or a program says to a gateway enters here, between two stretches of virtual
time, and has the time at which it entered. What came from real sockets marks the host as live: its run
cannot be repeated from seed and script alone, but from its journal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from asyncvmm.runtime.conductor import Conductor

T = TypeVar("T")


class Entrance:
    """``live`` is whether anything came from outside the process so far, ``entered`` how often.

    ``after(now_ns)`` is called when something has entered.
    """

    def __init__(self, conductor: Conductor, after: Callable[[int], None] | None = None) -> None:
        self.live = False
        self.entered = 0
        self._conductor = conductor
        self._after = after

    def enter(
        self,
        action: Callable[[int], T],
        *,
        live: bool,
        note: tuple[int, dict[str, Any], bytes] | None = None,
    ) -> T:
        """Do ``action(now_ns)`` now, at the time that the host's clock shows.

        ``note`` is what the journal is told of it: kind, names and data. Without one the run cannot be
        repeated from here on, and the journal ends.
        """
        self._conductor.kick()  # before: what the input starts must start at the right time
        if live:
            self.live = True
            self.entered += 1
        self._tell_journal(note)
        return self.enter_again(action)

    def take(self, action: Callable[[], T], *, note: tuple[int, dict[str, Any], bytes] | None) -> T:
        """Do ``action``, of which the inside does not hear at once: nothing is to be woken for it."""
        self._tell_journal(note)
        return action()

    def _tell_journal(self, note: tuple[int, dict[str, Any], bytes] | None) -> None:
        if note is None:
            self._conductor.inputs.lost("something entered that has no name in a journal")
        else:
            kind, names, data = note
            self._conductor.inputs.note(kind, data, **names)

    def enter_again(self, action: Callable[[int], T]) -> T:
        """Do what a journal says was done at this instant."""
        result = action(self._conductor.now_ns)
        if self._after is not None:
            self._after(self._conductor.now_ns)
        self._conductor.kick()
        return result

    async def turn(self) -> None:
        """Return when tasks have their turn: nothing may enter in the middle of a quantum."""
        await self._conductor.turn()

    @property
    def between(self) -> bool:
        """Whether tasks have their turn now."""
        return self._conductor.between

    def later(self, call: Callable[[], object]) -> None:
        """Call it when tasks have their turn: the inside said something that one waits for."""
        self._conductor.later(call)


class GuestEntrance(Entrance):
    """The same entrance for what enters one guest alone; ``on_input`` is called before it does."""

    def __init__(self, shared: Entrance, on_input: Callable[[], None]) -> None:
        super().__init__(shared._conductor, shared._after)
        self._shared = shared
        self._on_input = on_input

    def enter(
        self,
        action: Callable[[int], T],
        *,
        live: bool,
        note: tuple[int, dict[str, Any], bytes] | None = None,
    ) -> T:
        """See Entrance."""
        self._on_input()
        return self._shared.enter(action, live=live, note=note)

    def enter_again(self, action: Callable[[int], T]) -> T:
        """See Entrance."""
        self._on_input()
        return super().enter_again(action)
