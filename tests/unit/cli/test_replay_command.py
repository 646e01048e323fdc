"""A session that somebody typed at a terminal, recorded and repeated: other engine, threads and hash seed."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.test_terminal_session import PROMPT, Terminal


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A cache of our own, with the demo in it."""
    cache = str(tmp_path_factory.mktemp("cache"))
    variables = os.environ | {"ASYNCVMM_CACHE": cache}
    command = [sys.executable, "-m", "asyncvmm", "image", "pull", "demo"]
    subprocess.run(command, env=variables, check=True)
    return variables


@pytest.fixture(scope="module")
def session(
    environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The journal of a realtime session, with its window and its own pace."""
    journal = tmp_path_factory.mktemp("session") / "journal"
    terminal = Terminal(environment, "--harts", "2", "--record", str(journal))
    try:
        terminal.expect(PROMPT)
        terminal.type(b"uptime\r")
        terminal.expect(PROMPT)
        for key in b"memtest 9\r":
            terminal.type(bytes([key]))
        terminal.expect(PROMPT)
        terminal.type(b"uptime\r")
        said = terminal.expect(PROMPT)
        terminal.type(b"\x1d")
        assert terminal.end() == 0
    finally:
        terminal.close()
    found = re.search(rb"up ([0-9.]+) s", said)
    assert found is not None
    journal.with_name("uptime").write_bytes(found[1])
    yield journal


def replay(
    environment: dict[str, str], *words: str, keys: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "asyncvmm", "replay", *words]
    return subprocess.run(command, env=environment, input=keys, capture_output=True, check=False)


def test_the_session_is_repeated(session: Path, environment: dict[str, str]) -> None:
    documents: list[dict[str, Any]] = []
    for seed, engine, workers in (("0", "interpreter", "1"), ("99", "auto", "3")):
        variables = environment | {"PYTHONHASHSEED": seed}
        words = (str(session), "--engine", engine, "--workers", workers, "--json")
        done = replay(variables, *words)
        assert done.returncode == 0, done.stderr
        documents.append(json.loads(done.stdout))
        del documents[-1]["wall_s"]
    assert documents[0] == documents[1]
    assert documents[0]["equal"] is True
    assert documents[0]["complete"] is True
    assert documents[0]["compared"] >= 1


def test_the_report(session: Path, environment: dict[str, str]) -> None:
    done = replay(environment, str(session))
    assert re.match(rb"equal    demo  [0-9a-f]{64}\n\d+ inputs, \d+ digests compared", done.stdout)
    assert done.returncode == 0


def test_at_an_instant_the_console_is_ours(session: Path, environment: dict[str, str]) -> None:
    """The guest goes on from where it was: its uptime is that of the session's end, and on."""
    uptime = float(session.with_name("uptime").read_bytes())
    done = replay(environment, str(session), "--at", f"{uptime + 0.5}s", keys=b"uptime\r")
    assert done.returncode == 0, done.stderr
    found = re.findall(rb"up ([0-9.]+) s", done.stdout)
    assert uptime <= float(found[-1])


@contextmanager
def stopped_for_gdb(
    session: Path, environment: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """A replay that stands at 1 ms, and a connection to its port for gdb."""
    command = [sys.executable, "-m", "asyncvmm", "replay", str(session)]
    process = subprocess.Popen(
        [*command, "--at", "1ms", "--gdb", "0"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        port = None
        while port is None:
            line = process.stderr.readline()
            assert line, "it ended without a port"
            port = re.search(rb"target remote :(\d+)", line)
        with socket.create_connection(("127.0.0.1", int(port[1])), timeout=60) as gdb:
            yield process, gdb
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def ask(gdb: socket.socket, packet: bytes, instead: bytes = b"") -> bytes:
    """A packet of the remote protocol, or something else, and the stub's answer."""
    gdb.sendall(instead or b"$%s#%02x" % (packet, sum(packet) % 256))
    answer = b""
    while not re.search(rb"#..", answer):
        more = gdb.recv(4096)
        assert more, f"the stub hung up after {answer!r}"
        answer += more
    gdb.sendall(b"+")
    return answer.lstrip(b"+")


def test_at_an_instant_gdb_stands_there(session: Path, environment: dict[str, str]) -> None:
    """The guest stands still until gdb lets it go; then the console goes on."""
    with stopped_for_gdb(session, environment) as (process, gdb):
        assert ask(gdb, b"?").startswith(b"$T")
        assert ask(gdb, b"D") == b"$OK#9a"
        out, _ = process.communicate(b"uptime\r", timeout=60)
    assert re.search(rb"up 0\.00[0-9]+ s", out)
    assert process.returncode == 0


def test_gdb_at_an_idle_guest(session: Path, environment: dict[str, str]) -> None:
    """With nothing more to type, and a guest that waits for input: the session is over when gdb has left,
    which may stop the guest and look again meanwhile.
    """
    with stopped_for_gdb(session, environment) as (process, gdb):
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
        for _ in range(3):
            gdb.sendall(b"$vCont;c#a8")
            assert gdb.recv(1) == b"+"
            assert ask(gdb, b"", b"\x03").startswith(b"$T02")
        assert ask(gdb, b"D") == b"$OK#9a"
        _, said = process.communicate(timeout=60)
    assert b"there is no more" in said
    assert process.returncode == 0


def test_until_an_instant(session: Path, environment: dict[str, str]) -> None:
    done = replay(environment, str(session), "--until", "50us", "--json")
    assert json.loads(done.stdout)["virtual_ns"] == 50_000
    done = replay(environment, str(session), "--until", "1000000s")
    assert re.search(rb"the journal ends at [0-9.]+ s, before 1000000.0+ s", done.stderr)
    assert done.returncode == 0


def test_a_cut_off_journal_says_so(
    session: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    cut = tmp_path / "cut"
    cut.write_bytes(session.read_bytes()[:-20])
    done = replay(environment, str(cut))
    assert b"the journal was cut off at" in done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("content", "words", "said"),
    [
        (b"", (), b"has no header"),
        (b"console log", (), b"is no journal of asyncvmm"),
        (b"asyncvmm-journal" + bytes(100), (), b"has no header"),
        (None, (), b"No such file"),
        (None, ("--until", "soon"), b"--until: 'soon' is not a time"),
        (None, ("--gdb", "0"), b"--gdb is a port"),
        (None, ("--workers", "0"), b"asyncvmm: workers: 1 to 64 threads, not 0"),
        (None, ("--guest", "a"), b"--guest says whose console"),
    ],
)
def test_wrong_input(
    environment: dict[str, str],
    tmp_path: Path,
    content: bytes | None,
    words: tuple[str, ...],
    said: bytes,
) -> None:
    path = tmp_path / "journal"
    if content is not None:
        path.write_bytes(content)
    done = replay(environment, str(path), *words)
    assert said in done.stderr
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


def test_a_journal_is_not_written_over(session: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "asyncvmm", "run", "demo", "--record", str(session)]
    done = subprocess.run(command, env=environment, capture_output=True, input=b"", check=False)
    assert b"there is a file already" in done.stderr
    assert done.returncode == 2
