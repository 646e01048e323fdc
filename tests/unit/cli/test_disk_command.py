"""``asyncvmm disk``: what it does, says, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from asyncvmm.cli import main
from asyncvmm.storage import check_image, image_info, opened

MIB = 1 << 20


def disk(*words: str | Path) -> int:
    return main(["disk", *map(str, words)])


def test_a_disk_from_begin_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, top, copy = tmp_path / "base.img", tmp_path / "top.qcow2", tmp_path / "copy.img"
    assert disk("create", base, "1M") == 0
    assert disk("create", top, "--backing", "base.img") == 0
    assert disk("resize", top, "+1M") == 0
    with opened(top) as image:
        image.pwrite(MIB, b"hello")
    assert disk("convert", top, copy) == 0
    assert capsys.readouterr().out == ""
    assert copy.read_bytes()[MIB:][:6] == b"hello\0"
    assert disk("compare", top, copy) == 0
    assert capsys.readouterr().out == "the same\n"
    assert disk("info", top) == 0
    said = capsys.readouterr().out
    assert "2 MiB (2097152 bytes)" in said and "base.img (format: raw)" in said
    assert disk("info", top, "--json") == 0
    assert json.loads(capsys.readouterr().out)["size_bytes"] == 2 * MIB
    assert disk("map", top, "--json") == 0
    entries = json.loads(capsys.readouterr().out)
    assert sum(entry["length"] for entry in entries) == 2 * MIB
    assert disk("map", top) == 0
    assert f"{top}\n" in capsys.readouterr().out
    assert disk("commit", top) == 0
    assert disk("rebase", top, "--no-backing") == 0
    capsys.readouterr()
    assert disk("check", top) == 0
    assert "clean" in capsys.readouterr().out
    assert image_info(top).backing_file is None
    assert disk("compare", top, copy) == 0
    with opened(top) as image:
        image.pwrite(7, b"!")
    capsys.readouterr()
    assert disk("compare", top, copy) == 1
    assert capsys.readouterr().out == "they differ at byte 7\n"
    assert disk("create", "--force", top, "64K", "--cluster-size", "4K", "--lazy-refcounts") == 0
    assert image_info(top).lazy_refcounts


def test_what_check_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.qcow2"
    disk("create", path, "1M")
    data = bytearray(path.read_bytes())
    data[2 * 65536 + 50 * 2 + 1] = 1  # a cluster far behind is counted
    path.write_bytes(data)
    assert disk("check", path) == 3
    assert "leak: cluster 50" in capsys.readouterr().out
    data[2 * 65536 + 1] = 0  # the header is not counted
    path.write_bytes(data)
    assert disk("check", path, "--json") == 1
    assert json.loads(capsys.readouterr().out)["errors"] == 1
    assert disk("check", path, "--repair", "leaks") == 1
    assert disk("check", path, "--repair", "all") == 0
    assert check_image(path).clean


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["info", "nowhere.qcow2"], "nowhere.qcow2: No such file"),
        (["create", "a.qcow2"], "its size is missing"),
        (["create", "a.img", "1M", "--backing", "b.img"], "a raw image has no backing file"),
        (["create", "a.qcow2", "lots"], "'lots' is not a size"),
        (["resize", "small.qcow2", "100"], "sectors"),
        (["rebase", "small.qcow2", "--backing", "nowhere.img"], "nowhere.img"),
        (["commit", "small.qcow2"], "has no backing file"),
        (["convert", "small.qcow2", "small.img", "--cluster-size", "1000"], ""),
    ],
)
def test_wrong_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    previous = Path.cwd()
    os.chdir(tmp_path)
    try:
        assert disk("create", "small.qcow2", "1M") == 0
        status = disk(*words)
        assert status == (2 if said else 0)
        assert said in capsys.readouterr().err
    finally:
        os.chdir(previous)


INTERRUPTED = """
import os, signal, sys
from asyncvmm.cli import main
from asyncvmm.cli.interrupts import Interruptible
real = Interruptible.__call__

def interrupted(self, done, total):
    if done > total // 2:
        os.kill(os.getpid(), signal.SIGINT)
    real(self, done, total)

Interruptible.__call__ = interrupted
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("action", ["convert", "commit", "rebase"])
def test_an_interrupt_leaves_whole_images(tmp_path: Path, action: str) -> None:
    base, top = tmp_path / "base.img", tmp_path / "top.qcow2"
    disk("create", base, "32M")
    disk("create", top, "--backing", "base.img")
    contents = b"".join(bytes([n]) * MIB for n in range(1, 33))
    if action == "rebase":
        base.write_bytes(contents)
    else:
        with opened(top) as image:
            image.pwrite(0, contents)
    words = {"convert": [top, tmp_path / "new.qcow2"], "rebase": [top, "--no-backing"]}
    command = ["disk", action, *map(str, words.get(action, [top]))]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, *command], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (130, "")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["base.img", "top.qcow2"]
    assert check_image(top).clean
    with opened(top, read_only=True) as image:
        assert image.pread(0, len(contents)) == contents
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
