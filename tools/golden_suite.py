"""``python -m tools.golden_suite``: what a suite of tests takes that each need a booted Debian with redis.

Writes a suite of 20 tests that share one golden state (``asyncvmm.testing.golden``), each with a fork of its
own, and runs it with pytest as its owner would: first with nothing kept (the boot is in it), then as often
as ``--runs`` says from the state that is on disk. Exit status 1 when a test of it fails.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

SUITE: Final = """
from pathlib import Path

import pytest
from asyncvmm.testing.golden import golden

redis = golden(
    "debian-root",
    setup=["redis-server --daemonize yes > /dev/null"],
    until="redis-cli ping | grep -q PONG",
    folder=Path({folder!r}),
    append="quiet",
)


@pytest.mark.trio
@pytest.mark.parametrize("number", range({tests}))
async def test_redis(redis, number):
    async def cli(*words):
        done = await redis.run(["redis-cli", *words], check=True)
        return done.stdout.decode().split()

    assert await cli("dbsize") == ["0"]  # nobody else's keys
    assert await cli("set", f"key{{number}}", str(number)) == ["OK"]
    assert await cli("incrby", f"key{{number}}", "1000") == [str(number + 1000)]
    assert await cli("keys", "*") == [f"key{{number}}"]
"""


def run_suite(folder: Path, tests: int) -> tuple[float, int, str]:
    """Wall time in seconds, how many tests passed, and what pytest said. States are kept in ``folder``."""
    (folder / "test_suite.py").write_text(SUITE.format(folder=str(folder / "states"), tests=tests))
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--durations=3", "test_suite.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    took = time.monotonic() - began
    passed = re.search(r"(\d+) passed", done.stdout)
    return took, int(passed[1]) if passed else 0, done.stdout + done.stderr


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="tools.golden_suite", description=__doc__)
    parser.add_argument("--tests", type=int, default=20)
    parser.add_argument("--runs", type=int, default=3, help="after the first one")
    parser.add_argument("--folder", type=Path, help="where the state is kept (default: nowhere)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="golden-suite-") as made:
        folder = options.folder or Path(made)
        folder.mkdir(exist_ok=True)
        for _ in range(options.runs + 1):
            kept = any((folder / "states").glob("*/manifest.json"))
            took, passed, said = run_suite(folder, options.tests)
            print(
                f"{'from the disk' if kept else 'with the boot'}: {passed} of {options.tests} tests passed, "
                f"{took:.2f} s with the start of pytest",
                flush=True,
            )
            if passed != options.tests:
                print(said)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
