"""``asyncvmm bench``: its options, its table, its JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from asyncvmm.base.errors import ConfigError
from asyncvmm.cli import bench as command
from asyncvmm.testing import bench
from asyncvmm.testing.bench import Run
from asyncvmm.testing.bench_build import Kernel


@pytest.fixture
def parser(monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """The command's parser; `build` gives a name where a compiler would have given an ELF."""

    def build(kernel: Kernel, paging: str = "bare", **_: object) -> Path:
        return Path(f"{kernel.name}-{paging}")

    monkeypatch.setattr(bench, "build", build)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser


def run_elf(elf: Path) -> Run:
    name = elf.name.split("-")[0].encode()
    report = b"bench " + name + b" checksum=%016x kernel=7 total=8" % 5
    return Run(8_000_000, 0.5, report)


def test_table_and_json(
    parser: argparse.ArgumentParser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rows.json"
    given = parser.parse_args(["mix", "sort", "--no-qemu", "--paging", "sv39", "--json", str(path)])
    assert command.run(given, run_elf) == 0
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in table[1:]] == [
        ["mix", "sv39", "8.0", "16"],
        ["sort", "sv39", "8.0", "16"],
    ]
    rows = json.loads(path.read_text())
    assert [(row["kernel"], row["mips"]) for row in rows] == [
        ("mix", {"asyncvmm": 16.0}),
        ("sort", {"asyncvmm": 16.0}),
    ]


def test_an_unknown_kernel_is_an_error(parser: argparse.ArgumentParser) -> None:
    with pytest.raises(ConfigError, match="no benchmark 'mixx'"):
        command.run(parser.parse_args(["mixx"]), run_elf)


@pytest.mark.parametrize("words", [["--runs", "0"], ["--runs", "x"], ["--paging", "sv48"]])
def test_a_wrong_option_ends_with_status_2(
    parser: argparse.ArgumentParser, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(words)
    assert caught.value.code == 2
    assert words[0] in capsys.readouterr().err
