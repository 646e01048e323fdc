"""Wrong input: the message names what is wrong, exit code 2, never a traceback."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

import pytest

from asyncvmm.cli import main
from asyncvmm.testing import assemble, to_elf

POWER_OFF = """
_start: li t0, 0x100000
        li t1, 0x5555
        sw t1, 0(t0)
        j _start
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A bare-metal ELF that ends at once."""
    path = tmp_path / "program.elf"
    path.write_bytes(to_elf(assemble(POWER_OFF, 0x80000000)))
    return path


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """What is said about a command line that is refused with 2."""
    try:
        status: object = main([str(argument) for argument in arguments])
    except SystemExit as exit:  # argparse's own way
        status = exit.code
    shown = capsys.readouterr()
    assert status == 2, shown.err
    assert shown.out == ""
    assert "Traceback" not in shown.err
    return shown.err


def test_the_program_itself_is_fine(program: Path) -> None:
    assert main(["run", str(program)]) == 0


@pytest.mark.parametrize("length", [0, 1, 5, 20, 63, 64, 80, 119])
def test_a_truncated_elf(program: Path, capsys: pytest.CaptureFixture[str], length: int) -> None:
    program.write_bytes(program.read_bytes()[:length])
    said = complaint(capsys, "run", program)
    assert str(program) in said


@pytest.mark.parametrize(
    ("offset", "field"),
    [
        (4, b"\x01"),  # 32 bits
        (5, b"\x02"),  # big-endian
        (18, struct.pack("<H", 62)),  # another machine
        (32, struct.pack("<Q", 1 << 62)),  # program headers beyond the end
        (54, struct.pack("<H", 3)),  # their size
        (56, struct.pack("<H", 0xFFFF)),  # their number
        (64 + 8, struct.pack("<Q", 1 << 40)),  # a segment's place in the file
        (64 + 24, struct.pack("<Q", 0x1000)),  # its address: not RAM
        (64 + 32, struct.pack("<Q", 1 << 60)),  # its size in the file
        (64 + 40, struct.pack("<Q", 1 << 60)),  # its size in memory
    ],
)
def test_a_lying_elf(
    program: Path, capsys: pytest.CaptureFixture[str], offset: int, field: bytes
) -> None:
    data = bytearray(program.read_bytes())
    data[offset : offset + len(field)] = field
    program.write_bytes(data)
    assert str(program) in complaint(capsys, "run", program)


@pytest.mark.parametrize("option", ["--kernel", "--initrd", "--firmware"])
@pytest.mark.parametrize("kind", ["missing", "directory", "empty"])
def test_boot_files_that_cannot_be_read(
    tmp_path: Path, program: Path, capsys: pytest.CaptureFixture[str], option: str, kind: str
) -> None:
    path = tmp_path / kind
    if kind == "directory":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    others = ["--kernel", str(program)] if option == "--initrd" else []
    said = complaint(capsys, "run", option, path, *others)
    cause = {"missing": "No such file", "directory": "is a directory", "empty": "empty"}[kind]
    assert str(path) in said and cause in said


@pytest.mark.parametrize("data", [b"\x1f\x8b\x08\0" + bytes(100), b"MZ" + bytes(10), bytes(30)])
def test_kernels_that_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: bytes
) -> None:
    kernel = tmp_path / "Image"
    kernel.write_bytes(data)
    said = complaint(capsys, "run", "--kernel", kernel)
    assert str(kernel) in said
    if data.startswith(b"\x1f\x8b"):
        assert "gzip" in said


def test_a_target_that_is_not_there_or_no_program(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing.elf"
    said = complaint(capsys, "run", missing)
    assert str(missing) in said and "No such file" in said
    assert "directory" in complaint(capsys, "run", f"{tmp_path}/")
    text = tmp_path / "text"
    text.write_text("#!/bin/sh\n")
    assert "not an ELF" in complaint(capsys, "run", text)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_target_that_may_not_be_read(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program.chmod(stat.S_IWUSR)
    said = complaint(capsys, "run", program)
    assert str(program) in said and "Permission denied" in said


def test_disks(tmp_path: Path, program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = tmp_path / "odd.img"
    odd.write_bytes(bytes(1000))
    said = complaint(capsys, "run", program, "--disk", odd)
    assert str(odd) in said and "512" in said
    missing = tmp_path / "missing.img"
    said = complaint(capsys, "run", program, "--disk", f"{missing},readonly")
    assert str(missing) in said and "No such file" in said
    assert str(tmp_path) in complaint(capsys, "run", program, "--disk", tmp_path)
    assert "path" in complaint(capsys, "run", program, "--disk", "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--device", "virtio-rgn"], ["virtio-rgn", "virtio-rng"]),
        (["--device", "virtio-blk,pth=x"], ["pth", "path"]),
        (["--device", ""], ["device"]),
        (["--memory", "lots"], ["lots", "128M"]),
        (["--memory", "1K"], ["memory"]),
        (["--memory", "-1G"], ["memory"]),
        (["--memory", "9999G"], ["memory"]),
        (["--harts", "0"], ["harts", "1 to"]),
        (["--harts", "two"], ["--harts", "two"]),
        (["--seed", "-1"], ["seed"]),
        (["--seed", str(1 << 64)], ["seed"]),
        (["--clock", "sundial"], ["--clock", "sundial"]),
        (["--timeout", "0"], ["--timeout"]),
        (["--timeout", "nan"], ["--timeout"]),
        (["--max-instructions", "0"], ["--max-instructions"]),
        (["--until", ""], ["--until"]),
        (["--log", "/nowhere/log"], ["--log", "/nowhere/log", "No such file"]),
        (["--kernel", "Image"], ["--kernel"]),
        (["--firmware", "fw.bin"], ["--firmware"]),
        (["--until", "x", "--", "true"], ["--until"]),
        (["--"], ["after --"]),
        (["--", "true"], ["runs no commands"]),
        (["--no-such-option"], ["--no-such-option"]),
        (["--alow", "x"], ["asyncvmm run: error: no option --alow: did you mean '--allow'?"]),
        (["--alow=x"], ["no option --alow: did you mean '--allow'?"]),
        (["more", "words"], ["unrecognized arguments: more words"]),
        (["-p", "8080:80", "-p", "8080:81"], ["-p: port 8080 of 127.0.0.1 is forwarded twice"]),
        (["--allow", "300.1.1.1"], ["'300.1.1.1' is neither a name, an address nor a network"]),
        (["--net", "lan,mac=zz"], ["virtio-net: mac: 'zz' is not a MAC address such as"]),
    ],
)
def test_options(
    program: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: list[str]
) -> None:
    said = complaint(capsys, "run", program, *words)
    for text in expected:
        assert text in said


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "COMMAND"),
        (["rum"], "rum"),
        (["run"], "nothing to run"),
        (["run", "debain"], "debian"),
        (["run", "--initrd", "x"], "nothing to run"),
        (["image", "path", "lunix"], "linux"),
        (["image", "frobnicate"], "frobnicate"),
        (["image", "list", "--", "x"], "no guest command"),
        (["dtb", "--harts", "0"], "harts"),
        (["dtb", "--device", "virtio-rgn"], "virtio-rng"),
        (["dtb", "-o", "/nowhere/x.dtb"], "/nowhere/x.dtb"),
        (["bench", "mixx"], "mix"),
    ],
)
def test_command_lines(capsys: pytest.CaptureFixture[str], words: list[str], expected: str) -> None:
    assert expected in complaint(capsys, *words)
