"""``python -m tools.fuzz [TARGET...] --count 1000000 --seed N --jobs 1``.

Exit status 0 when nothing was found, 1 with the seed and the input of what was, 2 for wrong words.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from multiprocessing.connection import Connection, wait

from tqdm import tqdm

from asyncvmm.base.errors import ConfigError
from tools.fuzz.campaign import Finding, Outcome, campaign, check, parts
from tools.fuzz.targets import Target, find_targets


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="tools.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="default all; see --list")
    parser.add_argument("--count", type=int, default=1_000_000, help="of inputs for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes for a target")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="do this input again, alone")
    parser.add_argument("--list", action="store_true", help="name the targets")
    given = parser.parse_args()
    try:
        targets = find_targets(given.targets)
    except ConfigError as error:
        print(f"tools.fuzz: {error}", file=sys.stderr)
        return 2
    if given.count < 1 or not 1 <= given.jobs <= 256:
        print("tools.fuzz: --count is at least 1, --jobs 1 to 256", file=sys.stderr)
        return 2
    if given.list:
        print("\n".join(target.name for target in targets))
        return 0
    os.nice(5)
    status = 0
    for target in targets:
        if given.only is not None:
            finding, spent = check(target, given.seed, given.only)
            print(finding or f"{target.name}: nothing in {spent / 1e6:.3f} ms", flush=True)
            status |= finding is not None
        else:
            status |= _run(target, given.seed, given.count, given.jobs)
    return status


def _run(target: Target, seed: int, count: int, jobs: int) -> int:
    """A target in processes of its own, with a bar; its line, and 1 when something was found."""
    jobs_of: dict[Connection, multiprocessing.Process] = {}
    for numbers in parts(count, jobs):
        heard, tells = multiprocessing.Pipe(duplex=False)
        job = multiprocessing.Process(target=_work, args=(target.name, seed, numbers, tells))
        job.start()
        tells.close()
        jobs_of[heard] = job
    outcomes: list[Outcome] = []
    with tqdm(
        total=count, desc=target.name, unit=" inputs", leave=False, disable=not sys.stderr.isatty()
    ) as bar:
        while jobs_of:
            for heard in wait(list(jobs_of)):
                assert isinstance(heard, Connection)
                try:
                    message = heard.recv()
                except EOFError:
                    job = jobs_of.pop(heard)
                    job.join()
                    if job.exitcode:
                        text = f"the process ended with {job.exitcode}"
                        finding = Finding(target.name, seed, -1, b"", text)
                        outcomes.append(Outcome(target.name, 0, 0.0, 0, 0, finding))
                    continue
                if isinstance(message, Outcome):
                    outcomes.append(message)
                else:
                    bar.update(message)
    inputs = sum(outcome.inputs for outcome in outcomes)
    seconds = sum(outcome.seconds for outcome in outcomes)
    findings = [outcome.finding for outcome in outcomes if outcome.finding is not None]
    print(
        f"{target.name}: seed {seed}, {inputs} inputs, {seconds:.0f} s CPU "
        f"({seconds / max(inputs, 1) * 1e6:.0f} us each, the slowest "
        f"{max(outcome.slowest_us for outcome in outcomes) / 1000:.1f} ms), memory "
        f"+{max(outcome.grown_bytes for outcome in outcomes) >> 20} MiB: "
        f"{f'{len(findings)} findings' if findings else 'nothing found'}",
        flush=True,
    )
    for finding in findings:
        print(finding, flush=True)
    return 1 if findings else 0


def _work(name: str, seed: int, numbers: range, tells: Connection) -> None:
    (target,) = [target for target in find_targets([name]) if target.name == name]
    tells.send(campaign(target, seed, numbers, tells.send))


if __name__ == "__main__":
    sys.exit(main())
