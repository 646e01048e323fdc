"""The long campaign: ``python -m tools.differential reference --engine jit --count 10e6 --jobs 2``.

``--engine jit`` is the first tier of translated code from the first execution on; with ``regions`` all
pages are optimised on the way, too. What is compared depends on the seed, not on the engine. It ends
with 1 at the first difference, after printing how to run that piece again.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import sys
import time
from functools import partial

from tqdm import tqdm

from tools.differential.campaign import KINDS, Piece, oracle_names, run_piece
from tools.differential.engines import ENGINES


def main(arguments: list[str] | None = None) -> int:
    """Run pieces until ``--count`` units are compared; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.differential", description=__doc__)
    parser.add_argument("kind", choices=KINDS, help="what to compare with what")
    parser.add_argument("--engine", choices=ENGINES, default="interpreter", help="of ours")
    parser.add_argument("--count", type=float, default=1e6, help="units to compare (1e6)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes (1)")
    parser.add_argument("--only", type=int, help="run this one piece")
    options = parser.parse_args(arguments)
    units, _ = KINDS[options.kind]
    run = partial(run_piece, options.kind, options.engine)
    with_oracles = units != "steps"
    if with_oracles and not oracle_names():
        print("neither spike nor qemu-system-riscv64 is installed", file=sys.stderr)
        return 2
    if options.only is not None:
        return _report(options, units, options.only, run(options.seed, options.only))
    started = time.perf_counter()
    done = 0
    with (
        concurrent.futures.ProcessPoolExecutor(options.jobs) as pool,
        tqdm(total=int(options.count), unit=f" {units}", unit_scale=True, disable=None) as bar,
    ):
        numbers = itertools.count()
        running = {
            pool.submit(run, options.seed, n): n for n in itertools.islice(numbers, options.jobs)
        }
        while running:
            finished, _ = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for future in finished:
                number, piece = running.pop(future), future.result()
                done += piece.units
                bar.update(piece.units)
                if piece.difference:
                    return _report(options, units, number, piece)
                if done < options.count:
                    number = next(numbers)
                    running[pool.submit(run, options.seed, number)] = number
    taken = time.perf_counter() - started
    oracles = ["spike"] if options.kind == "traps" else list(oracle_names())
    against = " and ".join(oracles) if with_oracles else "the reference"
    print(
        f"{options.engine}: {done:,} {units} equal to {against}, seed {options.seed}, in {taken:.0f} s"
    )
    return 0


def _report(options: argparse.Namespace, units: str, number: int, piece: Piece) -> int:
    if not piece.difference:
        print(f"piece {number}: {piece.units:,} {units}, all equal")
        return 0
    print(piece.difference)
    print(
        f"again: python -m tools.differential {options.kind} --engine {options.engine} "
        f"--seed {options.seed} --only {number}"
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
