"""``asyncvmm run web.vm -- COMMAND`` where web.vm runs already: the command runs in it."""

from __future__ import annotations

import argparse
import json
import signal
from typing import Final

import trio

from asyncvmm.api import BackendError, ConfigError, VmFolder
from asyncvmm.cli import terminal
from asyncvmm.cli.groups import only_error
from asyncvmm.cli.session import CRASH_STATUS, TIMEOUT_STATUS
from asyncvmm.cli.terminal import say
from asyncvmm.runtime.folder.client import ask_over, connect
from asyncvmm.runtime.folder.protocol import ControlError, Kind, Link, raise_error

ONLY_AT_START: Final = (
    "append", "memory", "harts", "disk", "device", "net", "publish", "capture", "seed", "clock",
    "engine", "max_instructions", "log", "verbose", "stats", "cold", "flash", "share", "gdb",
    "gdb_wait", "record",
)  # fmt: skip


def run_remotely(folder: VmFolder, options: argparse.Namespace) -> int:
    """The command's exit status."""
    for name in ONLY_AT_START:
        if getattr(options, name):
            raise ConfigError(
                f"{folder.path}: runs already: --{name.replace('_', '-')} is for its start"
            )
    try:
        return trio.run(_run, folder, options)
    except BaseExceptionGroup as group:
        raise only_error(group) from None


async def _run(folder: VmFolder, options: argparse.Namespace) -> int:
    status = CRASH_STATUS
    async with await connect(folder.paths) as link:
        await ask_over(link, {"do": "run", "arguments": options.guest_command})
        terminal.flush_standard()
        with trio.move_on_after(options.timeout or float("inf")) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_end_on_signal, nursery.cancel_scope)
                nursery.start_soon(_feed, link)
                status = await _listen(link)
                nursery.cancel_scope.cancel()
        if scope.cancelled_caught:
            say(f"stopped after {options.timeout:g} s (--timeout)")
            status = TIMEOUT_STATUS
    return status


async def _listen(link: Link) -> int:
    while (frame := await link.receive()) is not None:
        kind, payload = frame
        if kind == Kind.OUTPUT:
            terminal.write_all(1, payload)
        elif kind == Kind.ERROR:
            terminal.write_all(2, payload)
        elif kind == Kind.STATUS:
            return payload[0]
        elif kind == Kind.ENDED:
            raise_error(json.loads(payload))
    raise BackendError("the machine's process is gone: see logs/vm.log and logs/server.err")


async def _feed(link: Link) -> None:
    try:
        if not terminal.is_terminal(0):
            async for data in terminal.read_fd(0):
                await link.send(Kind.INPUT, data)
        await link.send(Kind.INPUT, b"")
    except ControlError:
        return  # the other task says why


async def _end_on_signal(scope: trio.CancelScope) -> None:
    """The command is killed in the guest once we are gone."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
        async for _ in signals:
            scope.cancel()
