"""``asyncvmm dtb``: dtc reads the tree without a warning."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from asyncvmm.cli import main


@pytest.mark.oracle
@pytest.mark.skipif(shutil.which("dtc") is None, reason="dtc is not installed")
@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--harts", "4", "--memory", "2G", "--append", 'a="b c" \\'],
        ["--device", "virtio-rng", "--device", "virtio-console,ports=one"],
    ],
)
def test_dtc_reads_it_without_warnings(tmp_path: Path, words: list[str]) -> None:
    blob = tmp_path / "board.dtb"
    assert main(["dtb", "-o", str(blob), *words]) == 0
    done = subprocess.run(
        ["dtc", "-I", "dtb", "-O", "dts", str(blob)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert 'compatible = "riscv-virtio"' in done.stdout
    harts = int(words[1]) if "--harts" in words else 1
    assert done.stdout.count('device_type = "cpu"') == harts


def test_standard_output_is_the_blob(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    blob = tmp_path / "board.dtb"
    assert main(["dtb", "-o", str(blob)]) == 0
    assert main(["dtb"]) == 0
    assert capfdbinary.readouterr().out == blob.read_bytes()
    assert blob.read_bytes().startswith(b"\xd0\x0d\xfe\xed")


def test_source_is_text_that_shows_a_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dtb", "--source", "--device", "virtio-rng"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("/dts-v1/;") and "virtio_mmio@10001000 {" in text
