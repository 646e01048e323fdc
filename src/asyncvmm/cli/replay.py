"""``asyncvmm replay``: a recorded run once more, to the bit."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any, Final

import trio

from asyncvmm.api import BackendError, ConfigError, Guest, Replay, open_replay
from asyncvmm.cli.checks import check_timeout
from asyncvmm.cli.groups import only_error
from asyncvmm.cli.session import Session
from asyncvmm.cli.terminal import say
from asyncvmm.runtime.journal import plugin_versions
from asyncvmm.runtime.journal_file import DIGESTS, GONE, LOST
from asyncvmm.runtime.scenario import parse_time_ns

NOT_INPUTS: Final = frozenset((DIGESTS, GONE, LOST))

EPILOG = """\
examples:
  asyncvmm run linux --record trouble.journal      whatever is typed, and when
  asyncvmm replay trouble.journal                  the same again: are the digests equal?
  asyncvmm replay trouble.journal --engine interpreter --workers 1
  asyncvmm replay trouble.journal --until 1.5s     what the guests are at that instant
  asyncvmm replay trouble.journal --at 1.5s        go on from there at the guest's console
  asyncvmm replay trouble.journal --at 1.5s --gdb 1234     ... with gdb

Images, kernels and disks must hold what they held when the run was recorded.

exit status: 0 when every digest of the journal was come to, 1 when one differs (the first instant is
  named) or the time is over, 2 for a journal that is damaged or cannot be repeated here.
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "replay",
        help="repeat a recorded run to the bit",
        description="Repeat the run of a journal and compare the guests with the digests in it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("journal", type=Path, metavar="FILE", help="what --record wrote")
    ends = parser.add_mutually_exclusive_group()
    ends.add_argument(
        "--until", metavar="TIME", help="stop at a virtual time, such as 1.5s or 20ms"
    )
    ends.add_argument(
        "--at", metavar="TIME", help="stop there and go on live, at the console of a guest"
    )
    parser.add_argument("--guest", metavar="NAME", help="whose console (default: the first one's)")
    parser.add_argument(
        "--gdb",
        type=int,
        metavar="PORT",
        help="with --at: stand still there until gdb comes to this loopback port (0: a free one)",
    )
    parser.add_argument(
        "--engine",
        choices=["auto", "interpreter", "jit"],
        help="what runs the code; it changes nothing but the time",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="threads for translated guests")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="of wall time")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.set_defaults(function=replay)


def replay(options: argparse.Namespace) -> int:
    """Repeat it and report."""
    check_timeout(options)
    for name in ("until", "at"):
        text = getattr(options, name)
        try:
            setattr(options, name, None if text is None else parse_time_ns(text))
        except ConfigError as error:
            raise ConfigError(f"--{name}: {error}") from error
    if options.gdb is not None and (options.at is None or not 0 <= options.gdb <= 65535):
        raise ConfigError("--gdb is a port, 0 to 65535, and goes with --at TIME")
    if options.guest is not None and options.at is None:
        raise ConfigError("--guest says whose console it is that --at TIME goes on at")
    try:
        return trio.run(_run, options)
    except BaseExceptionGroup as group:
        raise only_error(group) from None


async def _run(options: argparse.Namespace) -> int:
    began = time.monotonic()
    opening = open_replay(options.journal, engine=options.engine, workers=options.workers)
    async with opening as run:
        _warn(run)
        with trio.move_on_after(options.timeout or math.inf) as scope:
            await run.run(options.until if options.at is None else options.at)
        if scope.cancelled_caught:
            raise BackendError(
                f"{options.journal}: not over after {options.timeout:g} s (--timeout)"
            )
        wanted = options.until if options.at is None else options.at
        if wanted is not None and wanted > run.end_ns:
            say(f"the journal ends at {run.end_ns / 1e9:.9f} s, before {wanted / 1e9:.9f} s")
        wall_s = time.monotonic() - began
        if options.json:
            print(json.dumps(to_json(run) | {"wall_s": round(wall_s, 3)}, indent=2))
        else:
            print(report(run), file=sys.stdout if options.at is None else sys.stderr)
        status = 1 if run.differing else 0
        if options.at is not None:
            run.live()
            status = await _Console(run, _chosen(run, options.guest)).serve(options.gdb)
    return status


def _warn(run: Replay) -> None:
    recorded = run.recorded
    last = recorded.records[-1] if recorded.records else None
    if last is not None and last.kind == LOST:
        say(f"the journal ends at {last.time_ns / 1e9:.9f} s: {last.names.get('why')}")
    elif not recorded.complete:
        cut = f", {recorded.cut_bytes} bytes of a record" if recorded.cut_bytes else ""
        say(
            f"the journal was cut off at {run.end_ns / 1e9:.9f} s{cut}: the run ended badly, or is under way"
        )
    was, now = recorded.header.get("plugins"), plugin_versions()
    if was != now:
        say(f"recorded with other plugins: {was}, these are {now}")


def _chosen(run: Replay, name: str | None) -> Guest:
    guests = run.host.guests
    if name is None and guests:
        return next(iter(guests.values()))
    if name not in guests:
        raise ConfigError(f"no guest {name!r} runs at that instant: there are {', '.join(guests)}")
    return guests[name]


class _Console(Session):
    """A guest of a replay at the terminal or in a pipe, as ``asyncvmm run`` has it."""

    def __init__(self, run: Replay, guest: Guest) -> None:
        options = argparse.Namespace(allow=[], guest_command=None, until=None)
        super().__init__(options, guest.config)
        self._replay = run
        self._guest = guest

    async def serve(self, gdb_port: int | None) -> int:
        """Until the guest or the session ends; the exit status. First gdb has it, when it has a port."""
        if gdb_port is not None:
            port = await self._guest.gdb(gdb_port, wait=True)
            say(f"gdb-multiarch: target remote :{port}")
        if self.interactive:
            self._replay.host.paced.add(self._guest.name)
        self._replay.host.resume()
        await self.show_console(self._replay.host, self._guest)
        return self.status


def to_json(run: Replay) -> dict[str, Any]:
    """For machines: times in ns of virtual time."""
    first = run.differing[0] if run.differing else None
    return {
        "journal": str(run.recorded.path),
        "complete": run.recorded.complete,
        "virtual_ns": run.host.now_ns,
        "equal": first is None,
        "compared": len(run.compared),
        "first_difference": None
        if first is None
        else {"guest": first.guest, "time_ns": first.time_ns, "equal_until_ns": _before(run)},
        "guests": {
            name: {
                "digest": guest.machine.digest(),
                "exit": None if guest.exit is None else guest.exit.reason,
            }
            for name, guest in run.guests.items()
        },
    }


def report(run: Replay) -> str:
    """A line a guest, and how the digests compare."""
    lines = []
    for name, guest in run.guests.items():
        mine = [one for one in run.compared if one.guest == name]
        word = "differs" if not all(one.equal for one in mine) else "equal" if mine else "-"
        ended = "" if guest.exit is None else f"  ended: {guest.exit.reason}"
        lines.append(f"{word:<8} {name}  {guest.machine.digest()}{ended}")
    recorded = run.recorded.records
    entered = sum(one.kind not in NOT_INPUTS for one in recorded if one.time_ns <= run.host.now_ns)
    lines.append(
        f"{entered} inputs, {len(run.compared)} digests compared, "
        f"{run.host.now_ns / 1e9:.9f} s of virtual time"
    )
    if run.differing:
        first = run.differing[0]
        lines.append(
            f"guest {first.guest} is another one at {first.time_ns / 1e9:.9f} s; "
            f"all were equal up to {_before(run) / 1e9:.9f} s"
        )
    return "\n".join(lines)


def _before(run: Replay) -> int:
    """The last instant at which everything was equal."""
    first_ns = run.differing[0].time_ns
    return max((one.time_ns for one in run.compared if one.time_ns < first_ns), default=0)
