"""``python -m tools.kill_campaign --count 200 --seed 1``.

Exit status 0 when nothing was lost; an AssertionError says what was, and the folder stays to be looked at.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from pathlib import Path

from asyncvmm.api import open_folder
from tools.kill_campaign.broken import BROKEN
from tools.kill_campaign.campaign import WORKS, run


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="tools.kill_campaign", description=__doc__)
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"default all: {', '.join(WORKS)}")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--folder", type=Path, help="an empty folder to work in (default: a new one)"
    )
    parser.add_argument(
        "--broken",
        choices=sorted(BROKEN),
        help="let what is killed lose something, which the checks must find",
    )
    parser.add_argument("--work", nargs=2, metavar=("WORK", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        name, path = options.work
        if options.broken is not None:
            BROKEN[options.broken].install()
        WORKS[name].do(open_folder(path), random.Random(options.seed), options.number)
        return 0
    if unknown := set(options.works) - set(WORKS):
        parser.error(f"no work {min(unknown)!r}: there are {', '.join(WORKS)}")
    made = options.folder or Path(tempfile.mkdtemp(prefix="kill-campaign-"))
    made.mkdir(exist_ok=True)
    names = options.works or tuple(WORKS)
    if options.broken is not None:
        names = (BROKEN[options.broken].work,)

    def tell(text: str) -> None:
        print(text, flush=True)

    killed = run(options.count, options.seed, made, tell, names, options.broken)
    for what, count in sorted(killed.items()):
        print(f"{count:5}  killed in {what}")
    print(f"{sum(killed.values())} kills, seed {options.seed}: nothing was lost")
    if options.folder is None:
        shutil.rmtree(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
