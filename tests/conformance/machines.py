"""What the test programs run on: our machine, and the oracles that keep the tests honest."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from asyncvmm.base.errors import GuestError
from asyncvmm.plugin import create_plugin_manager
from asyncvmm.testing.bare_metal import run_bare_metal

RunElf = Callable[[Path, int], tuple[int, bytes]]
"""Runs one ELF with so many harts to its end: the HTIF exit code (0 is pass) and the console's
bytes; TimeoutError if it does not end."""

TIMEOUT_SECONDS = 60.0
MAX_STEPS = 5_000_000
SPIKE_ISA = "rv64imafdc_zicntr_zihpm_zicsr_zifencei_zba_zbb_zbs_zicclsm_svadu"


def asyncvmm() -> RunElf:
    """Ours, with the devices of the installed plugins."""
    types = create_plugin_manager().device_types

    def run(elf: Path, harts: int) -> tuple[int, bytes]:
        try:
            result = run_bare_metal(elf, types=types, harts=harts, max_steps=MAX_STEPS)
        except GuestError as error:
            raise TimeoutError(str(error)) from error
        return result.code, result.console

    return run


def spike() -> RunElf | None:
    """The riscv-isa-sim of the `spike` package, or of PATH."""
    beside = Path(sys.executable).with_name("spike")
    program = str(beside) if beside.exists() else shutil.which("spike")
    return (
        None if program is None else _runner([program, f"--isa={SPIKE_ISA}", "-m64", "-p{harts}"])
    )


def qemu() -> RunElf | None:
    """QEMU's virt board without firmware; the exit status is the code given to the finisher."""
    program = shutil.which("qemu-system-riscv64")
    if program is None:
        return None
    board = ["-M", "virt", "-m", "64M", "-smp", "{harts}", "-bios", "none", "-nographic", "-kernel"]
    return _runner([program, *board])


def _runner(command: list[str]) -> RunElf:
    def run(elf: Path, harts: int) -> tuple[int, bytes]:
        try:
            done = subprocess.run(
                [*(word.replace("{harts}", str(harts)) for word in command), str(elf)],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"{command[0]} did not end: {error.stdout!r}") from error
        return done.returncode, done.stdout + done.stderr

    return run
