"""What programs on the host have of one machine, but for its console: made with it, and gone with it.

A guest that goes back in time becomes another machine: it gets new fittings, and whoever waits at the
old ones hears that there is nobody any more.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.machine import Machine
from asyncvmm.runtime.balloon import GuestBalloon
from asyncvmm.runtime.commands import CommandChannel, is_run_port
from asyncvmm.runtime.conductor import Conductor
from asyncvmm.runtime.entrance import GuestEntrance
from asyncvmm.runtime.inputs import Note
from asyncvmm.runtime.outbox import Outbox
from asyncvmm.runtime.ports import PortStream
from asyncvmm.runtime.saved import HostSide
from asyncvmm.runtime.shares import GuestPolicy, Rates
from asyncvmm.runtime.vsock import GuestSockets


class Fittings:
    """Made around ``machine``, with the limits that stand before its devices."""

    def __init__(
        self,
        machine: Machine,
        conductor: Conductor,
        entrance: GuestEntrance,
        outbox: Outbox,
        rates: Rates,
        input_comes: Callable[[], None],
        note: Note,
    ) -> None:
        self.vsock: Final = GuestSockets(machine, entrance, outbox)
        self.balloon: Final = GuestBalloon(machine, entrance, outbox)
        self.policy: Final = GuestPolicy(machine, conductor, rates)
        self._name = machine.name
        self._commands: CommandChannel | None = None
        self._rates = rates
        self._run_stream: PortStream | None = None
        run_port = next((item for item in machine.ports.items() if is_run_port(item[0])), None)
        if run_port is not None:
            self._run_stream = PortStream(
                run_port[1],
                input_comes,
                conductor.later,
                conductor.turn,
                outbox,
                functools.partial(note, port=run_port[0]),
            )
            self._commands = CommandChannel(self._run_stream)

    @property
    def commands(self) -> CommandChannel:
        """To the image's agent; ConfigError when there is none."""
        if self._commands is None:
            raise ConfigError(
                f"guest {self._name} runs no commands: its image has no run agent; use its console"
            )
        return self._commands

    def guest_ended(self) -> None:
        """Whoever waits for a command, a socket or the balloon hears that there is nobody any more."""
        if self._run_stream is not None:
            self._run_stream.guest_ended()
        self.vsock.guest_ended()
        self.balloon.guest_ended()

    def host_side(self, console: bytes) -> HostSide:
        """What a snapshot has of them; ``console`` is what nobody has read of it."""
        kept = HostSide(
            console=console,
            disks=self._rates.disks.state(),
            cards=self._rates.cards.state(),
        )
        if self._commands is None or self._run_stream is None:
            return kept
        ready, next_command, command, heard = self._commands.state()
        return attrs.evolve(
            kept,
            ready=ready,
            next_command=next_command,
            command=command,
            heard=heard + self._run_stream.unread,
        )

    def go_on_from(self, kept: HostSide) -> None:
        """Take over what ``host_side`` told, but for the console."""
        if self._commands is not None and self._run_stream is not None:
            self._commands.restore(kept.ready, kept.next_command, kept.command)
            self._run_stream.unread = kept.heard
        for rates, state in ((self._rates.disks, kept.disks), (self._rates.cards, kept.cards)):
            if state is not None:  # on this host its time began when it did here
                rates.restore(attrs.evolve(state, since_ns=rates.since_ns))
