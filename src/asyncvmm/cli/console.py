"""``asyncvmm console``: the console of a machine that runs for itself."""

from __future__ import annotations

import argparse
import json
import signal
from contextlib import ExitStack, suppress
from typing import Any

import trio

from asyncvmm.api import ConfigError, open_folder
from asyncvmm.cli import terminal
from asyncvmm.cli.checks import check_timeout
from asyncvmm.cli.groups import only_error
from asyncvmm.cli.session import CRASH_STATUS, TIMEOUT_STATUS
from asyncvmm.cli.terminal import ESCAPE, ESCAPE_NAME, say
from asyncvmm.runtime.folder.client import ask_over, connect
from asyncvmm.runtime.folder.layout import FolderPaths
from asyncvmm.runtime.folder.protocol import ControlError, Kind, Link, pack_window
from asyncvmm.runtime.folder.server import HISTORY_BYTES

HISTORY = 2000


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "console",
        help="the console of a started machine",
        description=f"Show a started machine's console and type at it. {ESCAPE_NAME} leaves; the machine "
        "runs on. Several may look at once.",
        epilog="examples:\n  asyncvmm console web.vm\n"
        "  echo date | asyncvmm console web.vm --history 0 --until UTC",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument(
        "--history",
        type=int,
        default=HISTORY,
        metavar="BYTES",
        help=f"how much of what was said before is shown (default: {HISTORY}, at most {HISTORY_BYTES})",
    )
    parser.add_argument("--until", metavar="TEXT", help="leave with 0 once the console says TEXT")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="of wall time")
    parser.set_defaults(function=console)


def console(options: argparse.Namespace) -> int:
    """Until the escape key, the end of the input, or the machine's end."""
    check_timeout(options)
    if options.until == "":
        raise ConfigError("--until needs a text to wait for")
    try:
        return trio.run(_attach, open_folder(options.folder).paths, options)
    except BaseExceptionGroup as group:
        raise only_error(group) from None


async def _attach(paths: FolderPaths, options: argparse.Namespace) -> int:
    interactive = terminal.is_terminal(0) and terminal.is_terminal(1)
    status = 0
    async with await connect(paths) as link:
        await ask_over(link, {"do": "console", "history": options.history})
        with ExitStack() as stack:
            if interactive:
                say(f"the machine's console follows; {ESCAPE_NAME} leaves, and it runs on")
                stack.callback(terminal.write_all, 1, b"\n")
                stack.enter_context(terminal.raw_mode(0))
            terminal.flush_standard()
            with trio.move_on_after(options.timeout or float("inf")) as scope:
                async with trio.open_nursery() as nursery:
                    if interactive:
                        nursery.start_soon(_follow_window, link)
                    else:
                        nursery.start_soon(terminal.watch_reader, 1)
                    nursery.start_soon(_type, link, interactive, nursery.cancel_scope)
                    status = await _show(link, stack, (options.until or "").encode())
                    nursery.cancel_scope.cancel()
            if scope.cancelled_caught:
                status = TIMEOUT_STATUS
    return status


async def _show(link: Link, stack: ExitStack, wanted: bytes) -> int:
    tail = b""
    while (frame := await link.receive()) is not None:
        kind, payload = frame
        if kind == Kind.OUTPUT:
            terminal.write_all(1, payload)
            tail += payload
            if wanted and wanted in tail:
                return 0
            tail = tail[max(0, len(tail) - len(wanted)) :]
        elif kind == Kind.ENDED:
            stack.close()  # messages come after the terminal is itself again
            ended = json.loads(payload)
            if ended["reason"] == "crash":
                say(f"the guest cannot go on: {ended['detail']}")
                return CRASH_STATUS
            say("the machine was stopped" if ended["reason"] == "closed" else "the machine ended")
            return int(ended["code"]) & 0xFF
    stack.close()
    raise ControlError("the machine's process is gone: see logs/vm.log and logs/server.err")


async def _type(link: Link, interactive: bool, scope: trio.CancelScope) -> None:
    with suppress(ControlError):  # the other task says what became of the machine
        async for data in terminal.read_fd(0):
            keys, escape, _ = data.partition(bytes([ESCAPE])) if interactive else (data, b"", b"")
            if keys:
                await link.send(Kind.KEYS, keys)
            if escape:
                scope.cancel()
        # Input from a pipe that ends leaves the output to be looked at.


async def _follow_window(link: Link) -> None:
    with trio.open_signal_receiver(signal.SIGWINCH) as signals, suppress(ControlError):
        await link.send(Kind.WINDOW, pack_window(*terminal.window_size(0)))
        async for _ in signals:
            await link.send(Kind.WINDOW, pack_window(*terminal.window_size(0)))
