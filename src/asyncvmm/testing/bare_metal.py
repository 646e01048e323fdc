"""Running a bare-metal program to its end, without an event loop or a folder of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from asyncvmm.base.errors import GuestError
from asyncvmm.machine import RAN_IDLE, GuestConfig, Machine, read_boot_files
from asyncvmm.plugin import DeviceType

SLICE_STEPS = 50_000_000


@attrs.frozen
class BareMetalResult:
    """What a program came to: its exit code (HTIF or test finisher; 0 is success), its console
    output, instructions retired, and the CPU seconds of this process while it ran."""

    code: int
    console: bytes
    instructions: int
    cpu_seconds: float


def run_bare_metal(
    elf: Path,
    *,
    types: Mapping[str, DeviceType] | None = None,
    memory_bytes: int = 64 << 20,
    harts: int = 1,
    max_steps: int = 10_000_000_000,
    engine: str = "auto",
    devices: Sequence[str] = (),
) -> BareMetalResult:
    """Run the ELF in M-mode on a machine of its own, with the standard devices in `types` and those
    of `devices` (``name,option=value``).

    Raises GuestError when it waits for what cannot come, or has not ended after `max_steps`
    instructions and traps; ConfigError for a file that is no RISC-V program.
    """
    config = GuestConfig.from_mapping(
        {
            "elf": elf,
            "memory": memory_bytes,
            "harts": harts,
            "engine": engine,
            "devices": tuple(devices),
        }
    )
    machine = Machine(config, read_boot_files(config), types or {})
    console = bytearray()
    left = max_steps
    started = time.process_time()
    while machine.ending is None:
        if left <= 0:
            raise GuestError(f"{elf.name} has not ended after {max_steps} steps{_said(console)}")
        steps = min(left, SLICE_STEPS)
        reason = machine.run(max_steps=steps)
        left -= steps
        console += machine.console.take_output()
        if reason == RAN_IDLE:
            raise GuestError(f"{elf.name} waits for ever{_said(console)}")
    spent = time.process_time() - started
    return BareMetalResult(machine.ending.code, bytes(console), machine.stats().instructions, spent)


def _said(console: bytearray) -> str:
    text = console[-200:].decode(errors="replace").strip()
    return f"; it said {text!r}" if text else ""
