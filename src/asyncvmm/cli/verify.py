"""``asyncvmm verify``: does a scenario give the same guests every time?"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import trio

from asyncvmm.api.verify import Verdict, verify_scenario
from asyncvmm.cli.checks import check_timeout
from asyncvmm.cli.groups import only_error
from asyncvmm.cli.terminal import say
from asyncvmm.cli.up import ensure_images
from asyncvmm.runtime.scenario import load_scenario

EPILOG = """\
examples:
  asyncvmm verify specs/scenarios/two-shells.toml
  asyncvmm verify --json --timeout 300 two-shells.toml | jq .equal

exit status: 0 when the digests are equal, 1 when they differ or a run takes too long, 2 for wrong input.
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "verify",
        help="run a scenario twice and compare the guests",
        description="Run a scenario twice, with different engines, threads and host pauses, and compare the "
        "digests of all guests. When they differ, find the first quantum of virtual time that "
        "does.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenario", type=Path, metavar="SCENARIO", help="a TOML file")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="of wall time, a run")
    parser.set_defaults(function=verify)


def verify(options: argparse.Namespace) -> int:
    """Run it twice and report."""
    check_timeout(options)
    scenario = load_scenario(options.scenario)
    ensure_images(scenario)

    async def run() -> Verdict:
        return await verify_scenario(scenario, timeout_s=options.timeout, note=say)

    try:
        verdict = trio.run(run)
    except BaseExceptionGroup as group:
        raise only_error(group) from None
    for result in (verdict.first, verdict.second):
        if result.failed is not None:
            step = result.failed.step
            say(f"note: step {step.number} ({step.title}) failed: {result.failed.detail}")
    print(json.dumps(to_json(verdict), indent=2) if options.json else report(verdict))
    return 0 if verdict.equal else 1


def to_json(verdict: Verdict) -> dict[str, Any]:
    """For machines: ``equal``, ``interval_ns`` and both runs' end and digests."""
    return {
        "equal": verdict.equal,
        "differing": verdict.differing,
        "interval_ns": verdict.interval_ns,
        "runs": [
            {"end_ns": result.end_ns, "digests": result.digests}
            for result in (verdict.first, verdict.second)
        ],
    }


def report(verdict: Verdict) -> str:
    """A line a guest, and where the runs part."""
    first, second = verdict.first, verdict.second
    lines = []
    for name in {**first.digests, **second.digests}:
        one, other = first.digests.get(name, "not there"), second.digests.get(name, "not there")
        lines.append(f"equal    {name}  {one}" if one == other else f"differs  {name}  {one}")
        if one != other:
            lines.append(f"         {' ' * len(name)}  {other}")
    if first.end_ns != second.end_ns:
        lines.append(f"ended at {first.end_ns / 1e9:.9f} s and at {second.end_ns / 1e9:.9f} s")
    if verdict.interval_ns is not None:
        low, high = verdict.interval_ns
        lines.append(
            f"equal up to {low / 1e9:.9f} s, different at {high / 1e9:.9f} s of virtual time"
        )
    else:
        lines.append(f"equal after {first.end_ns / 1e9:.9f} s of virtual time")
    return "\n".join(lines)
