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

from asyncvmm.engine.jit.regions import RegionStore
from tools.soak.linux import LinuxWorks, missing_images
from tools.soak.rounds import Result, compare, growth, plan


def main(arguments: list[str] | None = None) -> int:
    """Soak; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1_000_000, help="at most so many")
    parser.add_argument("--first-round", type=int, default=0)
    parser.add_argument("--bare", action="store_true", help="the bare-metal guest only")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each piece of work")
    options = parser.parse_args(arguments)
    if not options.bare and missing_images():
        parser.error(f"pull these images first: {', '.join(missing_images())}")
    began = time.monotonic()
    memory: list[int] = []
    linux = None if options.bare else LinuxWorks()
    with tempfile.TemporaryDirectory(prefix="asyncvmm-soak-") as folder:
        store = RegionStore(Path(folder))
        number = options.first_round
        while number < options.first_round + options.rounds:
            if memory and time.monotonic() - began >= options.minutes * 60:
                break
            for trial in plan(options.seed, number, linux):
                result = compare(trial, store)
                _tell(result, number, options.json)
                if result.failure:
                    print(
                        f"FAILED, to repeat: python -m tools.soak --seed {options.seed}"
                        f" --first-round {number} --rounds 1{' --bare' * options.bare}",
                        flush=True,
                    )
                    return 1
            memory.append(result.rss_bytes)
            number += 1
    problem = growth(memory)
    minutes = (time.monotonic() - began) / 60
    print(f"seed {options.seed}: {len(memory)} rounds in {minutes:.1f} minutes; no difference")
    print(problem or "memory is bounded", "MiB after rounds:", *(size >> 20 for size in memory))
    return 1 if problem else 0


def _tell(result: Result, number: int, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"round": number, **result.values()}), flush=True)
    else:
        print(f"round {number}: {result}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
