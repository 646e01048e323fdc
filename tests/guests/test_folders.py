"""A Debian machine in a folder: what it writes is kept, it is gone back, and commands run in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from asyncvmm.storage import check_image
from tests.guests.conftest import require

pytestmark = pytest.mark.guest


def folder(path: Path, *words: str, stdin: bytes = b"") -> bytes:
    done = subprocess.run(
        [sys.executable, "-m", "asyncvmm", *words],
        cwd=path,
        env=os.environ | {"ASYNCVMM_STATE": str(path / "state")},
        input=stdin,
        capture_output=True,
    )
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def test_a_debian_machine_keeps_what_it_writes(tmp_path: Path) -> None:
    require("debian-root")
    folder(tmp_path, "create", "web.vm", "--image", "debian-root", "--set", "seed=5")
    said = folder(
        tmp_path, "run", "web.vm", "--", "sh", "-c", "cat >/root/a; echo done", stdin=b"kept"
    )
    assert said == b"done\n"
    assert check_image(tmp_path / "web.vm/disks/root.qcow2").clean
    folder(tmp_path, "start", "web.vm")
    try:
        assert folder(tmp_path, "run", "web.vm", "--", "cat", "/root/a") == b"kept"
        echoed = folder(tmp_path, "run", "web.vm", "--", "cat", stdin=b"x" * 300_000)
        assert echoed == b"x" * 300_000
        folder(tmp_path, "snapshot", "save", "web.vm", "one")
        folder(
            tmp_path, "run", "web.vm", "--", "sh", "-c", "echo more > /root/b; echo here > /run/c"
        )
        folder(tmp_path, "stop", "--save", "web.vm")
        # A state that is gone on from has its memory and its agent.
        words = ("run", "web.vm", "--", "cat", "/root/b", "/run/c")
        assert folder(tmp_path, *words) == b"more\nhere\n"
        assert folder(tmp_path, *words) == b"more\nhere\n"
        folder(tmp_path, "snapshot", "restore", "web.vm", "one")
        assert folder(tmp_path, "run", "web.vm", "--", "ls", "/root") == b"a\n"
        folder(tmp_path, "start", "--cold", "web.vm")
        assert folder(tmp_path, "run", "web.vm", "--", "ls", "/root") == b"a\n"
        folder(tmp_path, "stop", "web.vm")
    finally:
        subprocess.run(
            [sys.executable, "-m", "asyncvmm", "stop", "--force", "web.vm"], cwd=tmp_path
        )
    assert check_image(tmp_path / "web.vm/disks/root.qcow2").clean
    assert b"reason=poweroff" in folder(tmp_path, "logs", "web.vm")


def replayed(path: Path, journal: str, *words: str) -> bytes:
    said = folder(path, "replay", journal, *words)
    assert said.startswith(b"equal    web  ")
    return said


def test_a_debian_machine_is_recorded_and_goes_on(tmp_path: Path) -> None:
    """Its disk is written in the run and after it, and it is kept and gone on from; the journals hold."""
    require("debian-root")
    folder(tmp_path, "create", "web.vm", "--image", "debian-root", "--set", "seed=5")
    write = "cat /root/a; echo {0} >> /root/a; sync; cat /root/a"

    def command(word: str) -> tuple[str, ...]:
        return ("--", "sh", "-c", write.format(word))

    said = folder(tmp_path, "run", "web.vm", "--record", "one", *command("first"))
    assert said == b"first\n"
    folder(tmp_path, "start", "web.vm")
    try:
        assert folder(tmp_path, "run", "web.vm", *command("second")) == b"first\nfirst\nsecond\n"
        folder(tmp_path, "stop", "--save", "web.vm")
        folder(tmp_path, "start", "web.vm", "--record", "two")
        folder(tmp_path, "run", "web.vm", *command("third"))
        folder(tmp_path, "snapshot", "save", "web.vm", "middle")
        folder(tmp_path, "run", "web.vm", *command("fourth"))
        folder(tmp_path, "stop", "--save", "web.vm")
        folder(tmp_path, "run", "web.vm", "--", "rm", "/root/a")
        before = (tmp_path / "web.vm/disks/root.qcow2").read_bytes()
        replayed(tmp_path, "one", "--engine", "interpreter")
        replayed(tmp_path, "two")
        assert (tmp_path / "web.vm/disks/root.qcow2").read_bytes() == before
    finally:
        subprocess.run(
            [sys.executable, "-m", "asyncvmm", "stop", "--force", "web.vm"], cwd=tmp_path
        )
