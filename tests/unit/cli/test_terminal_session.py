"""The interactive console on a real pseudo-terminal, and ends from outside, with the demo guest."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

PATIENCE_S = 60  # of a test that would otherwise hang; nothing waits this long
COMMAND = [sys.executable, "-m", "asyncvmm", "run", "demo"]
PROMPT = b"demo> "


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A cache of our own, with the demo in it."""
    cache = str(tmp_path_factory.mktemp("cache"))
    variables = os.environ | {"ASYNCVMM_CACHE": cache}
    subprocess.run(
        [sys.executable, "-m", "asyncvmm", "image", "pull", "demo"], env=variables, check=True
    )
    return variables


class Terminal:
    """A pseudo-terminal of 100 by 30 with the command on it."""

    def __init__(
        self, environment: dict[str, str], *words: str, command: list[str] = COMMAND
    ) -> None:
        self.ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.ours, termios.TIOCSWINSZ, struct.pack("4H", 30, 100, 0, 0))
        self.before = termios.tcgetattr(self.theirs)
        self.seen = b""
        self.process = subprocess.Popen(
            [*command, *words],
            env=environment,
            stdin=self.theirs,
            stdout=self.theirs,
            stderr=self.theirs,
            start_new_session=True,
        )

    def expect(self, text: bytes) -> bytes:
        """Everything up to ``text``."""
        while text not in self.seen:
            ready, _, _ = select.select([self.ours], [], [], PATIENCE_S)
            assert ready, self.seen
            self.seen += os.read(self.ours, 65536)
        before, _, self.seen = self.seen.partition(text)
        return before + text

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self.ours, keys)

    @property
    def is_raw(self) -> bool:
        """No line editing, echo or signals from keys."""
        flags: int = termios.tcgetattr(self.theirs)[3]
        return not flags & (termios.ICANON | termios.ECHO | termios.ISIG)

    def end(self) -> int:
        """The exit status; the terminal is as it was."""
        status = self.process.wait(PATIENCE_S)
        assert termios.tcgetattr(self.theirs) == self.before
        return status

    def close(self) -> None:
        """Nothing is left of it."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.ours)
        os.close(self.theirs)


@pytest.fixture
def terminal(environment: dict[str, str]) -> Iterator[Terminal]:
    terminal = Terminal(environment)
    yield terminal
    terminal.close()


def test_the_escape_key_is_shown_and_leaves(terminal: Terminal) -> None:
    assert b"Ctrl-] leaves" in terminal.expect(PROMPT)
    assert terminal.is_raw
    terminal.type(b"echo typed\r")
    assert b"\ntyped\r\n" in terminal.expect(PROMPT)
    terminal.type(b"\x1d")
    assert terminal.end() == 0


def test_ctrl_c_goes_to_the_guest(terminal: Terminal) -> None:
    terminal.expect(PROMPT)
    terminal.type(b"poweroff 1\x03")
    terminal.expect(PROMPT)
    terminal.type(b"echo alive\r")
    assert b"\nalive\r\n" in terminal.expect(PROMPT)
    terminal.type(b"\x1d")
    assert terminal.end() == 0


def test_the_guest_powers_itself_off(terminal: Terminal) -> None:
    terminal.expect(PROMPT)
    terminal.type(b"poweroff 5\r")
    assert terminal.end() == 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_restores_the_terminal(terminal: Terminal, number: signal.Signals) -> None:
    terminal.expect(PROMPT)
    assert terminal.is_raw
    terminal.process.send_signal(number)
    assert terminal.end() == 128 + number


def test_an_error_restores_the_terminal(environment: dict[str, str]) -> None:
    terminal = Terminal(environment, "--log", "/dev/full")
    try:
        terminal.expect(b"--log /dev/full: No space left on device")
        assert terminal.end() == 1
    finally:
        terminal.close()


def test_until_ends_an_interactive_session(environment: dict[str, str]) -> None:
    terminal = Terminal(environment, "--until", "six")
    try:
        terminal.expect(PROMPT)
        terminal.type(b"echo si\x7f\x7fsix\r")
        assert terminal.end() == 0
    finally:
        terminal.close()


def read_until(fd: int, text: bytes) -> None:
    """Read up to ``text``, or fail at the end or when nothing comes."""
    seen = b""
    while text not in seen:
        ready, _, _ = select.select([fd], [], [], PATIENCE_S)
        data = os.read(fd, 65536) if ready else b""
        assert data, seen
        seen += data


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("busy", [True, False])
def test_a_signal_ends_a_run_in_a_pipe(
    environment: dict[str, str], number: signal.Signals, busy: bool
) -> None:
    with subprocess.Popen(
        COMMAND, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        read_until(process.stdout.fileno(), PROMPT)
        if busy:
            process.stdin.write(b"memtest 30000\r")
            process.stdin.flush()
            read_until(process.stdout.fileno(), b"memtest 30000")
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == 128 + number


def run(
    environment: dict[str, str], *words: str, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *words], env=environment, input=stdin, capture_output=True, timeout=PATIENCE_S
    )


def test_a_closed_output_ends_quietly(environment: dict[str, str]) -> None:
    for talk in (b"", b"memtest 30000\rhelp\r"):  # before the first word, or while the guest works
        with subprocess.Popen(
            COMMAND,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdin and process.stdout and process.stderr
            if talk:
                os.read(process.stdout.fileno(), 1)
                process.stdin.write(talk)
                process.stdin.flush()
            process.stdout.close()
            assert process.wait(PATIENCE_S) == 141
            assert process.stderr.read() == b""


def test_input_that_ends_ends_a_guest_that_waits_for_it(environment: dict[str, str]) -> None:
    done = run(environment, stdin=b"echo one\recho two\r")
    assert done.returncode == 0
    assert b"\none\r\n" in done.stdout and b"\ntwo\r\n" in done.stdout
    assert done.stdout.endswith(PROMPT)
    assert b"no more" in done.stderr


def test_until_and_its_failure(environment: dict[str, str]) -> None:
    done = run(environment, "--until", "reboot  ", stdin=b"help\r")
    assert done.returncode == 0 and b"reboot  " in done.stdout
    done = run(environment, "--until", "never said", stdin=b"poweroff\r")
    assert done.returncode == 1 and b"'never said'" in done.stderr


def test_log_stats_and_limit(environment: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = run(environment, "--log", str(log), "--stats", "--verbose", stdin=b"poweroff 3\r")
    assert done.returncode == 3
    assert log.read_bytes() == done.stdout
    assert done.stderr.startswith(done.stdout)
    for name in (b"instructions", b"MIPS", b"virtual time", b"wall time", b"traps", b"TLB misses"):
        assert name in done.stderr
    done = run(environment, "--max-instructions", "1000", "--stats", stdin=b"")
    assert done.returncode == 0 and b"--max-instructions" in done.stderr


def test_timeout(environment: dict[str, str]) -> None:
    with subprocess.Popen(
        [*COMMAND, "--timeout", "0.2"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.wait(PATIENCE_S) == 124
        assert process.stderr is not None and b"--timeout" in process.stderr.read()


def test_closed_standard_streams(environment: dict[str, str]) -> None:
    """As a daemon without descriptors would start it: ``<&- >&- 2>&-``."""
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *COMMAND],
        env=environment,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0
