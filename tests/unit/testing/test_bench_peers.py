"""``bench net`` and ``bench disk``: results, the shell on a console, wrong words."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.cli import bench as command
from asyncvmm.cli import bench_peers
from asyncvmm.testing.bench_peers import OURS, PEER, Results, Task
from asyncvmm.testing.bench_shells import Shell

READ = Task("read", 100, "MB")
ASK = Task("ask", 1000, "requests")


def test_rates_are_those_of_the_median_run() -> None:
    results = Results()
    for machine, runs in ((OURS, (1.0, 9.0, 2.0)), (PEER, (4.0, 4.0, 1.0))):
        for seconds in runs:
            results.add(machine, READ, seconds)
    results.add(OURS, ASK, 0.5)
    assert [line.split() for line in results.table().splitlines()] == [
        ["task", "unit", "asyncvmm", "qemu", "times"],
        ["read", "MB/s", "50.0", "25.0", "2.00"],
        ["ask", "requests/s", "2000.0", "-", "-"],
    ]
    first, second = json.loads(json.dumps(results.to_json()))
    assert (first["times"], first["seconds"][PEER]) == (2.0, [4.0, 4.0, 1.0])
    assert (second[OURS], second[PEER], second["times"]) == (2000.0, None, None)


class Terminal:
    """Says what it is told to say, in pieces, whenever something is typed."""

    def __init__(self, *answers: Iterable[bytes]) -> None:
        self.typed: list[bytes] = []
        self._answers = list(answers)
        self._said: list[bytes] = [b"boot\r\n/ ", b"# "]

    async def send(self, data: bytes) -> None:
        self.typed.append(data)
        self._said += self._answers.pop(0)

    async def receive(self) -> bytes:
        return self._said.pop(0) if self._said else b""


async def test_a_command_is_over_at_its_marker_and_not_at_its_echo() -> None:
    typed = b'true; echo "<"web-1:$?">"\n'
    terminal = Terminal([typed, b"\r\n<we", b"b-1:0", b">\r\n/ # "], [b"x <web-2:0>"])
    shell = Shell("web", terminal.send, terminal.receive, "# ")
    await shell.ready()
    assert await shell.run("true") >= 0
    assert terminal.typed == [typed]
    assert await shell.run("false") >= 0


@pytest.mark.parametrize(
    ("answer", "said"),
    [([b"no such file\r\n<web-1:2>"], "no such file"), ([b"Kernel panic"], "Kernel panic")],
)
async def test_a_command_that_fails_says_why(answer: list[bytes], said: str) -> None:
    terminal = Terminal(answer)
    shell = Shell("web", terminal.send, terminal.receive, "# ")
    await shell.ready()
    with pytest.raises(BackendError, match=said):
        await shell.run("cat nothing")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["net", "mix"], "benchmark of its own"),
        (["mix", "disk"], "benchmark of its own"),
        (["disk", "--folder", "/nowhere"], "/nowhere"),
    ],
)
def test_wrong_words(words: list[str], said: str) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    with pytest.raises(ConfigError, match=said):
        bench_peers.run(parser.parse_args(words))


def test_results_go_to_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def measure(image: object, **options: object) -> Results:
        results = Results()
        results.add(OURS, READ, float(str(options["runs"])))
        return results

    monkeypatch.setattr(bench_peers, "measure_disk", measure)
    monkeypatch.setattr(bench_peers.image_command, "ensure", lambda image, cache: None)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    path = tmp_path / "disk.json"
    words = ["disk", "--runs", "2", "--no-qemu", "--json", str(path)]
    assert bench_peers.run(parser.parse_args(words)) == 0
    assert "50.0" in capsys.readouterr().out
    assert json.loads(path.read_text())[0][OURS] == 50.0
