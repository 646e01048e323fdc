"""F and D arithmetic against QEMU's user emulator: a short run of tools/softfloat_campaign."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
QEMU = shutil.which("qemu-riscv64-static") or shutil.which("qemu-riscv64")
COMPILER = shutil.which("riscv64-linux-gnu-gcc") or importlib.util.find_spec("ziglang")


@pytest.mark.oracle
@pytest.mark.skipif(QEMU is None, reason="qemu-riscv64-static is not installed")
@pytest.mark.skipif(COMPILER is None, reason="no riscv64 cross-compiler")
def test_every_operation_gives_qemus_results_and_flags() -> None:
    command = [sys.executable, "-m", "tools.softfloat_campaign", "--count", "84000", "--reference"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "84000 vectors of 42 operations, seed 1, 0 mismatches" in done.stdout
