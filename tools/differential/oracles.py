"""Runs an ELF on an engine of ours, Spike and QEMU, and fetches a range of its memory afterwards."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from asyncvmm.arch.code import CodeCache
from asyncvmm.arch.coherence import Coherence
from asyncvmm.arch.hart import Hart
from asyncvmm.arch.mmu import update_context
from asyncvmm.bus.address_map import Bus, MmioTarget
from asyncvmm.engine.interpreter import Engine, Interpreter
from asyncvmm.firmware.elf import parse_elf
from asyncvmm.memory.pages import Ram
from tools.differential.signature import BASE, FINISHER, MEMORY_MIB

Runner = Callable[[bytes, int, int, Path], bytes]
"""(ELF, address, size in bytes, a directory for files) to the memory there at the program's end."""

TIMEOUT_SECONDS: Final = 120.0
MAX_STEPS: Final = 200_000_000
SPIKE_ISA: Final = "rv64imafdc_zicntr_zicsr_zifencei_zba_zbb_zbs_zicclsm_svadu"
QEMU_CPU: Final = (
    "rv64,h=false,zba=true,zbb=true,zbc=false,zbs=true,sstc=false,svpbmt=false,svnapot=false"
)


class _Finisher(MmioTarget):
    """Stops the hart at the first store."""

    def __init__(self) -> None:
        super().__init__()
        self.hart: Hart | None = None

    def write(self, offset: int, size: int, value: int) -> None:
        """Any store ends the run."""
        assert self.hart is not None
        self.hart.stop = True


def run_interpreter(elf: bytes, address: int, size: int, directory: Path) -> bytes:
    """Our own machine with the interpreter."""
    return run_engine(Interpreter(), elf, address, size)


def run_engine(engine: Engine, elf: bytes, address: int, size: int) -> bytes:
    """Our own machine: RAM and the finisher."""
    ram = Ram(BASE, MEMORY_MIB << 20)
    bus = Bus()
    code = CodeCache()
    hart = Hart(0, ram, bus, code)
    Coherence(ram, code).add(hart)
    finisher = _Finisher()
    finisher.hart = hart
    bus.attach(FINISHER, 0x1000, finisher, "finisher")
    parsed = parse_elf(elf, "image")
    for segment in parsed.segments:
        ram.write(segment.address, segment.data)
    hart.pc = parsed.entry
    update_context(hart)
    while not hart.stop:
        engine.run(hart, 1_000_003)
        if hart.steps > MAX_STEPS:
            raise TimeoutError(
                f"no end after {MAX_STEPS} steps: pc {hart.pc:#x}, mepc {hart.mepc:#x}, "
                f"mcause {hart.mcause}, mtval {hart.mtval:#x}"
            )
    return ram.read(address, size)


def spike_path() -> str | None:
    """The executable inside the `spike` package, or one of PATH."""
    package = importlib.util.find_spec("riscv")
    for place in package.submodule_search_locations or () if package is not None else ():
        inside = Path(place) / "data" / "bin" / "spike"
        if inside.exists():
            return str(inside)
    return shutil.which("spike")


def run_spike(elf: bytes, address: int, size: int, directory: Path) -> bytes:
    """Spike: its own signature file, between begin_signature and end_signature."""
    program = spike_path()
    assert program is not None
    path = directory / "image.elf"
    path.write_bytes(elf)
    out = directory / "spike.signature"
    command = [
        program, f"--isa={SPIKE_ISA}", f"-m{MEMORY_MIB}", f"+signature={out}",
        "+signature-granularity=8", str(path),
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=TIMEOUT_SECONDS, stdin=subprocess.DEVNULL)
    words = out.read_text().split()
    return b"".join(bytes.fromhex(word)[::-1] for word in words)


def qemu_path() -> str | None:
    """qemu-system-riscv64 of PATH."""
    return shutil.which("qemu-system-riscv64")


def run_qemu(elf: bytes, address: int, size: int, directory: Path) -> bytes:
    """QEMU's virt board, kept after the finisher's store until its memory has been saved."""
    program = qemu_path()
    assert program is not None
    path = directory / "image.elf"
    path.write_bytes(elf)
    out = directory / "qemu.memory"
    command = [
        program, "-M", "virt", "-cpu", QEMU_CPU, "-m", f"{MEMORY_MIB}M", "-bios", "none",
        "-display", "none", "-serial", "none", "-monitor", "none", "-qmp", "stdio",
        "-S", "-action", "reboot=shutdown,shutdown=pause", "-kernel", str(path),
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdin is not None and process.stdout is not None
            for command_name in ("qmp_capabilities", "cont"):
                _say(process.stdin.fileno(), {"execute": command_name})
            for line in process.stdout:
                message = json.loads(line)
                if message.get("event") == "STOP":
                    arguments = {"val": address, "size": size, "filename": str(out)}
                    _say(
                        process.stdin.fileno(),
                        {"execute": "pmemsave", "arguments": arguments, "id": "save"},
                    )
                elif message.get("id") == "save":
                    if "error" in message:
                        raise RuntimeError(message["error"]["desc"])
                    break
        finally:
            process.kill()
    return out.read_bytes()


def _say(file: int, message: dict[str, object]) -> None:
    os.write(file, json.dumps(message).encode() + b"\n")


def available() -> dict[str, Runner]:
    """The oracles that are installed, by name."""
    found: dict[str, Runner] = {}
    if spike_path() is not None:
        found["spike"] = run_spike
    if qemu_path() is not None:
        found["qemu"] = run_qemu
    return found
