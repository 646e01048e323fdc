"""Host instructions per guest instruction of a command, counted by valgrind's callgrind.

    python -m tools.callgrind 1000000 3000000 -- \\
        python -m asyncvmm run guest.elf --max-instructions {}

runs the command twice, with ``{}`` replaced by each count, so that the start of Python cancels out:
the answer is the difference of host instructions over the difference of guest instructions. Unlike
seconds, it is the same on a busy machine. Then come the functions that cost the longer run most.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

_TOTAL = re.compile(r"^(?:summary|totals): (\d+)", re.MULTILINE)
_FUNCTION = re.compile(r"^\s*([\d,]+) \(\s*([\d.]+)%\)\s+(\S.*)$", re.MULTILINE)


def host_instructions(command: Sequence[str], out: Path) -> int:
    """Run the command under callgrind, leave its profile in `out` and return its total."""
    valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--quiet"]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [*valgrind, *command],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    found = _TOTAL.search(out.read_text()) if out.exists() else None
    if found is None:
        raise SystemExit(f"callgrind made no profile of {' '.join(command)}:\n{done.stderr}")
    return int(found[1])


def hottest(out: Path, count: int) -> list[tuple[int, float, str]]:
    """The functions with the most instructions of their own: (instructions, percent, name)."""
    text = subprocess.run(
        ["callgrind_annotate", "--threshold=100", str(out)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = [
        (int(number.replace(",", "")), float(percent), name.split(" [")[0])
        for number, percent, name in _FUNCTION.findall(text)
        if "PROGRAM TOTALS" not in name
    ]
    return found[:count]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse, run twice, print; exit status 2 when valgrind is missing."""
    parser = argparse.ArgumentParser(prog="python -m tools.callgrind", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("fewer", type=int, help="guest instructions of the short run")
    parser.add_argument("more", type=int, help="guest instructions of the long run")
    parser.add_argument("command", nargs="+", help="with {} where the count goes")
    parser.add_argument("--functions", type=int, default=15, help="how many to list")
    given = parser.parse_args(arguments)
    if given.more <= given.fewer:
        parser.error("the long run must be longer than the short one")
    if not any("{}" in word for word in given.command):
        parser.error("the command has no {} to put the count in")
    if shutil.which("valgrind") is None:
        print("valgrind is not installed", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as directory:
        totals = []
        for count in (given.fewer, given.more):
            out = Path(directory) / f"callgrind.{count}"
            command = [word.replace("{}", str(count)) for word in given.command]
            totals.append(host_instructions(command, out))
        per_guest = (totals[1] - totals[0]) / (given.more - given.fewer)
        print(f"{per_guest:.2f} host instructions per guest instruction")
        print(f"({totals[0]:,} at {given.fewer:,}; {totals[1]:,} at {given.more:,})")
        for instructions, percent, name in hottest(out, given.functions):
            print(f"{instructions:>16,} {percent:6.2f}%  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
