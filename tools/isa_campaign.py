"""Compare the interpreter with the reference executor on generated programs, by the million steps.

``python -m tools.isa_campaign --steps 10000000 --seed 1 --jobs 2``. Programs depend on the seed
alone, whatever the number of jobs. The exit status is 1 when anything differs; the program is then
printed, and written as a call that makes it again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from random import Random

from asyncvmm.engine.interpreter import Interpreter
from asyncvmm.testing.bare_hart import DifferenceError, compare
from asyncvmm.testing.generated import build_program, with_state

PROGRAMS_PER_CHUNK = 20
PIECES = 200
STATES = 5


def chunk(seed: int) -> tuple[int, int, str]:
    """Compare some programs: how many states were compared, their steps, and what differed."""
    random = Random(seed)
    compared = steps = 0
    for _ in range(PROGRAMS_PER_CHUNK):
        pieces = [random.getrandbits(32) for _ in range(PIECES)]
        program = build_program(pieces, 0)
        for _ in range(STATES):
            state = random.getrandbits(32)
            try:
                steps += compare(Interpreter(), with_state(program, state))
            except DifferenceError as error:
                again = f"compare(Interpreter(), with_state(build_program({pieces}, 0), {state}))"
                return compared, steps, f"{error}\n{again}"
            compared += 1
    return compared, steps, ""


def main() -> int:
    """Run until enough steps were compared."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    compared = steps = 0
    began = time.monotonic()
    number = options.seed << 32
    with multiprocessing.Pool(options.jobs) as pool:
        while steps < options.steps:
            batch = range(number, number + options.jobs)
            number += options.jobs
            for states, more, difference in pool.imap(chunk, batch):
                if difference:
                    print(difference)
                    return 1
                if steps < options.steps:
                    compared += states
                    steps += more
            print(f"\r{steps} steps of {options.steps}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    seconds = time.monotonic() - began
    print(f"seed {options.seed}: {steps} steps of {compared} runs are equal ({seconds:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
