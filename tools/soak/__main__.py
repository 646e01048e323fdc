"""An hour of guests on both engines: ``python -m tools.soak --minutes 60 --seed 1 [--json]``.

Every round does the same work on a guest with translated code and on one with the interpreter: a guest
that loads and unloads modules, one that compiles and runs what it made, and a bare-metal program that
writes, moves and overwrites its own code. Digests of the whole machine are compared on the way. Arenas
are small in some rounds, so that code is thrown away again and again. The process's memory is looked at
after each round. Ends with 1 at the first difference or crash, and when memory grows; ``--first-round N
--rounds 1`` repeats a round.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from asyncvmm.engine.jit.regions import RegionStore
from tools.soak.linux import LinuxWorks, missing_images
from tools.soak.rounds import compare, growth, halves, plan

STORE_BYTES: Final = 8 << 20  # of optimised code in memory


def main(arguments: list[str] | None = None) -> int:
    """Soak; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1_000_000, help="at most so many")
    parser.add_argument("--first-round", type=int, default=0)
    parser.add_argument("--scale", type=float, default=1.0, help="work in a round, default 1")
    parser.add_argument("--bare", action="store_true", help="the bare-metal guest only")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each piece of work")
    options = parser.parse_args(arguments)
    if not options.bare and missing_images():
        parser.error(f"pull these images first: {', '.join(missing_images())}")
    began = time.monotonic()
    memory: list[int] = []
    linux = None if options.bare else LinuxWorks()
    with tempfile.TemporaryDirectory(prefix="asyncvmm-soak-") as folder:
        # So little that it is full, and evicts, after some rounds: growth after that is a leak.
        store = RegionStore(Path(folder), STORE_BYTES)
        number = options.first_round
        while number < options.first_round + options.rounds:
            if memory and time.monotonic() - began >= options.minutes * 60:
                break
            highest = 0
            for trial in plan(options.seed, number, linux, options.scale):
                result = compare(trial, store)
                _report(
                    {"round": number, **result.values()}, f"round {number}: {result}", options.json
                )
                if result.failure:
                    print(
                        f"FAILED, to repeat: python -m tools.soak --seed {options.seed}"
                        f" --first-round {number} --rounds 1 --scale {options.scale}"
                        f"{' --bare' * options.bare}",
                        file=sys.stderr,
                    )
                    return 1
                highest = max(highest, result.rss_bytes)
            memory.append(highest)
            number += 1
    minutes = (time.monotonic() - began) / 60
    problem = growth(memory)
    first, second = halves(memory)
    _report(
        {
            "seed": options.seed,
            "rounds": len(memory),
            "minutes": round(minutes, 1),
            "first_half_bytes": first,
            "second_half_bytes": second,
            "failure": problem,
        },
        f"seed {options.seed}: {len(memory)} rounds in {minutes:.1f} minutes, no difference;"
        f" medians of memory in both halves: {first >> 20} and {second >> 20} MiB"
        f"{problem and f'; FAILED: {problem}'}",
        options.json,
    )
    return 1 if problem else 0


def _report(values: dict[str, object], text: str, as_json: bool) -> None:
    print(json.dumps(values) if as_json else text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
