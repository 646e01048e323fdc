"""One command in a real guest, through the command line: output, errors and status come back."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from tests.guests.conftest import Run

pytestmark = pytest.mark.guest


def test_debian_names_itself_and_its_hart(command_line: Run, tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = command_line(
        "debian", "--stats", "--log", str(log), "--", "sh", "-c", "uname -a; cat /proc/cpuinfo"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"Linux ") and b"riscv64" in done.stdout
    assert b"Debian" in done.stdout and b"-riscv64" in done.stdout.split()[2]
    assert b"rv64imafdc" in done.stdout
    assert b"Linux version" in log.read_bytes()  # what the kernel says stays out of the output
    assert b"instructions" in done.stderr and b"Linux version" not in done.stderr


def test_status_and_standard_error(command_line: Run) -> None:
    done = command_line("linux", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n")
    done = command_line("linux", "--verbose", "--", "no-such-command", "x")
    assert done.returncode == 127 and done.stdout == b""
    assert b"no-such-command: not found\n" in done.stderr and b"Linux version" in done.stderr
    assert command_line("linux", "--", "sh", "-c", "kill -9 $$").returncode == 137


def test_a_megabyte_of_random_bytes_goes_in_and_comes_out(command_line: Run) -> None:
    data = random.Random(2).randbytes(1 << 20)
    done = command_line("linux", "--", "sh", "-c", "cat > /tmp/f; cat /tmp/f", stdin=data)
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


def test_ends_that_are_asked_for(command_line: Run) -> None:
    done = command_line("linux", "--until", "Linux version")
    assert done.returncode == 0 and b"Linux version" in done.stdout
    done = command_line("linux", "--timeout", "0.5", "--", "sleep", "1000000000")
    assert done.returncode == 124 and done.stdout == b""
    done = command_line("linux", "--max-instructions", "100000", "--", "true")
    assert done.returncode == 125 and b"--max-instructions" in done.stderr
    done = command_line("linux", "--", "poweroff", "-f")
    assert done.returncode == 125 and b"before the command did" in done.stderr
