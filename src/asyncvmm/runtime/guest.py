"""One running guest and everything that a user does with it. The conductor runs its harts."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Literal

import attrs
import trio

from asyncvmm.base.errors import AsyncvmmError, ConfigError
from asyncvmm.device import CharPort
from asyncvmm.hypervisor import MemoryLimitError
from asyncvmm.machine import EngineStats, GuestConfig, Machine, Stats
from asyncvmm.machine.devices import Attached
from asyncvmm.machine.renewal import Date, Reseed, machine_id
from asyncvmm.runtime.balloon import GuestBalloon
from asyncvmm.runtime.commands import (
    RUN_PORT,
    CommandChannel,
    CommandFailedError,
    CompletedCommand,
    Sink,
    is_run_port,
)
from asyncvmm.runtime.conductor import Conductor
from asyncvmm.runtime.console import Console
from asyncvmm.runtime.debugger import Debugger, Debugging
from asyncvmm.runtime.entrance import Entrance, GuestEntrance
from asyncvmm.runtime.history import MAX_SNAPSHOTS, MOST_SNAPSHOTS, SPACING_STEPS, History
from asyncvmm.runtime.instants import check_disks, check_repeatable, come_to
from asyncvmm.runtime.journal_file import CLOSE, GONE, GOTO, HISTORY, SNAPSHOT
from asyncvmm.runtime.outbox import Outbox
from asyncvmm.runtime.ports import PortStream
from asyncvmm.runtime.saved import HostSide
from asyncvmm.runtime.shares import GuestPolicy, GuestUsage, Rates
from asyncvmm.runtime.snapshots import Snapshot, take
from asyncvmm.runtime.vsock import GuestSockets

RUN_DEVICES: Final = (f"virtio-console,ports={RUN_PORT}", "virtio-rng")
RUN_APPEND: Final = "asyncvmm.run=1"
# What changes in a system that is told to be another one. Cards are found by the addresses they had.
RENEW: Final = """
for card in /sys/class/net/*; do
    has=$(cat $card/address)
    set -- $NEW
    for old in $OLD; do
        if [ "$has" = "$old" ] && [ "$old" != "$1" ]; then
            ip link set dev ${card##*/} down && ip link set dev ${card##*/} address $1 &&
            ip link set dev ${card##*/} up
        fi
        shift
    done
done
if [ -w /etc ]; then echo $MACHINE_ID > /etc/machine-id; fi
hwclock -s -u 2> /dev/null || true
"""
LOG_LINES: Final = 1000


ForkGuest = Callable[["Guest", int, Reseed, Date], Awaitable[list["Guest"]]]


@attrs.frozen
class GuestExit:
    """How a guest ended. ``code`` is the exit code of an ELF or of the test finisher, 0 elsewhere."""

    reason: Literal["poweroff", "closed", "crash", "limit", "memory"]
    code: int = 0
    detail: str = ""


@attrs.frozen
class GuestStats:
    """Counters since the guest's start."""

    instructions: int
    traps: int
    device_accesses: int
    tlb_misses: int
    virtual_ns: int
    wall_ns: int
    resident_bytes: int
    engine: EngineStats

    @property
    def mips(self) -> float:
        """Million guest instructions per second of wall time that the guest's task ran."""
        return self.instructions * 1e3 / self.wall_ns if self.wall_ns else 0.0


class GuestLog:
    """The last thousand things that a guest's devices and its host had to say about it."""

    def __init__(self) -> None:
        self.lines: Final[deque[str]] = deque(maxlen=LOG_LINES)
        self.listener: Callable[[str, str], None] | None = None  # also called from workers' threads

    def add(self, source: str, text: str) -> None:
        """``source`` is a device's path or a kind of the ledger's events."""
        self.lines.append(f"{source}: {text}")
        if self.listener is not None:
            self.listener(source, text)


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
        max_instructions: int | None = None,
        debugging: Debugging | None = None,
        on_fork: ForkGuest | None = None,
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
        self._debugging = debugging
        self._debugger: Debugger | None = None
        self._on_end = on_end
        self._on_fork = on_fork
        self._ended = trio.Event()
        self._exit: GuestExit | None = None
        self._history: History | None = None
        self._going_back = trio.Lock()
        self._entrance = GuestEntrance(entrance, self._input_comes)
        self.log: Final = log
        self._attach(rates)

    def _attach(self, rates: Rates) -> None:
        """What programs have of the machine, but for its console."""
        machine = self.machine
        self._commands: CommandChannel | None = None
        self._run_stream: PortStream | None = None
        run_port = next((item for item in machine.ports.items() if is_run_port(item[0])), None)
        if run_port is not None:
            self._run_stream = PortStream(
                run_port[1],
                self._input_comes,
                self._conductor.later,
                self._conductor.turn,
                self.outbox,
                functools.partial(self._note, port=run_port[0]),
            )
            self._commands = CommandChannel(self._run_stream)
        self.vsock = GuestSockets(machine, self._entrance, self.outbox)
        self.balloon = GuestBalloon(machine, self._entrance, self.outbox)
        self.policy = GuestPolicy(machine, self._conductor, rates)
        self._rates = rates

    def _detach(self) -> None:
        """Whoever waits for a command, a socket or the balloon hears that there is nobody any more."""
        if self._run_stream is not None:
            self._run_stream.guest_ended()
        self.vsock.guest_ended()
        self.balloon.guest_ended()

    def become(self, machine: Machine, rates: Rates) -> None:
        """Be another machine from now on, which this guest was; the old one goes."""
        old, self.machine = self.machine, machine
        self._detach()
        self.console.move(machine.console)
        self._attach(rates)
        old.before_run = None
        old.ram.clear()
        for device in old.devices:
            device.close()

    @property
    def name(self) -> str:
        """The guest's name on its host."""
        return self.machine.name

    @property
    def config(self) -> GuestConfig:
        """What the guest was made from."""
        return self.machine.config

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
        counted: Stats = self.machine.stats()
        return GuestStats(
            instructions=counted.instructions,
            traps=counted.traps,
            device_accesses=counted.device_accesses,
            tlb_misses=counted.tlb_misses,
            virtual_ns=counted.virtual_ns,
            wall_ns=self.busy_ns,
            resident_bytes=counted.resident_bytes,
            engine=counted.engine,
        )

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
        await self._channel().wait_ready()

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
        result = await self._channel().run(
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
        if self._exit is not None:
            raise ConfigError(f"guest {self.name} has ended ({self._exit.reason})")
        taken = take(self.machine, self._host_side())
        self._conductor.inputs.note(SNAPSHOT, guest=self.name, snapshot=taken.number)
        return taken

    async def fork(
        self, count: int = 1, *, reseed: Reseed = False, clock: Date = "freeze"
    ) -> list[Guest]:
        """Live copies, named ``NAME.1`` and so on, each with networks of its own.

        They share its memory and disks until either side writes, and are equal to it to the bit, or
        renewed: see ``Host.start`` for ``reseed`` and ``clock``.
        """
        if self._on_fork is None:
            raise ConfigError(f"guest {self.name} is on no host that forks")
        return await self._on_fork(self, count, reseed, clock)

    async def renew_identity(self) -> None:
        """Let the system of a reseeded guest take over what is its own now: the addresses of its
        cards, ``/etc/machine-id``, and the date of its RTC. Its agent runs a shell script for that.
        """
        cards = [
            (device.device.mac, device.io.net.mac)
            for device in self.machine.devices
            if device.type.net(device.config) is not None and hasattr(device.device, "mac")
        ]
        environment = {
            "OLD": " ".join(old.hex(":") for old, _ in cards),
            "NEW": " ".join(new.hex(":") for _, new in cards),
            "MACHINE_ID": machine_id(self.config, self.name),
        }
        await self.run(["sh", "-c", RENEW], environment=environment, check=True)

    # -- its past

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
        if spacing < 1 or not 2 <= snapshots <= MOST_SNAPSHOTS:
            raise ConfigError(
                f"a history has 2 to {MOST_SNAPSHOTS} snapshots, at least 1 step apart"
            )
        if self._exit is not None or self._debugging is None:
            raise ConfigError(f"guest {self.name} does not run on a host")
        if self._debugger is not None:
            raise ConfigError("gdb keeps a history of its own: use monitor goto")
        if not self._conductor.between:
            raise ConfigError("a history begins between two quanta: call it when time stands still")
        check_repeatable(self.machine, self.policy.knobs)
        revive = functools.partial(self._debugging.revive, self.machine)
        now_ns = functools.partial(self._conductor.guest_ns, self.name)
        made = History(self.machine, self._take, revive, now_ns, spacing, snapshots)
        self.forget_history()
        self._history = made
        self._note(HISTORY, spacing=spacing, snapshots=snapshots)

    @property
    def keeps_history(self) -> bool:
        """Whether its past is kept."""
        return self._history is not None

    def forget_history(self) -> None:
        """Keep the guest's past no longer."""
        if self._history is not None:
            self._history.close()
            self._history = None

    async def at(self, time_ns: int | None = None, *, steps: int | None = None) -> Snapshot:
        """What the guest was at an instant of its kept history, as a value; the guest is not disturbed.

        The instant is the first at which all harts had come to ``time_ns`` of the guest's virtual time,
        or had done so many ``steps`` (instructions and traps) together; what entered at that very
        instant is not in it, but for frames on their way to its cards. Time of the host stands still
        meanwhile. ConfigError says when there is no such instant, or why it cannot be repeated.
        """
        history = self._kept()
        async with self._going_back:
            with self._conductor.held():
                await self._conductor.turn()
                visit = await come_to(history, time_ns, steps)
                try:
                    return take(visit.machine, visit.host_side)
                finally:
                    visit.close()

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
        history = self._kept()
        check_disks(self.machine)
        assert self._debugging is not None
        async with self._going_back:
            with self._conductor.held():
                await self._conductor.turn()
                visit = await come_to(history, time_ns, steps)
                try:
                    await self._conductor.turn()
                    self._kept()
                    with take(visit.machine, visit.host_side) as snapshot:
                        self._note(GOTO, time_ns=time_ns, steps=steps)
                        history.remember_end()
                        self._debugging.put_back(self.name, snapshot)
                    history.move(visit, self.machine)
                finally:
                    visit.close()

    def _kept(self) -> History:
        """The history; ConfigError when there is none, or it could not be repeated."""
        if self._exit is not None:
            raise ConfigError(f"guest {self.name} has ended ({self._exit.reason})")
        if self._history is None:
            raise ConfigError(f"guest {self.name} keeps no history: call keep_history before")
        check_repeatable(self.machine, self.policy.knobs)
        return self._history

    def _host_side(self) -> HostSide:
        kept = HostSide(
            console=self.console.unread,
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
        """A guest that was started from a snapshot: take over what its host had of it."""
        self.console.unread = kept.console
        if self._commands is not None and self._run_stream is not None:
            self._commands.restore(kept.ready, kept.next_command, kept.command)
            self._run_stream.unread = kept.heard
        for rates, state in ((self._rates.disks, kept.disks), (self._rates.cards, kept.cards)):
            if state is not None:  # on this host its time began when it did here
                rates.restore(attrs.evolve(state, since_ns=rates.since_ns))

    async def gdb(self, port: int = 0, *, wait: bool = False) -> int:
        """Let gdb debug this guest (``target remote :PORT``); returns the loopback port.

        Port 0 takes a free one. While a gdb has stopped the guest, virtual time stands still for the
        whole host. With ``wait`` the guest stands still from now on, until a gdb lets it go on: called
        right after ``Host.start``, that is before its first instruction. A gdb that goes away leaves
        the guest running. On a host with a journal nothing can be written, since the replay would be
        another run. BackendError when the port cannot be had.
        """
        if self._debugging is None or self._exit is not None:
            raise ConfigError(f"guest {self.name} does not run on a host")
        if self._debugger is not None:
            raise ConfigError(f"guest {self.name} has a port for gdb already")
        if self._history is not None:
            raise ConfigError(
                "a guest with keep_history is not debugged: start one from guest.at()"
            )
        revive = functools.partial(self._debugging.revive, self.machine)
        self._debugger = Debugger(
            self.machine, self._conductor, self._take, revive, self._killed, self._show_output
        )
        if wait:
            self._debugger.hold()
        return await self._debugger.listen(port, self._debugging.nursery)

    @property
    def debugged(self) -> bool:
        """Whether a gdb is connected."""
        return self._debugger is not None and self._debugger.attached

    async def gdb_left(self) -> None:
        """Return when no gdb is connected."""
        if self._debugger is not None:
            await self._debugger.wait_alone()

    def leave_gdb(self) -> None:
        """The host is about to end, where nobody stands in the middle of a stretch."""
        if self._debugger is not None:
            self._debugger.abandon()

    def _take(self, machine: Machine) -> Snapshot:
        return take(machine, self._host_side() if machine is self.machine else HostSide())

    def _killed(self) -> None:
        if self._conductor.inputs.recording:  # at a place that a replay can come to
            self._conductor.at_turn(self._killed_now)
        else:
            self._killed_now()

    def _killed_now(self) -> None:
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
        if self._debugger is not None:
            self._debugger.input_came()
        if self._history is not None:
            self._history.input_came()

    async def power_off(self) -> GuestExit:
        """Let the guest shut down in good order, through its agent, and wait for its end."""
        await self._channel().power_off()
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

    def _channel(self) -> CommandChannel:
        if self._commands is None:
            raise ConfigError(
                f"guest {self.name} runs no commands: its image has no run agent; use its console"
            )
        return self._commands

    # -- what the conductor tells

    async def halted(self) -> None:
        """A debugger stopped the machine: return when it lets it go on."""
        if self._debugger is not None:
            await self._debugger.halted()

    def machine_stopped(self) -> bool:
        """The machine stopped itself; False when it was reset and goes on."""
        ending = self.machine.ending
        if ending is not None and ending.kind == "reboot":
            self.machine.reset()
            self._history_has_input()
            return False
        if ending is None:
            self.finish(GuestExit("crash", detail="the machine stopped for no reason"))
        else:
            self.finish(GuestExit("poweroff", ending.code, f"by {ending.by}"))
        return True

    def machine_failed(self, error: AsyncvmmError) -> None:
        """The machine cannot go on."""
        if isinstance(error, MemoryLimitError):
            self.finish(GuestExit("memory", detail=str(error)))
        else:
            self.finish(GuestExit("crash", detail=f"{type(error).__name__}: {error}"))

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
        if self._debugger is not None:
            self._debugger.guest_ended(ended.code if ended.reason == "poweroff" else None)
        if self._history is not None:
            self._history.close()
        self._conductor.remove(self, f"{ended.reason} {ended.detail}".strip())
        for device in self.machine.devices:
            device.close()
        self._on_end(self)
        self._conductor.later(self._tell_end)

    def _tell_end(self) -> None:
        assert self._exit is not None
        if self._exit.reason != "closed" and self._conductor.inputs.recording:
            digest = self.machine.digest()
            self._note(GONE, reason=self._exit.reason, code=self._exit.code, digest=digest)
        self.console.guest_ended()
        self._detach()
        self._ended.set()
