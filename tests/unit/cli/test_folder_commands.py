"""Machines that run for themselves, by their commands: start, console, stop, logs, ps, inspect, rm."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncvmm.runtime.folder.lock import holder_of
from tests.unit.cli.test_terminal_session import Terminal

PATIENCE_S = 60  # of a test that would otherwise hang; nothing waits this long


class Commands:
    """asyncvmm in a folder of its own, with a machine of the demo image."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {
            "ASYNCVMM_CACHE": str(folder / "cache"),
            "ASYNCVMM_STATE": str(folder / "state"),
        }
        self.vm = folder / "demo.vm"

    def run(self, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "asyncvmm", *words],
            cwd=self.folder,
            env=self.environment,
            input=stdin,
            capture_output=True,
            timeout=PATIENCE_S,
        )

    def good(self, *words: str, stdin: bytes = b"") -> str:
        done = self.run(*words, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    def bad(self, status: int, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode == status, (done.stdout, done.stderr)
        return done.stderr.decode()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    commands = Commands(tmp_path_factory.mktemp("machines"))
    commands.good("create", "demo.vm", "--image", "demo", "--memory", "64M")
    yield commands
    commands.run("stop", "--force", "demo.vm")


@pytest.fixture
def running(made: Commands) -> Iterator[Commands]:
    made.good("start", "--cold", "demo.vm")
    yield made
    made.run("stop", "--force", "demo.vm")


def test_a_machine_that_was_made_is_known(tmp_path: Path) -> None:
    commands = Commands(tmp_path)
    commands.good("create", "demo.vm", "--image", "demo")
    assert commands.good("ps").splitlines()[1].split()[:2] == ["demo.vm", "stopped"]
    commands.good("rm", "--yes", "demo.vm")
    assert len(commands.good("ps").splitlines()) == 1


def test_a_machine_from_start_to_stop(running: Commands) -> None:
    holder = holder_of(running.vm / "lock")
    assert holder is not None and holder.serves
    said = running.good(
        "console", "demo.vm", "--history", "0", "--until", "\nhello\r", stdin=b"echo hello\r"
    )
    assert "hello" in said
    assert f"pid {holder.pid}" in running.bad(1, "start", "demo.vm")
    assert f"pid {holder.pid}" in running.bad(1, "run", "demo.vm")
    assert f"pid {holder.pid}" in running.bad(1, "rm", "--yes", "demo.vm")
    assert running.vm.is_dir()
    (state,) = json.loads(running.good("ps", "--json"))
    assert state["pid"] == holder.pid and state["memory_size_bytes"] == 64 << 20
    assert state["virtual_ns"] > 0 and state["wall_s"] > 0 and state["viewers"] == 0
    table = running.good("ps").splitlines()
    assert table[0].split()[:3] == ["FOLDER", "STATE", "PID"] and str(holder.pid) in table[1]
    inspected = json.loads(running.good("inspect", "demo.vm"))
    assert inspected["holder"]["pid"] == holder.pid and inspected["config"]["memory"] == 64 << 20
    assert "no agent" in running.bad(2, "stop", "demo.vm")
    running.good("snapshot", "save", "demo.vm", "live")
    running.good("stop", "--save", "demo.vm")
    assert holder_of(running.vm / "lock") is None
    assert "saved" in running.good("ps", "demo.vm")
    assert running.run("stop", "demo.vm").stderr.endswith(b"does not run\n")
    assert "asyncvmm start" in running.bad(2, "console", "demo.vm")
    said = running.run("config", "set", "demo.vm", "memory", "64M").stderr
    assert b"a kept state, which has its own memory" in said and b"start --cold" in said
    assert not running.run("config", "set", "demo.vm", "logs.keep", "3").stderr
    said = running.run("start", "demo.vm").stderr
    assert b"from its kept state" in said
    running.good("stop", "--force", "demo.vm")
    running.good("snapshot", "restore", "demo.vm", "live")
    events = [
        json.loads(line)["event"] for line in running.good("logs", "--json", "demo.vm").splitlines()
    ]
    assert {"start", "end", "saved", "snapshot", "stop asked", "console attached"} <= set(events)
    assert "demo> " in running.good("logs", "--console", "demo.vm")
    assert "start  resumed=" in running.good("logs", "demo.vm")


def test_what_is_wrong_at_a_start_is_said(made: Commands) -> None:
    file = made.vm / "vm.toml"
    good = file.read_text()
    file.write_text(good.replace("harts = 1", "harts = 1000"))
    try:
        assert "line" in made.bad(2, "start", "demo.vm") and holder_of(made.vm / "lock") is None
        assert "harts must be 1 to 64" in made.bad(2, "inspect", "demo.vm")
    finally:
        file.write_text(good)
    assert "there is no such folder" in made.bad(2, "start", "other.vm")
    assert "--foreground" in made.good("start", "--help")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_a_machine(made: Commands, number: signal.Signals) -> None:
    made.good("start", "--cold", "demo.vm")
    holder = holder_of(made.vm / "lock")
    assert holder is not None
    descriptor = os.pidfd_open(holder.pid)
    os.kill(holder.pid, number)
    assert select.select([descriptor], [], [], PATIENCE_S)[0]
    os.close(descriptor)
    assert holder_of(made.vm / "lock") is None
    assert "stopped" in made.good("ps", "demo.vm")
    made.good("start", "--cold", "demo.vm")
    made.good("stop", "--force", "demo.vm")
    events = [
        json.loads(line)["event"] for line in made.good("logs", "--json", "demo.vm").splitlines()
    ]
    assert ("recovered" in events) == (number == signal.SIGKILL)


def test_logs_are_followed(running: Commands) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "asyncvmm", "logs", "-f", "--console", "demo.vm"],
        cwd=running.folder, env=running.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    seen = b""

    def expect(text: bytes) -> None:
        nonlocal seen
        while text not in seen:
            assert process.stdout is not None
            ready = select.select([process.stdout], [], [], PATIENCE_S)[0]
            data = os.read(process.stdout.fileno(), 65536) if ready else b""
            assert data, seen
            seen += data
        seen = seen.partition(text)[2]

    expect(b"demo> ")
    running.good(
        "console", "demo.vm", "--history", "0", "--until", "\nsoon\r", stdin=b"echo soon\r"
    )
    expect(b"\nsoon\r\n")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130


def test_the_escape_key_leaves_the_console_and_the_machine_runs_on(running: Commands) -> None:
    command = [sys.executable, "-m", "asyncvmm", "console", str(running.vm)]
    terminal = Terminal(running.environment, command=command)
    try:
        terminal.expect(b"Ctrl-] leaves, and it runs on")
        terminal.type(b"echo there\r")
        terminal.expect(b"\nthere\r\n")
        assert terminal.is_raw
        terminal.type(b"\x1d")
        assert terminal.end() == 0
    finally:
        terminal.close()
    assert holder_of(running.vm / "lock") is not None
