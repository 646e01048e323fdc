"""The process of the command: what was registered is done, what was said is written, and it is gone."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, sys, threading
from asyncvmm.cli import script
def main():
    {body}
script.main = main
atexit.register(lambda: print("registered"))
threading.Thread(target=threading.Event().wait).start()  # nobody waits for it
script.script()
"""


@pytest.mark.parametrize(
    ("body", "status", "out", "err"),
    [
        ("print('x', end=''); return 3", 3, b"xregistered\n", b""),
        ("raise SystemExit(2)", 2, b"registered\n", b""),
        ("raise SystemExit", 0, b"registered\n", b""),
        ("raise SystemExit('why')", 1, b"registered\n", b"why\n"),
    ],
)
def test_the_end_of_the_process(body: str, status: int, out: bytes, err: bytes) -> None:
    words = [sys.executable, "-c", PROGRAM.format(body=body)]
    done = subprocess.run(words, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (status, out, err)
