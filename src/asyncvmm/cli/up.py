"""``asyncvmm up``: the guests of a scenario, side by side on one host, and its steps."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from asyncvmm.api import ConfigError, find_image
from asyncvmm.api.scenarios import (
    Probe,
    ScenarioObserver,
    ScenarioResult,
    ScenarioRun,
    StepResult,
    run_scenario,
)
from asyncvmm.cli import image as image_command
from asyncvmm.cli import terminal
from asyncvmm.cli.checks import check_timeout
from asyncvmm.cli.failures import failure_lines
from asyncvmm.cli.groups import only_error
from asyncvmm.cli.guest_table import Snapshot, final, format_table, make_row, row_json, snapshot
from asyncvmm.plugin.images import ImageCache
from asyncvmm.runtime.scenario import Scenario, Step, load_scenario

REFRESH_S: Final = 0.25
CLEAR_LINE: Final = "\x1b[K"

EPILOG = """\
examples:
  asyncvmm up specs/scenarios/two-shells.toml        two guests of our own, no download
  asyncvmm up specs/scenarios/eight-linux.toml
  asyncvmm up two-shells.toml --json | jq .guests
  asyncvmm verify two-shells.toml                    is it the same every time?

a scenario:
  [host]                      cpus, mips, quantum_us, memory, policy, seed, overcommit
  [guests.a]                  image, or kernel, initrd, firmware, elf; append, memory, harts,
                              flash, disks, devices, seed, quantum, engine, trust_group
  policy = {"cpu.weight" = 200, "cpu.max" = "50000 100000", "memory.max" = "64M"}
  [[steps]]                   in order; at = "1.5s" waits for that virtual time
  guest = "a"                 and one of: run = ["cmd", ...] (status, contains,
                              show = true prints what it said); send and expect; policy = {...},
                              link = {...}. Others: start = "a", stop = "a", until = "2s"
                              within = "10s" limits a step, background = true goes on meanwhile,
                              name = "..." is what the report calls it

exit status: 0 when all steps held, 1 when one failed, 2 for wrong input.
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "up",
        help="run the guests and steps of a scenario",
        description="Run a scenario: several guests on one host, and steps in virtual time.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenario", type=Path, metavar="SCENARIO", help="a TOML file")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="of wall time")
    parser.add_argument(
        "--record",
        type=Path,
        metavar="FILE",
        help="a journal of all that enters: `asyncvmm replay FILE` repeats the run",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="threads for translated guests: they change nothing but the time (default: one a core)",
    )
    parser.set_defaults(function=up)


def up(options: argparse.Namespace) -> int:
    """Run it and report."""
    check_timeout(options)
    scenario = load_scenario(options.scenario)
    ensure_images(scenario)
    started = time.monotonic()
    try:
        result = trio.run(_run, scenario, options)
    except BaseExceptionGroup as group:
        raise only_error(group) from None
    if options.json:
        document = to_json(result) | {"wall_s": round(time.monotonic() - started, 3)}
        print(json.dumps(document, indent=2))
    else:
        print(report(result))
    exits = [guest.exit for guest in result.guests.values()]
    known = [ended.detail for ended in exits if ended is not None]
    for text in failure_lines(result.events, known):
        terminal.say(text)
    failed = result.failed
    if failed is not None:
        terminal.say(f"step {failed.step.number} ({failed.step.title}) failed: {failed.detail}")
    return 0 if result.ok else 1


def ensure_images(scenario: Scenario) -> None:
    """Pull the images that are not here."""
    cache = ImageCache()
    for name, guest in scenario.guests.items():
        if guest.image is not None:
            try:
                image = find_image(guest.image)
            except ConfigError as error:
                raise ConfigError(f"{scenario.path}: guests.{name}: {error}") from error
            image_command.ensure(image, cache)


async def _run(scenario: Scenario, options: argparse.Namespace) -> ScenarioResult:
    observer: ScenarioObserver = Quiet()
    async with trio.open_nursery() as nursery:
        if not options.json:
            if terminal.is_terminal(2):
                live = LiveTable()
                observer = live
                nursery.start_soon(live.task)
            else:
                observer = StepLines()
        try:
            result = await run_scenario(
                scenario,
                observer,
                timeout_s=options.timeout,
                probe=Probe(workers=options.workers),
                journal=options.record,
            )
        finally:
            if isinstance(observer, LiveTable):
                observer.clear()
        nursery.cancel_scope.cancel()
    return result


class Quiet(ScenarioObserver):
    """Says nothing."""


class StepLines(ScenarioObserver):
    """A line on standard error for every step that ended."""

    def step_ended(self, result: StepResult) -> None:
        """See ScenarioObserver."""
        terminal.say(step_line(result))


class LiveTable(ScenarioObserver):
    """A table on the terminal that is drawn over itself, below the steps that are done."""

    def __init__(self) -> None:
        self._run: ScenarioRun | None = None
        self._steps: dict[int, Step] = {}
        self._before: dict[str, Snapshot] = {}
        self._drawn = 0

    def began(self, run: ScenarioRun) -> None:
        """See ScenarioObserver."""
        self._run = run

    def step_began(self, step: Step) -> None:
        """See ScenarioObserver."""
        self._steps[step.number] = step

    def step_ended(self, result: StepResult) -> None:
        """See ScenarioObserver."""
        self._steps.pop(result.step.number, None)
        self.clear()
        sys.stderr.write(step_line(result) + "\n")

    async def task(self) -> None:
        """Draw it, four times a second."""
        while True:
            await trio.sleep(REFRESH_S)
            self.draw()

    def draw(self) -> None:
        """The table as it is now, with what happened since it was drawn last."""
        if self._run is None:
            return
        now = {name: snapshot(guest) for name, guest in self._run.guests.items()}
        rows = [make_row(one, self._before.get(name)) for name, one in now.items()]
        self._before = now
        columns, height = terminal.window_size(2)
        lines = format_table(rows).splitlines()
        if len(lines) > height - 3:
            lines = [*lines[: max(1, height - 4)], f"... {len(rows)} guests"]
        lines.append(f"virtual time {self._run.host.now_ns / 1e9:.3f} s")
        lines += [f"step {step.number}: {step.title}" for step in self._steps.values()][:1]
        self.clear()
        sys.stderr.write("".join(line[: columns - 1] + CLEAR_LINE + "\n" for line in lines))
        sys.stderr.flush()
        self._drawn = len(lines)

    def clear(self) -> None:
        """Take it away; what is written next begins where it was."""
        if self._drawn:
            sys.stderr.write(f"\x1b[{self._drawn}A\x1b[J")
            sys.stderr.flush()
        self._drawn = 0


def step_line(result: StepResult) -> str:
    """One step's result, with what its command said, if it is to be shown, on lines below it."""
    step = result.step
    said = ""
    if step.show and result.output.strip():
        said = "\n" + textwrap.indent(result.output.strip("\n"), " " * 15)
    times = ""
    if result.ended_ns >= 0:
        times = f"  [{result.began_ns / 1e9:.6f} - {result.ended_ns / 1e9:.6f} s]"
    why = f": {result.detail}" if result.detail else ""
    return f"{result.outcome:<7} step {step.number}  {step.title}{times}{why}{said}"


def report(result: ScenarioResult) -> str:
    """The table and the steps, at the end."""
    rows = [make_row(final(name, guest)) for name, guest in result.guests.items()]
    lines = [format_table(rows), f"virtual time {result.end_ns / 1e9:.6f} s", ""]
    return "\n".join([*lines, *(step_line(step) for step in result.steps)]).rstrip()


def to_json(result: ScenarioResult) -> dict[str, Any]:
    """The whole result for machines; times in ns of virtual time."""
    failed = result.failed
    guests = {}
    for name, guest in result.guests.items():
        row = row_json(make_row(final(name, guest)))
        del row["name"]
        guests[name] = row | {
            "digest": guest.digest,
            "exit": None if guest.exit is None else attrs.asdict(guest.exit),
            "instructions": guest.stats.instructions,
            "cpu": attrs.asdict(guest.usage.cpu),
            "memory": attrs.asdict(guest.usage.memory),
        }
    return {
        "scenario": str(result.scenario.path),
        "ok": result.ok,
        "failed_step": None if failed is None else failed.step.number,
        "virtual_ns": result.end_ns,
        "guests": guests,
        "steps": [
            {
                "step": one.step.number,
                "guest": one.step.guest,
                "title": one.step.title,
                "outcome": one.outcome,
                "detail": one.detail,
                "began_ns": one.began_ns,
                "ended_ns": one.ended_ns,
                "status": one.status,
                "output": one.output,
            }
            for one in result.steps
        ],
        "events": [attrs.asdict(event) for event in result.events],
    }
