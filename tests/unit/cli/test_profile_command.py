"""``asyncvmm profile`` on a bare-metal program: tables, JSON, flame graph lines, wrong input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asyncvmm.cli import main
from asyncvmm.testing import assemble, to_elf

SPIN = """
_start: li   t2, 0x10000000
        li   t3, 'h'
        sb   t3, 0(t2)
        call busy
        li   t0, 0x100000
        li   t1, 0x5555
        sw   t1, 0(t0)
        j    .
busy:   li   t0, 20000
1:      addi t0, t0, -1
        bnez t0, 1b
        ret
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    """An ELF that says "h", spends 40,000 instructions in ``busy`` and ends."""
    path = tmp_path / "spin.elf"
    path.write_bytes(to_elf(assemble(SPIN, 0x80000000)))
    return str(path)


def test_tables(program: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", program, "--period", "100"]) == 0
    shown = capfd.readouterr()
    assert "400 samples, one every 100 steps" in shown.out
    assert "PRIVILEGE\n       400  100.00" in shown.out
    lines = [line.split() for line in shown.out.splitlines()]
    assert ["400", "100.00", "busy"] in [[*line[:2], line[-1]] for line in lines if line]
    assert shown.err.startswith("h")  # the guest's console


def test_json_symbols_and_flame_graph(
    program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    symbols, flames = tmp_path / "System.map", tmp_path / "flames"
    assert main(["profile", "--elf", program, "--json", "--period", "200"]) == 0
    made = json.loads(capfd.readouterr().out)
    assert (made["period"], made["samples"]) == (200, 200)
    assert [row["name"] for row in made["symbols"]] == ["busy"]
    busy = assemble(SPIN, 0x80000000).symbols["busy"]
    symbols.write_text(f"{busy - 0x1000:016x} T better_name\n")
    words = ["--symbols", f"{symbols}@0x1000", "--collapsed", str(flames), "--json"]
    assert main(["profile", "--elf", program, "--engine", "interpreter", *words]) == 0
    made = json.loads(capfd.readouterr().out)
    assert [row["name"] for row in made["symbols"]] == ["better_name"]
    assert flames.read_text() == "machine;interpreter;better_name 1\n"


def test_a_run_without_a_sample_says_so(program: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", program, "--period", "1000000"]) == 0
    assert "0 samples" in (out := capfd.readouterr().out) and "smaller --period" in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--period", "0"], "--period must be"),
        (["--top", "0"], "--top must be positive"),
        (["--symbols", "/no/such/file"], "/no/such/file: No such file"),
        (["--elf", "other.elf"], "--elf does not go with"),
        (["--timeout", "-1"], "--timeout must be positive"),
        (["--", "true"], "runs no commands"),
    ],
)
def test_wrong_input(
    program: str, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", program, *words]) == 2
    shown = capsys.readouterr()
    assert says in shown.err and shown.out == ""
