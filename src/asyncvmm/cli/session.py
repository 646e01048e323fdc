"""One run of a guest for its user: the command or the console, signals, time limits, and how it ended."""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Final

import trio

from asyncvmm.api import (
    BackendError,
    ConfigError,
    Guest,
    GuestConfig,
    GuestEndedError,
    GuestExit,
    Host,
    NetworkConfig,
    open_host,
)
from asyncvmm.cli import terminal
from asyncvmm.cli.failures import failure_lines
from asyncvmm.cli.groups import only_error
from asyncvmm.cli.run_stats import print_stats
from asyncvmm.network import DEFAULT_NETWORK

GDB_PORT: Final = 1234
TIMEOUT_STATUS: Final = 124
CRASH_STATUS: Final = 125
POWEROFF_PATIENCE_S: Final = 30
END_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Session:
    """One run of the command. ``output`` is the file descriptor for what the guest says."""

    def __init__(self, options: argparse.Namespace, config: GuestConfig) -> None:
        self.options = options
        self.config = config
        self.networks = {DEFAULT_NETWORK: NetworkConfig.from_mapping({"allow": options.allow})}
        self.status = 0
        self.started = time.monotonic()
        self.interactive = (
            options.guest_command is None and terminal.is_terminal(0) and terminal.is_terminal(1)
        )
        self.output = 1

    @asynccontextmanager
    async def hosted(self) -> AsyncIterator[tuple[Host, Guest]]:
        """The guest on its host, for a block."""
        async with open_host(networks=self.networks, journal=self.options.record) as host:
            yield (
                host,
                await host.start(self.config, max_instructions=self.options.max_instructions),
            )

    def guest_started(self, guest: Guest) -> None:
        """The guest is there; it has not run yet. For commands that watch it."""

    async def command_begins(self, guest: Guest) -> None:
        """The command is about to be run in the guest."""

    async def command_ended(self, guest: Guest) -> None:
        """The command has ended; the guest runs on."""

    async def run(self) -> int:
        """Start the guest, serve it, and say how it ended."""
        with ExitStack() as stack:
            path = self.options.log
            log = stack.enter_context(_open_for("--log", path, buffering=0)) if path else None
            async with trio.open_nursery() as nursery:
                await nursery.start(self._end_on_signal, nursery.cancel_scope)
                async with self.hosted() as (host, guest):
                    self.guest_started(guest)
                    await self.serve_gdb(guest)
                    self._tap(guest, log)
                    if self.options.capture:
                        out = _open_for("--capture", self.options.capture)
                        host.networks[DEFAULT_NETWORK].capture(out)
                    for forward in self.options.publish:
                        port = await host.forward(guest.name, forward)
                        if not forward.host_port:
                            terminal.say(
                                f"{forward.host}:{port} is the guest's port {forward.port}"
                            )
                    try:
                        await self._serve_in_time(host, guest)
                    finally:
                        ended = guest.exit
                        known = () if ended is None else (ended.detail,)
                        for text in failure_lines(host.events, known):
                            terminal.say(text)
                        if self.options.stats:
                            print_stats(guest, time.monotonic() - self.started)
                nursery.cancel_scope.cancel()
        return self.status

    async def serve_gdb(self, guest: Guest) -> None:
        """With --gdb or --gdb-wait: let gdb at it."""
        options = self.options
        if options.gdb is None and not options.gdb_wait:
            return
        wanted = GDB_PORT if options.gdb is None else options.gdb
        port = await guest.gdb(wanted, wait=options.gdb_wait)
        if options.record is not None:
            terminal.say("a journal is kept: gdb can look and stop, but write nothing")
        terminal.say(f"gdb-multiarch: target remote :{port}")

    async def _end_on_signal(
        self, scope: trio.CancelScope, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """An interrupt ends the run in good order: the terminal is restored, disks are closed."""
        awaited = [each for each in END_SIGNALS if signal.getsignal(each) != signal.SIG_IGN]
        with trio.open_signal_receiver(*awaited) as signals:
            task_status.started()
            async for number in signals:
                self.status = 128 + number
                scope.cancel()

    async def _serve_in_time(self, host: Host, guest: Guest) -> None:
        with trio.move_on_after(self.options.timeout or float("inf")) as scope:
            if self.options.guest_command is not None:
                await self._run_command(guest)
            else:
                await self.show_console(host, guest)
        if scope.cancelled_caught:
            terminal.say(f"stopped after {self.options.timeout:g} s (--timeout)")
            self.status = TIMEOUT_STATUS

    async def _run_command(self, guest: Guest) -> None:
        terminal.flush_standard()
        try:
            await self.command_begins(guest)
            done = await guest.run(
                self.options.guest_command,
                stdin=b"" if terminal.is_terminal(0) else terminal.read_fd(0),
                stdout=lambda data: terminal.write_all(self.output, data),
                stderr=lambda data: terminal.write_all(2, data),
            )
        except GuestEndedError:
            self._guest_ended(await guest.wait())
            self.status = self.status or CRASH_STATUS
            terminal.say("the guest ended before the command did; --verbose shows its console")
            return
        self.status = done.status
        with suppress(GuestEndedError):
            await self.command_ended(guest)
        await self.leave(guest)

    async def leave(self, guest: Guest) -> None:
        """The command is over and the guest is to end."""
        if self.config.disks:
            with trio.move_on_after(POWEROFF_PATIENCE_S):
                with suppress(GuestEndedError):
                    await guest.power_off()  # its file systems are written back

    async def show_console(self, host: Host, guest: Guest) -> None:
        """The console is standard output, and what comes from standard input is typed at it."""
        with ExitStack() as stack:
            if self.interactive:
                terminal.say(f"the guest's console follows; {terminal.ESCAPE_NAME} leaves")
                stack.callback(terminal.write_all, 1, b"\n")
                stack.enter_context(terminal.raw_mode(0))
            terminal.flush_standard()
            guest.console.taps.append(lambda data: terminal.write_all(self.output, data))
            async with trio.open_nursery() as nursery:
                if self.interactive:
                    nursery.start_soon(_follow_window, guest)
                else:
                    nursery.start_soon(terminal.watch_reader, self.output)
                nursery.start_soon(self._type_input, host, guest, nursery.cancel_scope)
                if self.options.until is not None:
                    nursery.start_soon(self._await_text, guest, nursery.cancel_scope)
                ended = await guest.wait()
                nursery.cancel_scope.cancel()
                stack.close()  # messages come after the terminal is itself again
                self._guest_ended(ended)
                if self.options.until is not None:
                    terminal.say(f"the guest ended before it said {self.options.until!r}")
                    self.status = self.status or 1

    async def _type_input(self, host: Host, guest: Guest, scope: trio.CancelScope) -> None:
        with suppress(trio.BrokenResourceError):  # the guest ended while input was under way
            async for data in terminal.read_fd(0):
                keys, escape, _ = data, b"", b""
                if self.interactive:
                    keys, escape, _ = data.partition(bytes([terminal.ESCAPE]))
                if keys:
                    await guest.console.send_all(keys)
                if escape:
                    scope.cancel()
                    return
            if not self.interactive:
                await host.wait_quiet()
                while guest.debugged:  # whoever steps through an idle guest wants more of it
                    await guest.gdb_left()
                    await host.wait_quiet()
                terminal.say("the guest waits for input, and there is no more")
            scope.cancel()

    async def _await_text(self, guest: Guest, scope: trio.CancelScope) -> None:
        """End the session once the console says ``--until``'s text."""
        wanted = self.options.until.encode(errors="surrogateescape")
        tail = bytearray()
        found = trio.Event()

        def look(data: bytes) -> None:
            nonlocal tail
            tail += data
            if wanted in tail:
                found.set()
            del tail[: max(0, len(tail) - len(wanted) + 1)]

        guest.console.taps.append(look)
        await found.wait()
        if not self.interactive:
            terminal.write_all(self.output, b"\n")
        scope.cancel()

    def _tap(self, guest: Guest, log: BinaryIO | None) -> None:
        if log is not None:
            guest.console.taps.append(lambda data: _write_log(log, data))
        shown = self.options.guest_command is None and (
            self.output == 2 or terminal.is_same_file(1, 2)
        )
        if self.options.verbose and not shown:
            guest.console.taps.append(lambda data: terminal.write_all(2, data))

    def _guest_ended(self, ended: GuestExit) -> None:
        if ended.reason == "crash":
            terminal.say(f"the guest cannot go on: {ended.detail}")
            self.status = CRASH_STATUS
        elif ended.reason == "limit":
            terminal.say(f"stopped: {ended.detail} (--max-instructions)")
        else:
            self.status = ended.code & 0xFF


def run_session(session: Session) -> int:
    """Run the guest; returns the exit status."""
    try:
        return trio.run(session.run)
    except BaseExceptionGroup as group:
        raise only_error(group) from None


async def _follow_window(guest: Guest) -> None:
    """Tell the guest the window's size, now and whenever it changes."""
    guest.console.resize(*terminal.window_size(0))
    with trio.open_signal_receiver(signal.SIGWINCH) as signals:
        async for _ in signals:
            guest.console.resize(*terminal.window_size(0))


def _open_for(option: str, path: Path, buffering: int = -1) -> BinaryIO:
    try:
        return path.open("wb", buffering=buffering)
    except OSError as error:
        raise ConfigError(f"{option} {path}: {error.strerror}") from error


def _write_log(log: BinaryIO, data: bytes) -> None:
    try:
        log.write(data)
    except OSError as error:
        raise BackendError(f"--log {log.name}: {error.strerror}") from error
