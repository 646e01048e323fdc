"""One running guest: the task that runs its harts slice by slice, and everything a user does with it."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from typing import Final, Literal, Protocol

import attrs
import trio

from asyncvmm.arch.hart import STOPPED
from asyncvmm.base.errors import AsyncvmmError, ConfigError
from asyncvmm.base.units import MS
from asyncvmm.machine import RAN_IDLE, RAN_STOP, RAN_TIME, UNLIMITED, GuestConfig, Machine, Stats
from asyncvmm.runtime.commands import CommandChannel, CommandFailedError, CompletedCommand, Sink
from asyncvmm.runtime.console import Console
from asyncvmm.runtime.ports import PortStream

SLICE_STEPS: Final = 2_000_000  # between two looks at the outside: about 10 ms of wall time
PACE_NS: Final = 5 * MS  # how finely the realtime clock follows the wall
LAG_NS: Final = 100 * MS  # a realtime guest that is later than this gives up catching up
RUN_PORT: Final = "asyncvmm.run"


class WallClock(Protocol):
    """Where realtime guests take the time from; injected, so that tests need not wait."""

    def now_ns(self) -> int:
        """Monotonic wall time."""
        ...

    async def sleep_ns(self, ns: int) -> None:
        """Return after ``ns``."""
        ...


class TrioWallClock:
    """The event loop's own clock."""

    def now_ns(self) -> int:
        """See WallClock."""
        return int(trio.current_time() * 1e9)

    async def sleep_ns(self, ns: int) -> None:
        """See WallClock."""
        await trio.sleep(ns / 1e9)


@attrs.frozen
class GuestExit:
    """How a guest ended. ``code`` is the exit code of an ELF or of the test finisher, 0 elsewhere."""

    reason: Literal["poweroff", "closed", "crash", "limit"]
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

    @property
    def mips(self) -> float:
        """Million guest instructions per second of wall time that the guest's task ran."""
        return self.instructions * 1e3 / self.wall_ns if self.wall_ns else 0.0


class Guest:
    """A virtual machine that runs in its host's nursery. Made by ``Host.start``."""

    def __init__(
        self,
        machine: Machine,
        wall: WallClock,
        on_end: Callable[[Guest], None],
        max_instructions: int | None = None,
    ) -> None:
        self.machine: Final = machine
        self.console: Final = Console(machine.console, self.wake)
        self._wall = wall
        self._on_end = on_end
        self._max_steps = max_instructions
        self._steps = 0
        self._busy_ns = 0
        self._offset_ns = 0  # wall time of virtual time 0, for a realtime guest
        self._asleep = False
        self._kick = trio.Event()
        self._ended = trio.Event()
        self._exit: GuestExit | None = None
        self._cancel = trio.CancelScope()
        self._commands: CommandChannel | None = None
        self._run_stream: PortStream | None = None
        run_port = next(
            (port for name, port in machine.ports.items() if name.endswith(f":{RUN_PORT}")), None
        )
        if run_port is not None:
            self._run_stream = PortStream(run_port, self.wake)
            self._commands = CommandChannel(self._run_stream)

    @property
    def name(self) -> str:
        """The guest's name on its host."""
        return self.machine.config.name

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
    def stats(self) -> GuestStats:
        """Counters now."""
        counted: Stats = self.machine.stats()
        return GuestStats(
            instructions=counted.instructions,
            traps=counted.traps,
            device_accesses=counted.device_accesses,
            tlb_misses=counted.tlb_misses,
            virtual_ns=counted.virtual_ns,
            wall_ns=self._busy_ns,
            resident_bytes=counted.resident_bytes,
        )

    def wake(self) -> None:
        """Outside input comes: an idle guest looks at it now, at the time that the wall shows."""
        if self._asleep:
            self.machine.scheduler.advance_idle(self._target_ns())
        self._kick.set()

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

    async def power_off(self) -> GuestExit:
        """Let the guest shut down in good order, through its agent, and wait for its end."""
        await self._channel().power_off()
        return await self.wait()

    async def aclose(self) -> None:
        """Stop the guest where it is, at once."""
        self._cancel.cancel()
        with trio.CancelScope(shield=True):
            await self._ended.wait()
        await trio.lowlevel.checkpoint()

    def _channel(self) -> CommandChannel:
        if self._commands is None:
            raise ConfigError(
                f"guest {self.name} runs no commands: its image has no run agent; use its console"
            )
        return self._commands

    async def task(self) -> None:
        """The guest's life; the host starts it in its nursery."""
        ended = GuestExit("closed")
        try:
            with self._cancel:
                ended = await self._live()
        except AsyncvmmError as error:
            ended = GuestExit("crash", detail=f"{type(error).__name__}: {error}")
        finally:
            self._exit = ended
            self.console.guest_ended()
            if self._run_stream is not None:
                self._run_stream.guest_ended()
            for device in self.machine.devices:
                device.io.blob.close()
            self._ended.set()
            self._on_end(self)

    async def _live(self) -> GuestExit:
        realtime = self.config.clock == "realtime"
        self._offset_ns = self._wall.now_ns() - self.now_ns
        while True:
            why = self._run_slice(self._target_ns() if realtime else UNLIMITED)
            if self._max_steps is not None and self._steps >= self._max_steps:
                return GuestExit("limit", detail=f"{self._steps} instructions ran")
            if why == RAN_STOP:
                if (ended := self._stopped()) is not None:
                    return ended
            elif why == RAN_IDLE:
                await self._sleep(None)
            elif why == RAN_TIME and realtime:
                await self._sleep(self._nap())
                continue
            elif realtime:
                self._offset_ns += max(0, self._target_ns() - self.now_ns - LAG_NS)
            await trio.lowlevel.checkpoint()

    def _run_slice(self, until_ns: int) -> int:
        limit = SLICE_STEPS
        if self._max_steps is not None:
            limit = min(limit, self._max_steps - self._steps)
        self._kick = trio.Event()
        started = self._wall.now_ns()
        try:
            return self.machine.run(until_ns, limit)
        finally:
            self._busy_ns += self._wall.now_ns() - started
            if self._max_steps is not None:
                counted = self.machine.stats()
                self._steps = counted.instructions + counted.traps

    def _target_ns(self) -> int:
        """The virtual time at which a realtime guest should be now."""
        return self._wall.now_ns() - self._offset_ns

    def _idle(self) -> bool:
        return all(
            hart.state == STOPPED or (hart.waiting and not hart.pending_interrupts())
            for hart in self.machine.harts
        )

    def _nap(self) -> int:
        """How long a realtime guest that has caught up may sleep: to its next event, or a pace."""
        nap = PACE_NS
        if self._idle():
            due = self.machine.timeline.next_time_ns() - self._target_ns()
            nap = max(nap, min(due, 1000 * MS))
        return nap

    async def _sleep(self, ns: int | None) -> None:
        """Wait for outside input, at most ``ns``."""
        self._asleep = self.config.clock == "realtime" and self._idle()
        try:
            if ns is None:
                await self._kick.wait()
                return
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sleep_then_wake, ns)
                await self._kick.wait()
                nursery.cancel_scope.cancel()
        finally:
            self._asleep = False

    async def _sleep_then_wake(self, ns: int) -> None:
        await self._wall.sleep_ns(ns)
        self._kick.set()

    def _stopped(self) -> GuestExit | None:
        """The machine stopped itself: how the guest ends, or None when it goes on after a reset."""
        ending = self.machine.ending
        if ending is None:
            return None
        if ending.kind == "reboot":
            self.machine.reset()
            return None
        return GuestExit("poweroff", ending.code, f"by {ending.by}")
