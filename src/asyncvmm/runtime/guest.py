"""One running guest and everything that a user does with it. The conductor runs its harts.

A guest that goes back in time becomes another machine: what belongs to one alone is its ``Fittings``'.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import trio

from asyncvmm.base.errors import AsyncvmmError, ConfigError
from asyncvmm.device import CharPort
from asyncvmm.machine import GuestConfig, Machine
from asyncvmm.machine.devices import Attached
from asyncvmm.machine.renewal import Date, Reseed
from asyncvmm.runtime import identity
from asyncvmm.runtime.balloon import GuestBalloon
from asyncvmm.runtime.commands import CommandFailedError, CompletedCommand, Sink
from asyncvmm.runtime.conductor import Conductor
from asyncvmm.runtime.console import Console
from asyncvmm.runtime.debugger import Debugging
from asyncvmm.runtime.entrance import Entrance, GuestEntrance
from asyncvmm.runtime.fittings import Fittings
from asyncvmm.runtime.gdb_port import GdbPort
from asyncvmm.runtime.guest_past import GuestPast
from asyncvmm.runtime.guest_report import GuestExit, GuestLog, GuestStats
from asyncvmm.runtime.history import MAX_SNAPSHOTS, SPACING_STEPS
from asyncvmm.runtime.journal_file import CLOSE, GONE, SNAPSHOT
from asyncvmm.runtime.outbox import Outbox
from asyncvmm.runtime.saved import HostSide
from asyncvmm.runtime.shares import GuestPolicy, GuestUsage, Rates
from asyncvmm.runtime.snapshots import Snapshot, take
from asyncvmm.runtime.vsock import GuestSockets

__all__ = ["Guest", "GuestExit", "GuestLog", "GuestStats"]

ForkGuest = Callable[["Guest", int, Reseed, Date], Awaitable[list["Guest"]]]


class Guest:
    """A virtual machine on its host. Made by ``Host.start``."""

    def __init__(
        self,
        machine: Machine,
        conductor: Conductor,
        on_end: Callable[[Guest], None],
        rates: Rates,
        log: GuestLog,
        outbox: Outbox,
        entrance: Entrance,
        max_instructions: int | None,
        debugging: Debugging,
        on_fork: ForkGuest,
    ) -> None:
        self.machine = machine
        self.outbox: Final = outbox
        self.console: Final = Console(
            machine.console,
            self._input_comes,
            conductor.later,
            conductor.turn,
            outbox,
            functools.partial(self._note, port=""),
        )
        self.max_steps = max_instructions
        self.busy_ns = 0
        self._conductor = conductor
        self._on_end = on_end
        self._on_fork = on_fork
        self._ended = trio.Event()
        self._exit: GuestExit | None = None
        self._entrance = GuestEntrance(entrance, self._input_comes)
        self.log: Final = log
        self._fittings = self._fit(rates)
        self._past = GuestPast(
            conductor, debugging, self._take, self._living, lambda: self.policy.knobs, self._note
        )
        self._gdb = GdbPort(conductor, debugging, self._take, self._killed, self._show_output)

    def _fit(self, rates: Rates) -> Fittings:
        return Fittings(
            self.machine,
            self._conductor,
            self._entrance,
            self.outbox,
            rates,
            self._input_comes,
            self._note,
        )

    def become(self, machine: Machine, rates: Rates) -> None:
        """Be another machine from now on, which this guest was; the old one goes."""
        old, self.machine = self.machine, machine
        self._fittings.guest_ended()
        self.console.move(machine.console)
        self._fittings = self._fit(rates)
        old.before_run = None
        old.ram.clear()
        old.close()

    @property
    def name(self) -> str:
        """The guest's name on its host."""
        return self.machine.name

    @property
    def config(self) -> GuestConfig:
        """What the guest was made from."""
        return self.machine.config

    @property
    def vsock(self) -> GuestSockets:
        """Its sockets to programs on the host."""
        return self._fittings.vsock

    @property
    def balloon(self) -> GuestBalloon:
        """What asks it for memory."""
        return self._fittings.balloon

    @property
    def policy(self) -> GuestPolicy:
        """Its knobs, to be changed while it runs."""
        return self._fittings.policy

    @property
    def exit(self) -> GuestExit | None:
        """How it ended, or None while it lives."""
        return self._exit

    @property
    def now_ns(self) -> int:
        """The guest's virtual time, in ns since its host's start."""
        return int(self.machine.timeline.now_ns)

    @property
    def since_ns(self) -> int:
        """The host's virtual time at which the guest's own was 0, as it goes now: after it was started
        from a snapshot or went back, ``since_ns + t`` is when its host comes to the guest's ``t``.
        """
        return self._conductor.since_ns(self.name)

    @property
    def stats(self) -> GuestStats:
        """Counters now."""
        return GuestStats.of(self.machine.stats(), self.busy_ns)

    def usage(self) -> GuestUsage:
        """What the host gave this guest: CPU, steal and throttled time, memory."""
        return self.policy.usage()

    async def wait(self) -> GuestExit:
        """Return when the guest has ended, with how."""
        await self._ended.wait()
        assert self._exit is not None
        return self._exit

    async def wait_ready(self) -> None:
        """Return when the guest's agent is there to run commands."""
        await self._fittings.commands.wait_ready()

    async def run(
        self,
        arguments: Sequence[str | bytes],
        *,
        stdin: bytes | AsyncIterable[bytes] = b"",
        stdout: Sink | None = None,
        stderr: Sink | None = None,
        environment: Mapping[str, str] | None = None,
        directory: str = "",
        check: bool = False,
    ) -> CompletedCommand:
        """Run a command in the guest and return its status and output, once the guest is up.

        ``stdout`` and ``stderr`` take the output as it comes, instead of the result. With ``check``
        another status than 0 raises CommandFailedError. Commands run one at a time; cancelling
        kills the command. ConfigError when the image has no agent.
        """
        result = await self._fittings.commands.run(
            arguments,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            environment=environment,
            directory=directory,
        )
        if check and result.status != 0:
            raise CommandFailedError(result)
        return result

    async def snapshot(self) -> Snapshot:
        """All that the guest is now, as a value: ``Host.start`` goes on from it, as often as wanted.

        Memory and disks are shared with it until written. A command that runs goes on here and is
        killed there. ConfigError when the guest has ended.
        """
        await self._conductor.turn()
        self._conductor.kick()
        return self.taken()

    def taken(self) -> Snapshot:
        """``snapshot``, for whoever has its turn already."""
        taken = self._take(self._living())
        self._conductor.inputs.note(SNAPSHOT, guest=self.name, snapshot=taken.number)
        return taken

    async def fork(
        self, count: int = 1, *, reseed: Reseed = False, clock: Date = "freeze"
    ) -> list[Guest]:
        """Live copies, named ``NAME.1`` and so on, each with networks of its own.

        They share its memory and disks until either side writes, and are equal to it to the bit, or
        renewed: see ``Host.start`` for ``reseed`` and ``clock``.
        """
        return await self._on_fork(self, count, reseed, clock)

    async def renew_identity(self) -> None:
        """Let the system of a reseeded guest take over what is its own now: the addresses of its
        cards, ``/etc/machine-id``, and the date of its RTC. Its agent runs a shell script for that.
        """
        environment = identity.environment(self.machine)
        await self.run(["sh", "-c", identity.RENEW], environment=environment, check=True)

    def keep_history(self, *, spacing: int = SPACING_STEPS, snapshots: int = MAX_SNAPSHOTS) -> None:
        """Remember from now on what the guest does, for ``at`` and ``goto``.

        A snapshot is taken every ``spacing`` steps (of all harts), and after each input from outside.
        With more than ``snapshots`` of them every other one is given up and the spacing doubles; of
        more than twice as many inputs the first half is forgotten. Pages that no instant shares with
        the guest cost memory. Call it between two quanta, such as right after ``Host.start``.

        Frames that come to its cards are remembered too, 64 MiB of them at most.

        ConfigError for what does not repeat itself: live devices, ``io.max``, ``net.max``; and beside
        gdb, which keeps a history of its own.
        """
        if self._gdb.debugger is not None:
            raise ConfigError("gdb keeps a history of its own: use monitor goto")
        self._past.keep(spacing, snapshots)

    @property
    def keeps_history(self) -> bool:
        """Whether its past is kept."""
        return self._past.history is not None

    def forget_history(self) -> None:
        """Keep the guest's past no longer."""
        self._past.close()

    async def at(self, time_ns: int | None = None, *, steps: int | None = None) -> Snapshot:
        """What the guest was at an instant of its kept history, as a value; the guest is not disturbed.

        The instant is the first at which all harts had come to ``time_ns`` of the guest's virtual time,
        or had done so many ``steps`` (instructions and traps) together; what entered at that very
        instant is not in it, but for frames on their way to its cards. Time of the host stands still
        meanwhile. ConfigError says when there is no such instant, or why it cannot be repeated.
        """
        return await self._past.at(time_ns, steps)

    async def goto(self, time_ns: int | None = None, *, steps: int | None = None) -> None:
        """Be at an instant of the kept history (see ``at``), back or forth, and live on from there.

        What came after it is known until the host runs on, and dropped then. The host's clock does
        not go back: the guest is as if started there from a snapshot, on the same place of the host's
        grid, so that with the same inputs it comes to the same digests (see ``since_ns``). Its usage
        is counted anew. Commands that run, sockets and questions to the balloon end as if the guest
        had; what the console says again, taps are told again. Its network stays where it is: frames on
        their way from and to it go on, the gateway's connections with it end, and what it believes to
        be connected finds out as after a cable that was pulled.

        On a host with a journal that it went back is an input as others are: a replay keeps the guest's
        history as it was kept, and goes back at the same instant of the host.

        ConfigError leaves it as it is: see ``at``; also for a disk that is written in place.
        """
        await self._past.goto(time_ns, steps)

    def go_on_from(self, kept: HostSide) -> None:
        """A guest that was started from a snapshot: take over what its host had of it."""
        self.console.unread = kept.console
        self._fittings.go_on_from(kept)

    async def gdb(self, port: int = 0, *, wait: bool = False) -> int:
        """Let gdb debug this guest (``target remote :PORT``); returns the loopback port.

        Port 0 takes a free one. While a gdb has stopped the guest, virtual time stands still for the
        whole host. With ``wait`` the guest stands still from now on, until a gdb lets it go on: called
        right after ``Host.start``, that is before its first instruction. A gdb that goes away leaves
        the guest running. On a host with a journal nothing can be written, since the replay would be
        another run. BackendError when the port cannot be had.
        """
        machine = self._living()
        if self._past.history is not None:
            raise ConfigError("a guest with keep_history has no gdb: start one from guest.at()")
        return await self._gdb.open(machine, port, wait=wait)

    def leave_gdb(self) -> None:
        """The host is about to end, where nobody stands in the middle of a stretch."""
        self._gdb.abandon()

    def _living(self) -> Machine:
        if self._exit is not None:
            raise ConfigError(f"guest {self.name} has ended ({self._exit.reason})")
        return self.machine

    def _take(self, machine: Machine) -> Snapshot:
        """A snapshot of a machine: this guest's, or one that shows its past."""
        own = machine is self.machine
        return take(machine, self._fittings.host_side(self.console.unread) if own else HostSide())

    def _killed(self) -> None:
        self._conductor.kick()
        self.finish(GuestExit("closed", detail="killed by gdb"))

    def _show_output(self) -> None:
        """What was said in this stretch is shown although it is not over."""
        self.outbox.open()
        self.console.tell()

    def _input_comes(self) -> None:
        self._history_has_input()
        self._conductor.kick()

    def _history_has_input(self) -> None:
        self._gdb.input_came()
        self._past.input_came()

    async def power_off(self) -> GuestExit:
        """Let the guest shut down in good order, through its agent, and wait for its end."""
        await self._fittings.commands.power_off()
        return await self.wait()

    def at_port(self, name: str, action: Callable[[CharPort], object]) -> None:
        """Do to a port (the console for an empty name) what was done to it when its run was recorded."""
        self._input_comes()
        action(self.machine.ports[name] if name else self.machine.console)
        self._conductor.kick()

    def at_device(self, path: str, action: Callable[[Attached], object]) -> None:
        """Do to a live device what its task did when its run was recorded."""
        device = next(each for each in self.machine.devices if each.io.path == path)
        self._entrance.enter_again(lambda now: action(device))

    async def aclose(self) -> None:
        """Stop the guest where it is, at once: not in the middle of a quantum."""
        try:
            await self._conductor.turn()
        finally:
            if self._exit is None:
                self._conductor.kick()
            self.finish(GuestExit("closed"))

    def _note(self, kind: int, data: bytes = b"", **names: Any) -> None:
        self._conductor.inputs.note(kind, data, guest=self.name, **names)

    # -- what the conductor tells

    async def halted(self) -> None:
        """A debugger stopped the machine: return when it lets it go on."""
        await self._gdb.halted()

    def machine_stopped(self) -> bool:
        """The machine stopped itself; False when it was reset and goes on."""
        ending = self.machine.ending
        if ending is not None and ending.kind == "reboot":
            self.machine.reset()
            self._history_has_input()
            return False
        self.finish(GuestExit.of(ending))
        return True

    def machine_failed(self, error: AsyncvmmError) -> None:
        """The machine cannot go on."""
        self.finish(GuestExit.by_error(error))

    def limit_reached(self) -> None:
        """``max_steps`` have run."""
        self.finish(GuestExit("limit", detail=f"{self.max_steps} instructions ran"))

    def raise_tap_error(self) -> None:
        """Raise what one of the console's taps raised."""
        self.console.raise_tap_error()

    def finish(self, ended: GuestExit) -> None:
        """The guest has ended; everything of it on the host is given back. Once is enough."""
        if self._exit is not None:
            return
        self._exit = ended
        if ended.reason == "closed":
            self._note(CLOSE)
        self.policy.freeze()
        self._gdb.guest_ended(ended.code if ended.reason == "poweroff" else None)
        self._past.close()
        self._conductor.remove(self, f"{ended.reason} {ended.detail}".strip())
        self.machine.close()
        self._on_end(self)
        self._conductor.later(self._tell_end)

    def _tell_end(self) -> None:
        assert self._exit is not None
        if self._exit.reason != "closed" and self._conductor.inputs.recording:
            digest = self.machine.digest()
            self._note(GONE, reason=self._exit.reason, code=self._exit.code, digest=digest)
        self.console.guest_ended()
        self._fittings.guest_ended()
        self._ended.set()
