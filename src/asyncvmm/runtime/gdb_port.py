"""A guest's port for gdb: the guest has none, until one is asked for, and then it has one debugger."""

from __future__ import annotations

import functools
from collections.abc import Callable

from asyncvmm.base.errors import ConfigError
from asyncvmm.machine import Machine
from asyncvmm.runtime.conductor import Conductor
from asyncvmm.runtime.debugger import Debugger, Debugging
from asyncvmm.runtime.history import Take


class GdbPort:
    """What a guest tells its debugger goes through here, and nowhere while there is none.

    ``end`` ends the guest, ``show_output`` shows what it said in a stretch that is not over.
    """

    def __init__(
        self,
        conductor: Conductor,
        debugging: Debugging,
        take: Take,
        end: Callable[[], None],
        show_output: Callable[[], None],
    ) -> None:
        self.debugger: Debugger | None = None
        self._conductor = conductor
        self._debugging = debugging
        self._take = take
        self._end = end
        self._show_output = show_output

    async def open(self, machine: Machine, port: int, *, wait: bool) -> int:
        """See Guest.gdb."""
        if self.debugger is not None:
            raise ConfigError(f"guest {machine.name} has a port for gdb already")
        revive = functools.partial(self._debugging.revive, machine)
        self.debugger = Debugger(
            machine, self._conductor, self._take, revive, self._killed, self._show_output
        )
        if wait:
            self.debugger.hold()
        return await self.debugger.listen(port, self._debugging.nursery)

    async def halted(self) -> None:
        """The machine stopped in the middle of a stretch: return when it may go on."""
        if self.debugger is not None:
            await self.debugger.halted()

    def input_came(self) -> None:
        """Something comes to the guest from outside."""
        if self.debugger is not None:
            self.debugger.input_came()

    def guest_ended(self, code: int | None) -> None:
        """The guest is no more: with an exit code, or killed (None)."""
        if self.debugger is not None:
            self.debugger.guest_ended(code)

    def abandon(self) -> None:
        """The host is about to end, where nobody stands in the middle of a stretch."""
        if self.debugger is not None:
            self.debugger.abandon()

    def _killed(self) -> None:
        if self._conductor.inputs.recording:  # at a place that a replay can come to
            self._conductor.at_turn(self._end)
        else:
            self._end()
