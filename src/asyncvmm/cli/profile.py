"""``asyncvmm profile``: where a guest spends its time."""

from __future__ import annotations

import argparse
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from asyncvmm.api import ConfigError, Guest, GuestConfig, GuestEndedError, Host
from asyncvmm.api.profile import (
    DEFAULT_PERIOD,
    MAX_PERIOD,
    Profile,
    Profiler,
    Row,
    program_symbols,
    read_kernel_symbols,
)
from asyncvmm.cli import terminal
from asyncvmm.cli.progress import BarProgress
from asyncvmm.cli.run_options import add_arguments, check_options, make_config
from asyncvmm.cli.run_stats import engine_lines
from asyncvmm.cli.session import Session, run_session
from asyncvmm.firmware.symbols import Symbol, SymbolTable, read_symbols
from asyncvmm.runtime.commands import RUN_PORT

DEFAULT_TOP = 25
SYMBOLS_PATIENCE_S = 60
REFRESH_S = 0.2

EPILOG = """\
examples:
  asyncvmm profile debian -- sha256sum /bin/busybox
  asyncvmm profile linux --boot -- true              from power-on to the end of the command
  asyncvmm profile --elf program.elf --top 10        its own symbols are used
  asyncvmm profile linux --until "/ # " --json | jq .tiers
  asyncvmm profile linux --symbols busybox.elf --collapsed out.txt -- ls -lR /
  asyncvmm profile --kernel Image --symbols System.map --timeout 10

The profile goes to standard output, and what the guest says to standard error. Every hart is looked at
after each --period of its steps (instructions and traps), which the guest cannot notice. OPT % is how
much of a row was found in code that the background compiler had optimised by then. Functions
of Linux and its modules are asked of the guest itself afterwards, when its image runs commands; the
code of its processes is shown by page unless --symbols names it. Exit status: as `asyncvmm run`.
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "profile",
        help="show where a guest spends its time",
        usage="asyncvmm profile [TARGET] [options] [-- COMMAND [ARGUMENT...]]",
        description="Run a guest, or one command in it, and show by tier of the engine, privilege and "
        "function where the time goes.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    group = parser.add_argument_group("the profile")
    group.add_argument(
        "--period",
        type=int,
        default=DEFAULT_PERIOD,
        metavar="N",
        help=f"steps of a hart between two samples (default: {DEFAULT_PERIOD}, a prime)",
    )
    group.add_argument(
        "--top",
        type=int,
        default=DEFAULT_TOP,
        metavar="N",
        help=f"functions to show (default: {DEFAULT_TOP})",
    )
    group.add_argument(
        "--symbols",
        action="append",
        default=[],
        metavar="FILE[@OFFSET]",
        help="more symbols: an ELF file or a System.map, moved by OFFSET bytes; may be repeated",
    )
    group.add_argument(
        "--boot", action="store_true", help="the way to the command too, not the command alone"
    )
    group.add_argument("--json", action="store_true", help="one JSON document instead of tables")
    group.add_argument(
        "--collapsed", type=Path, metavar="PATH", help="also write lines for a flame graph there"
    )
    group.add_argument(
        "--elf", type=Path, metavar="FILE", help="the same as a TARGET that is a file"
    )
    add_arguments(parser)
    parser.set_defaults(function=profile)


def profile(options: argparse.Namespace) -> int:
    """Run the guest to its end, then show the profile."""
    check_options(options)
    if not 1 <= options.period <= MAX_PERIOD:
        raise ConfigError(f"--period must be 1 to {MAX_PERIOD}, not {options.period}")
    if options.top < 1:
        raise ConfigError(f"--top must be positive, not {options.top}")
    if options.elf is not None:
        if options.target is not None:
            raise ConfigError(f"--elf does not go with {options.target}: both say what runs")
        options.target = str(options.elf.absolute())
    symbols = [symbol for text in options.symbols for symbol in _named_symbols(text)]
    session = ProfileSession(options, make_config(options), symbols)
    status = run_session(session)
    found = session.found
    if found is None:
        return status
    table = SymbolTable(session.symbols)
    if options.collapsed is not None:
        options.collapsed.write_text(found.collapsed(table))
    if options.json:
        print(json.dumps(to_json(found, table, options.top), indent=2))
    else:
        print(report(found, table, options.top))
    return status


def _named_symbols(text: str) -> list[Symbol]:
    """The symbols of a ``FILE[@OFFSET]``."""
    name, at, number = text.rpartition("@")
    if at:
        try:
            return read_symbols(Path(name), int(number, 0))
        except ValueError:
            pass  # an "@" in the file's name
    return read_symbols(Path(text))


class ProfileSession(Session):
    """A run with a profiler. ``found`` is the profile, ``symbols`` what names its places."""

    def __init__(
        self, options: argparse.Namespace, config: GuestConfig, symbols: list[Symbol]
    ) -> None:
        super().__init__(options, config)
        self.symbols = symbols
        self.found: Profile | None = None
        self.output = 1 if self.interactive else 2
        self._progress = BarProgress()
        self._profiler: Profiler | None = None
        self._asked = False

    def guest_started(self, guest: Guest) -> None:
        """See Session."""
        # What the user names wins: it comes later.
        self.symbols = program_symbols(guest.machine) + self.symbols
        self._profiler = Profiler(guest.machine, period=self.options.period)
        if self.options.boot or self.options.guest_command is None:
            self._profiler.resume()

    async def command_begins(self, guest: Guest) -> None:
        """See Session."""
        async with self._busy(f"{guest.name}: on the way to the command"):
            await guest.wait_ready()
        self._progress.note(f"a sample every {self.options.period:,} steps of the command")
        if self._profiler is not None:
            self._profiler.resume()

    async def command_ended(self, guest: Guest) -> None:
        """See Session."""
        await self._conclude(guest)

    async def _serve_in_time(self, host: Host, guest: Guest) -> None:
        try:
            await super()._serve_in_time(host, guest)
            await self._conclude(guest)
        finally:
            self._stop()

    def _stop(self) -> None:
        if self._profiler is not None:
            self._profiler.pause()
            self.found = self._profiler.profile()

    async def _conclude(self, guest: Guest) -> None:
        """No more samples; ask a Linux that still runs for its symbols."""
        self._stop()
        runs_commands = any(name.endswith(f":{RUN_PORT}") for name in guest.machine.ports)
        if self._asked or guest.exit is not None or not runs_commands:
            return
        self._asked = True
        kernel: list[Symbol] = []
        with trio.move_on_after(SYMBOLS_PATIENCE_S):
            try:
                async with self._busy("asking the guest for its kernel's symbols"):
                    kernel = await read_kernel_symbols(guest)
            except GuestEndedError:
                pass
        if not kernel:
            self._progress.note("no symbols of the kernel: --symbols takes a System.map")
        self.symbols = kernel + self.symbols

    @asynccontextmanager
    async def _busy(self, label: str) -> AsyncIterator[None]:
        """Show that something is under way; not where the guest's own output would be cut up."""
        if self.options.verbose or self.interactive:
            self._progress.note(label)
            yield
            return
        with self._progress.task(label, None) as task:
            scope = trio.CancelScope()

            async def tick() -> None:
                with scope:
                    while True:
                        await trio.sleep(REFRESH_S)
                        task.advance(1)

            wrong: Exception | None = None
            async with trio.open_nursery() as nursery:
                if terminal.is_terminal(2):
                    nursery.start_soon(tick)
                try:
                    yield
                except Exception as error:  # carried past the nursery, which would wrap it
                    wrong = error
                scope.cancel()
            if wrong is not None:
                raise wrong


def to_json(found: Profile, symbols: SymbolTable, top: int) -> dict[str, Any]:
    """For machines; shares are of 1, times in ns of wall time."""
    return {
        "period": found.period,
        "samples": found.count,
        "steps": found.steps,
        "interpreted_steps": found.interpreted_steps,
        "wall_ns": found.wall_ns,
        "tiers": [attrs.asdict(row) for row in found.by_tier()],
        "privileges": [attrs.asdict(row) for row in found.by_privilege()],
        "symbols": [attrs.asdict(row) for row in found.by_symbol(symbols)[:top]],
        "engine": attrs.asdict(found.engine),
    }


def report(found: Profile, symbols: SymbolTable, top: int) -> str:
    """Three tables below a line of totals, and what the engine did since the guest was made."""
    mips = found.steps * 1e3 / found.wall_ns if found.wall_ns else 0.0
    slow = 100 * found.interpreted_steps / found.steps if found.steps else 0.0
    head = (
        f"{found.count:,} samples, one every {found.period:,} steps of a hart\n"
        f"{found.steps:,} steps in {found.wall_ns / 1e9:.3f} s, {mips:.1f} MIPS, "
        f"{slow:.2f} % interpreted"
    )
    if not found.count:
        return f"{head}\nToo short for a sample: a smaller --period may help"
    rows = found.by_symbol(symbols)
    shown = _table("FUNCTION", rows[:top])
    if len(rows) > top:
        shown += f"\n... {len(rows) - top} more (--top)"
    engine = "\n".join(["ENGINE, since power-on", *engine_lines(found.engine)])
    tables = [_table("TIER", found.by_tier()), _table("PRIVILEGE", found.by_privilege()), shown]
    return "\n\n".join([head, *tables, engine])


def _table(title: str, rows: Sequence[Row]) -> str:
    lines = [f"{'SAMPLES':>10}  {'%':>6}  {'WALL ms':>10}  {'MIPS':>8}  {'OPT %':>6}  {title}"]
    lines += [
        f"{row.samples:>10,}  {100 * row.share:>6.2f}  {row.wall_ns / 1e6:>10.1f}  "
        f"{row.mips:>8.1f}  {100 * row.optimised:>6.2f}  {row.name}"
        for row in rows
    ]
    return "\n".join(lines)
