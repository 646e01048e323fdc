"""gdb at a guest: who serves its connection, stops the guest's time and lets it go on, or back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import attrs
import trio

from asyncvmm.base.errors import AsyncvmmError, BackendError, ConfigError
from asyncvmm.gdb import (
    Detach,
    Interrupt,
    Kill,
    MachineTarget,
    Monitor,
    Request,
    Resume,
    Stop,
    Stub,
)
from asyncvmm.gdb.target import SIGINT
from asyncvmm.machine import Machine
from asyncvmm.runtime.conductor import Conductor
from asyncvmm.runtime.edge import cannot_listen
from asyncvmm.runtime.history import History, Take
from asyncvmm.runtime.monitor import run_monitor
from asyncvmm.runtime.snapshots import Snapshot
from asyncvmm.runtime.travel import BEGIN, Past
from asyncvmm.runtime.visits import Revive

LOOPBACK: Final = "127.0.0.1"
RECEIVE_BYTES: Final = 4096
LAST_WORDS_S: Final = 2  # how long a connection may take to hear that it is over


@attrs.frozen
class Debugging:
    """What a host has for the debuggers and the history of its guests: where debuggers run, how a past
    is revived to be looked at, and how a guest becomes what it was.
    """

    nursery: trio.Nursery
    revive: Callable[[Machine, Snapshot], Machine]
    put_back: Callable[[str, Snapshot], None]


class Debugger:
    """One guest's stub. While a client is connected it stops and resumes the guest as gdb says.

    A stopped guest is stopped with its host: no virtual time passes for anybody. It stops in the
    middle of a stretch at a break- or watchpoint (``halted``, which the conductor awaits), and between
    two stretches otherwise. With a journal it looks and stops only, of which no guest can tell: what it
    would write is refused.
    """

    def __init__(
        self,
        machine: Machine,
        conductor: Conductor,
        take: Take,
        revive: Revive,
        kill: Callable[[], None],
        show_output: Callable[[], None],
    ) -> None:
        self.machine = machine
        self.target = MachineTarget(machine)
        self.target.locked = conductor.inputs.recording
        self._conductor = conductor
        self._take = take
        self._revive = revive
        self._kill = kill
        self._show_output = show_output
        self._stub: Stub | None = None
        self._history: History | None = None
        self._past: Past | None = None
        self.why_no_past = ""
        self._changed = trio.Event()
        self._sending = trio.Lock()
        self._unsent = bytearray()
        self._within: trio.Event | None = None  # stopped in the middle of a stretch
        self._holding = False  # stopped between two
        self._interrupting: trio.CancelScope | None = None
        self._travelling: trio.CancelScope | None = None
        self._ended = self._abandoned = False

    # -- what the guest and the conductor tell

    def hold(self) -> None:
        """Stop the guest where it is, which is between two stretches; nobody is connected yet."""
        if not self._holding and not self._ended:
            self._holding = True
            self._conductor.hold()

    async def halted(self) -> None:
        """See residents.Resident."""
        stop = self.target.take_stop()
        if self._stub is None or self._abandoned:
            return
        if self._interrupting is not None:
            self._interrupting.cancel()
        self._show_output()
        self._within = trio.Event()
        self._stopped(stop)
        await self._within.wait()

    def input_came(self) -> None:
        """Something came to the guest from outside."""
        if self._history is not None:
            self._history.input_came()

    def guest_ended(self, code: int | None) -> None:
        """The guest is no more: with an exit code, or killed (None)."""
        self._ended = True
        if self._stub is not None:
            self._stub.ended(code)
            self._changed.set()
        self._go()

    def abandon(self) -> None:
        """The host ends: whatever gdb has stopped goes on, to where the stretch is over."""
        self._abandoned = True
        self._leave_past()
        self.target.detach()
        self._go()

    # -- the connection

    async def listen(self, port: int, nursery: trio.Nursery) -> int:
        """Serve clients at a loopback port, one at a time, for as long as the nursery lives; the port.

        BackendError when it cannot be had.
        """
        try:
            listeners = await trio.open_tcp_listeners(port, host=LOOPBACK)
        except (OSError, OverflowError) as error:
            raise BackendError(f"gdb: {cannot_listen(LOOPBACK, port, error)}") from error
        nursery.start_soon(trio.serve_listeners, self.serve, listeners)
        return int(listeners[0].socket.getsockname()[1])

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Serve one client to its end. A second one at the same time is turned away."""
        if self._stub is not None or self._ended:
            await trio.aclose_forcefully(stream)
            return
        self._stub = Stub(self.target)  # its place is taken
        try:
            await self._stop_between()
            if self._ended:
                return
            self._stub = Stub(self.target, Stop(self.target.current_hart()))
            self._unsent.clear()
            self._attach()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, stream, nursery.cancel_scope)
                await self._receive(stream, nursery)
                nursery.cancel_scope.cancel()
        finally:
            self._detach()
            await self._last_words(stream)
            self._stub = None
            await trio.aclose_forcefully(stream)

    async def _receive(self, stream: trio.abc.Stream, nursery: trio.Nursery) -> None:
        stub = self._stub
        assert stub is not None
        with suppress(trio.BrokenResourceError):
            while data := await stream.receive_some(RECEIVE_BYTES):
                for request in stub.receive(bytes(data)):
                    if not await self._do(request, nursery):
                        return
                if not await self._send_now(stream):
                    return

    async def _send(self, stream: trio.abc.Stream, scope: trio.CancelScope) -> None:
        """What the stub has to say, as it comes; after the guest's end no more."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            ended = self._ended
            if not await self._send_now(stream) or ended:
                scope.cancel()
                return

    async def _send_now(self, stream: trio.abc.Stream) -> bool:
        """Send what there is to say; False when the client is gone. No more is read meanwhile."""
        stub = self._stub
        assert stub is not None
        async with self._sending:
            self._unsent += stub.take_output()
            data = bytes(self._unsent)
            if data:
                try:
                    await stream.send_all(data)
                except trio.BrokenResourceError:
                    return False
                self._unsent.clear()
        return True

    async def _last_words(self, stream: trio.abc.Stream) -> None:
        """Also when the host ends at this moment, gdb is to hear of its guest's end."""
        with trio.move_on_after(LAST_WORDS_S, shield=True):
            await self._send_now(stream)
            await stream.aclose()

    def _attach(self) -> None:
        self.target.attach()
        try:
            conductor, name = self._conductor, self.machine.name
            self._history = History(
                self.machine, self._take, self._revive, lambda: conductor.guest_ns(name)
            )
        except AsyncvmmError as error:
            self.why_no_past = str(error)

    def _detach(self) -> None:
        """The client is gone: the guest goes on from where it is, as if nobody had looked."""
        self._interrupting = self._travelling = None
        self._leave_past()
        self.target.detach()
        if self._history is not None:
            self._history.close()
            self._history = None
        self._go()

    # -- stopping and going on

    @property
    def running(self) -> bool:
        """Whether the guest's time goes on, as far as gdb is concerned."""
        return self._within is None and not self._holding

    async def _stop_between(self) -> None:
        """Stop the guest between two stretches, unless it is stopped."""
        if not self.running:
            return
        self._conductor.hold()
        stopped = False
        try:
            await self._conductor.turn()
            stopped = self.running
        finally:
            if stopped:
                self._holding = True
            else:
                self._conductor.let_go()

    async def _interrupt(self) -> None:
        with trio.CancelScope() as scope:
            self._interrupting = scope
            await self._stop_between()
            if not scope.cancel_called:
                self._show_output()
                self._stopped(Stop(self.target.current_hart(), SIGINT))
        self._interrupting = None

    def _stopped(self, stop: Stop) -> None:
        if self._stub is not None:
            self._stub.stopped(stop)
            self._changed.set()

    def _go(self) -> None:
        """Time goes on."""
        if self._within is not None:
            self._within.set()
            self._within = None
        if self._holding:
            self._holding = False
            self._conductor.let_go()

    async def _do(self, request: Request, nursery: trio.Nursery) -> bool:
        """False when the connection is over."""
        if self._abandoned:
            return False
        if isinstance(request, Resume):
            if request.backward or self._past is not None:
                nursery.start_soon(self._travel, request)
            else:
                self.target.prepare(request)
                self._go()
        elif isinstance(request, Interrupt):
            if self._travelling is not None:
                self._travelling.cancel()
            elif self.running and self._interrupting is None:
                nursery.start_soon(self._interrupt)
        elif isinstance(request, Monitor):
            nursery.start_soon(self._monitor, request.command)
        elif isinstance(request, Kill):
            self._kill()
            return False
        elif isinstance(request, Detach):
            return False
        return True

    # -- the past

    def _leave_past(self) -> None:
        past, self._past = self._past, None
        if past is not None:
            past.close()
        self.target.move(self.machine)
        self.target.frozen = False

    def past(self) -> Past:
        """The guest's past, from now on; ConfigError says why there is none."""
        if self._history is None:
            raise ConfigError(self.why_no_past or "no debugger is attached")
        if self._past is None:
            self._past = Past(self._history, self.target)
        return self._past

    async def _travel(self, resume: Resume) -> None:
        """Do what ``resume`` says in the past; forward it may lead back to the present."""
        stop: Stop | None = None
        with trio.CancelScope() as scope:
            self._travelling = scope
            try:
                past = self.past()
                stop = await (past.go_back(resume) if resume.backward else past.go_on(resume))
            except AsyncvmmError as error:
                self._say(f"{error}\n")
                stop = Stop(self.target.current_hart(), reason=BEGIN)
        self._travelling = None
        if scope.cancelled_caught:
            stop = Stop(self.target.current_hart(), SIGINT)
        if self._past is not None and self._past.present:
            self._leave_past()
            if stop is None:
                self.target.prepare(resume)
                self._go()
                return
        self._stopped(stop or Stop(self.target.current_hart()))

    def _say(self, text: str) -> None:
        if self._stub is not None:
            self._stub.say(text)
            self._changed.set()

    async def _monitor(self, command: str) -> None:
        text = "interrupted\n"
        with trio.CancelScope() as scope:
            self._travelling = scope
            try:
                text = await run_monitor(self, command)
            except AsyncvmmError as error:
                text = f"{error}\n"
        self._travelling = None
        if self._past is not None and self._past.present:
            self._leave_past()
        if self._stub is not None:
            self._stub.monitor_done(text)
            self._changed.set()

    # -- for the monitor's commands: see monitor.Debugger

    @property
    def history(self) -> History | None:
        """What is remembered, or None where nothing can be."""
        return self._history

    def snapshot(self, folder: str) -> str:
        """Remember this instant, or save it to a new folder."""
        machine = self.target.machine
        if folder:
            with self._take(machine) as snapshot:
                pages = snapshot.save(folder)
            return f"saved to {folder}: {pages} new pages\n"
        history = self.past().history
        if machine is self.machine:
            history.remember()
        elif self._past is not None:
            self._past.mark()
        return "remembered: monitor goto comes back to it\n"
