"""The run agent against specs/run-protocol.md, as a process under QEMU's user emulator on a terminal."""

from __future__ import annotations

import os
import pty
import random
import shutil
import signal
import struct
import subprocess
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from asyncvmm_plugins.debian_images.agent import agent_program
from asyncvmm_plugins.debian_images.tests.agent_client import AgentClient

QEMU = shutil.which("qemu-riscv64-static") or shutil.which("qemu-riscv64")
SHELL = ("sh", "-c")


def test_the_agent_assembles_to_a_small_static_program() -> None:
    program = agent_program()
    assert program[:4] == b"\x7fELF"
    assert len(program) < 16384


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentClient]:
    if QEMU is None:
        pytest.skip("QEMU's user emulator is not installed")
    program = tmp_path / "agent"
    program.write_bytes(agent_program())
    program.chmod(0o755)
    ours, its = pty.openpty()
    tty.setraw(ours)
    tty.setraw(its)
    process = subprocess.Popen([QEMU, str(program), os.ttyname(its)], stdin=subprocess.DEVNULL)
    client = AgentClient(ours)
    assert client.receive() == (b"H", 0, struct.pack("<II", 1, 65536))
    yield client
    process.kill()
    process.wait()
    os.close(its)
    os.close(ours)


pytestmark = pytest.mark.oracle


def test_output_and_status(agent: AgentClient) -> None:
    result = agent.run([*SHELL, "echo out; echo err >&2; exit 7"])
    assert (result.end, result.stdout, result.stderr) == (("X", 0, 7), b"out\n", b"err\n")
    assert result.frames[0] == b"S" and result.frames[-1] == b"X"


def test_commands_follow_each_other(agent: AgentClient) -> None:
    for number in range(20):
        assert agent.run(["echo", str(number)]).stdout == b"%d\n" % number


def test_rule_3_input_is_exact_to_the_byte(agent: AgentClient) -> None:
    data = random.Random(7).randbytes(1_000_003)
    result = agent.run(["cat"], stdin=data)
    assert result.end == ("X", 0, 0)
    assert result.stdout == data


def test_rule_3_input_that_is_not_read_is_acknowledged(agent: AgentClient) -> None:
    result = agent.run(["head", "-c", "3"], stdin=b"abcdef" * 50_000)
    assert (result.end, result.stdout) == (("X", 0, 0), b"abc")


def test_rule_4_both_streams_are_whole(agent: AgentClient) -> None:
    script = "head -c 300000 /dev/zero; head -c 200001 /dev/zero >&2"
    result = agent.run([*SHELL, script])
    assert (result.stdout, result.stderr) == (bytes(300_000), bytes(200_001))


def test_rule_5_a_command_that_leaves_a_daemon_ends(agent: AgentClient, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    result = agent.run([*SHELL, f"sleep 1000 & echo $! > {pid}; echo started"])
    os.kill(int(pid.read_text()), signal.SIGKILL)
    assert (result.end, result.stdout) == (("X", 0, 0), b"started\n")


@pytest.mark.parametrize(
    ("argv", "env", "cwd", "error"),
    [
        (["no-such-program"], ["PATH=/usr/bin:/bin"], "", 2),
        (["/no/such/program"], [], "", 2),
        (["/etc/passwd"], [], "", 13),
        (["passwd"], ["PATH=/nowhere:/etc"], "", 13),
        (["sh"], ["PATH=/etc/passwd:/nowhere"], "", 2),
        ([""], [], "", 2),
        (["/bin/sh"], [], "/no/such/directory", 2),
    ],
)
def test_rule_6_what_cannot_be_started(
    agent: AgentClient, argv: list[str], env: list[str], cwd: str, error: int
) -> None:
    result = agent.run(argv, env, cwd)
    assert result.end == ("F", error)
    assert agent.run(["true"]).end == ("X", 0, 0)


def test_rule_6_the_search_goes_through_path_in_order(agent: AgentClient, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        program = tmp_path / name / "which-one"
        program.write_text(f"#!/bin/sh\necho {name}\n")
        program.chmod(0o755)
    long = "/x" * 3000
    path = f"PATH={long}:{tmp_path}/none:{tmp_path}/b:{tmp_path}/a"
    assert agent.run(["which-one"], [path]).stdout == b"b\n"
    assert agent.run(["./which-one"], [], str(tmp_path / "a")).stdout == b"a\n"
    assert agent.run(["true"], []).end == ("X", 0, 0), "without PATH the default is searched"


def test_rule_7_the_environment_is_exactly_what_is_given(agent: AgentClient) -> None:
    result = agent.run(["/usr/bin/env"], ["A=b", "C=d e\n\xff"])
    assert result.stdout == "A=b\nC=d e\n\xff\n".encode()
    assert agent.run(["/usr/bin/env"], []).stdout == b""


def test_the_working_directory(agent: AgentClient) -> None:
    assert agent.run(["/bin/pwd"], cwd="/usr").stdout == b"/usr\n"
    assert agent.run(["/bin/pwd"]).stdout == b"/\n"


def test_rule_2_signals_are_default_and_the_session_is_new(agent: AgentClient) -> None:
    result = agent.run(
        [*SHELL, "grep -E 'SigBlk|SigIgn' /proc/self/status; ps -o sid= -p $$; echo $$"]
    )
    words = result.stdout.split()
    assert words[1] == words[3] == b"0" * 16
    assert words[4] == words[5]


def test_death_by_signal_and_kill(agent: AgentClient) -> None:
    assert agent.run([*SHELL, "kill -9 $$"]).end == ("X", 1, 9)
    number = agent.start(["sleep", "1000"])
    assert agent.receive()[0] == b"S"
    agent.send(b"K", number + 1, struct.pack("<I", 9))  # another id: ignored
    agent.send(b"K", number, struct.pack("<I", 15))
    assert agent.finish(number).end == ("X", 1, 15)


def test_rule_1_one_command_at_a_time(agent: AgentClient) -> None:
    number = agent.start(["cat"])
    assert agent.receive()[:2] == (b"S", number)
    other = agent.start(["true"])
    assert agent.receive() == (b"F", other, struct.pack("<I", 16))
    agent.send(b"I", number)
    assert agent.finish(number).end == ("X", 0, 0)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        struct.pack("<II", 0, 0) + b"\0",
        struct.pack("<II", 1, 0) + b"\0true",
        struct.pack("<II", 2, 0) + b"\0true\0",
        struct.pack("<II", 1, 0) + b"\0true\0more\0",
        struct.pack("<II", 0xFFFFFFFF, 1) + b"\0true\0",
        struct.pack("<II", 1, 5000) + b"\0true\0" + b"A=b\0" * 5000,
    ],
)
def test_a_malformed_run_is_refused(agent: AgentClient, payload: bytes) -> None:
    agent.send(b"R", 500, payload)
    assert agent.receive() == (b"F", 500, struct.pack("<I", 22))
    assert agent.run(["true"]).end == ("X", 0, 0)


def test_frames_may_be_cut_anywhere_and_unknown_ones_are_skipped(agent: AgentClient) -> None:
    payload = struct.pack("<II", 2, 0) + b"\0/bin/echo\0hi\0"
    stream = struct.pack("<cBHI", b"?", 0, 9, 5) + b"other"
    stream += struct.pack("<cBHI", b"R", 0, 9, len(payload)) + payload
    stream += struct.pack("<cBHI", b"I", 0, 9, 0)
    for at in range(len(stream)):
        agent.send_raw(stream[at : at + 1])
    assert agent.finish(9).stdout == b"hi\n"


def test_a_length_that_no_frame_has_ends_the_agent(agent: AgentClient) -> None:
    agent.send_raw(struct.pack("<cBHI", b"I", 0, 1, 65537))
    assert agent.receive() == (b"B", 0, struct.pack("<I", 1))
