"""``asyncvmm logs``: what happened to a machine, and what its console said."""

from __future__ import annotations

import argparse
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

import trio

from asyncvmm.api import ConfigError, open_folder
from asyncvmm.cli import terminal
from asyncvmm.cli.groups import only_error
from asyncvmm.cli.terminal import say
from asyncvmm.runtime.folder.logs import LogError, follow, parse_entry, tail

LINES = 1000


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "logs",
        help="a machine's log, or what its console said",
        description="Print a machine's log: wall time, virtual time in seconds, event, fields.",
        epilog="examples:\n  asyncvmm logs web.vm\n  asyncvmm logs -f web.vm\n"
        "  asyncvmm logs --console -n 50 web.vm\n  asyncvmm logs --json web.vm | jq .event",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument("-f", "--follow", action="store_true", help="go on, until Ctrl-C")
    parser.add_argument(
        "-n", "--lines", type=int, default=LINES, metavar="N", help=f"the last N (default: {LINES})"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--console", action="store_true", help="what the console said")
    what.add_argument("--json", action="store_true", help="the lines of vm.log as they are")
    parser.set_defaults(function=logs)


def logs(options: argparse.Namespace) -> int:
    """Print, and follow."""
    if options.lines < 0:
        raise ConfigError(f"--lines must not be negative, not {options.lines}")
    paths = open_folder(options.folder).paths
    path = paths.console_log if options.console else paths.vm_log
    plain = options.console or options.json
    terminal.flush_standard()
    printer = _Printer(path, plain)
    if not options.follow:
        printer.hear(b"".join(tail(path, options.lines)))
        printer.end()
        return 1 if printer.damaged else 0
    try:
        trio.run(_follow, path, options.lines, printer)
    except BaseExceptionGroup as group:
        raise only_error(group) from None
    return 0


async def _follow(path: Path, lines: int, printer: _Printer) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(terminal.watch_reader, 1)
        async with aclosing(follow(path, begin=lambda: tail(path, lines))) as pieces:
            async for data in pieces:
                printer.hear(data)


class _Printer:
    """Lines of vm.log for people, or bytes as they are."""

    def __init__(self, path: Path, plain: bool) -> None:
        self._path = path
        self._plain = plain
        self._rest = b""
        self.damaged = 0

    def hear(self, data: bytes) -> None:
        """More of the log."""
        if self._plain:
            terminal.write_all(1, data)
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._print(line)
        sys.stdout.flush()

    def end(self) -> None:
        """There is no more: the last line may lack its end."""
        if self._rest:
            self._print(self._rest)
        sys.stdout.flush()

    def _print(self, line: bytes) -> None:
        try:
            print(parse_entry(line, str(self._path)).format())
        except LogError as error:
            self.damaged += 1
            say(str(error))
