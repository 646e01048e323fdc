"""Programs of Linux guests here and under QEMU: ``python -m tools.workloads fork boot --rounds 5``.

Both machines boot the same kernel, initramfs or disk and memory, in turn, and a shell that is PID 1
does the work. Figures are the process's user and system CPU seconds and its wall seconds, medians of
all rounds; ratios say how often as fast as QEMU ours is. ``boot`` is the way to the shell, the whole
process with Python's start included; of the others only the work counts. Images that are missing are
pulled. ``--cold`` gives every run of ours a cache without translations.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from contextlib import nullcontext

from asyncvmm.base.errors import AsyncvmmError
from tools.workloads.machines import COMMANDS, OURS, QEMU, Spent, cold_cache, run
from tools.workloads.work import WORKS, Work

TIMEOUT_S = 300.0


def measure(work: Work, machines: list[str], rounds: int, cold: bool) -> dict[str, list[Spent]]:
    """Every machine's runs, taken in turn; with ``cold`` ours have nothing translated before."""
    found: dict[str, list[Spent]] = {name: [] for name in machines}
    for _ in range(rounds):
        for name in machines:
            with cold_cache(work) if cold and name == OURS else nullcontext() as environment:
                found[name].append(run(COMMANDS[name](work), work, TIMEOUT_S, environment))
    return found


def figures(work: Work, runs: list[Spent]) -> tuple[float, float]:
    """Medians of (CPU, wall) seconds."""
    if work.name == "boot":
        pairs = [(one.boot_cpu_s, one.boot_wall_s) for one in runs]
    else:
        pairs = [(one.cpu_s, one.wall_s) for one in runs]
    return statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)


def main(arguments: list[str] | None = None) -> int:
    """Measure; 1 when anything went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tools.workloads", description=__doc__)
    names = [work.name for work in WORKS]
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"of {', '.join(names)}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cold", action="store_true", help="our translations are made anew")
    parser.add_argument("--no-qemu", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if unknown := set(options.works) - set(names):
        parser.error(f"no such work: {', '.join(sorted(unknown))}")
    machines = [OURS] if options.no_qemu else [OURS, QEMU]
    rows = []
    if not options.json:
        print(f"{'work':<10} {'machine':<9} {'CPU s':>7} {'wall s':>7} {'CPU':>6} {'wall':>6}")
    for work in WORKS:
        if options.works and work.name not in options.works:
            continue
        try:
            found = measure(work, machines, options.rounds, options.cold)
        except AsyncvmmError as error:
            print(error, file=sys.stderr)
            return 1
        medians = {name: figures(work, runs) for name, runs in found.items()}
        ours = medians[OURS]
        for name, (cpu, wall) in medians.items():
            ratio = {"cpu": cpu / ours[0], "wall": wall / ours[1]}
            row = {"work": work.name, "machine": name, "cpu_s": cpu, "wall_s": wall}
            rows.append({**row, "times_ours": ratio, "target": work.target})
            if not options.json:
                last = f"{ratio['cpu']:6.2f} {ratio['wall']:6.2f} (at least {work.target})"
                print(
                    f"{work.name:<10} {name:<9} {cpu:7.2f} {wall:7.2f} "
                    + (last if name != OURS else ""),
                    flush=True,
                )
    if options.json:
        print(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
