"""Fixtures of booted guests, as somebody's own test suite has them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.guests.conftest import PATIENCE_S, require
from tools.golden_suite import run_suite

SUITE = """
from pathlib import Path

import pytest
from asyncvmm.testing.golden import golden

linux = golden(
    "linux", setup=["echo ready > /tmp/state"], until="grep ready /tmp/state", folder=Path({folder!r}),
    nets=("lan",),
)


@pytest.mark.trio
@pytest.mark.parametrize("number", range(3))
async def test_each_has_its_own(linux, number):
    assert (await linux.run(["cat", "/tmp/state"])).stdout == b"ready\\n"
    await linux.run(["sh", "-c", "echo used > /tmp/state"])


@pytest.mark.trio
async def test_that_fails(linux):
    await linux.run(["sh", "-c", "echo last words > /dev/console; ping -c 1 gateway"])
    assert False
"""


def run(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-rA", "test_suite.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    return done.stdout


def test_every_test_gets_a_fork_and_a_report(tmp_path: Path) -> None:
    require("linux")
    (tmp_path / "test_suite.py").write_text(SUITE.format(folder=str(tmp_path / "states")))
    first = run(tmp_path)
    assert "1 failed, 3 passed" in first, first
    assert "console of guest linux" in first and "last words" in first
    assert "of virtual time, digest" in first
    (capture,) = re.findall(r"^/.*lan\.pcapng$", first, re.MULTILINE)
    assert Path(capture).stat().st_size > 100
    ((command, journal),) = re.findall(r"^asyncvmm (replay) (/.*)$", first, re.MULTILINE)
    again = subprocess.run(
        [sys.executable, "-m", "asyncvmm", command, journal],
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    states = list((tmp_path / "states").glob("*/manifest.json"))
    assert len(states) == 1
    made = states[0].stat().st_mtime_ns
    assert "1 failed, 3 passed" in run(tmp_path)  # from the disk this time
    assert states[0].stat().st_mtime_ns == made
    states[0].write_text("{")
    assert "1 failed, 3 passed" in run(tmp_path)  # a damaged state is made anew
    assert states[0].stat().st_mtime_ns != made


def test_a_suite_that_needs_debian_with_redis(tmp_path: Path) -> None:
    """What ``tools.golden_suite`` measures; how long it takes is not asserted here."""
    require("debian-root")
    assert run_suite(tmp_path, 20)[1] == 20
    states = list((tmp_path / "states").glob("*/manifest.json"))
    assert len(states) == 1
    made = states[0].stat().st_mtime_ns
    _, passed, said = run_suite(tmp_path, 3)
    assert passed == 3, said
    assert states[0].stat().st_mtime_ns == made
