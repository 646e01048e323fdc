"""A failing test's report has its journal, and the one command that repeats what the guest did."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from asyncvmm.api import find_image
from asyncvmm.plugin.images import ImageCache

TEST = """
from asyncvmm.testing.golden import golden

guest = golden("linux", folder=__import__("pathlib").Path({folder!r}))

async def test_that_fails(guest):
    done = await guest.run(["sh", "-c", "echo hi; cat /proc/uptime"])
    assert done.stdout == b"something else"
"""


@pytest.mark.skipif(not find_image("linux").is_present(ImageCache()), reason="no linux image here")
def test_the_command_in_a_report_repeats_the_test(tmp_path: Path) -> None:
    path = tmp_path / "test_failing.py"
    path.write_text(TEST.format(folder=str(tmp_path / "golden")))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-o", "trio_mode=true", "--basetemp", str(tmp_path / "base"), str(path)]
    environment = os.environ | {"PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
    assert done.returncode == 1, done.stdout.decode()
    report = done.stdout.decode()
    digest = re.search(r"of virtual time, digest ([0-9a-f]{64})", report)
    replay = re.search(r"^asyncvmm (replay \S+)$", report, re.MULTILINE)
    assert digest is not None
    assert replay is not None
    words = [sys.executable, "-m", "asyncvmm", *replay[1].split()]
    again = subprocess.run(words, capture_output=True, check=False)
    assert again.returncode == 0, again.stderr.decode()
    assert f"linux  {digest[1]}" in again.stdout.decode()
