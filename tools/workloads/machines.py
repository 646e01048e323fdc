"""Two machines that do a work: ours and QEMU's, each a process whose console is its output."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs

from asyncvmm.api import find_image, image_config
from asyncvmm.base.errors import BackendError
from asyncvmm.plugin.images import ImageCache
from tools.workloads.work import BEGIN, END, MAX_COMMAND_LINE, Work

OURS: Final = "asyncvmm"
QEMU: Final = "qemu"
_PROGRAM: Final = "qemu-system-riscv64"
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


@attrs.frozen
class Spent:
    """Seconds of the process: until the work began, and those of the work."""

    boot_cpu_s: float
    boot_wall_s: float
    cpu_s: float
    wall_s: float


def our_command(work: Work) -> list[str]:
    """``asyncvmm run`` with the work as the image's first program."""
    return [sys.executable, "-m", "asyncvmm", "run", work.image, "--append", work.append()]


def qemu_command(work: Work) -> list[str]:
    """The same files under plain QEMU (TCG). BackendError when it is not installed."""
    program = shutil.which(_PROGRAM)
    if program is None:
        raise BackendError(f"{_PROGRAM} is not installed: nothing to compare with")
    config = image_config(find_image(work.image))
    line = f"{config.append} {work.append()}"
    if len(line) >= MAX_COMMAND_LINE:
        raise BackendError(f"{work.name}: the command line is {len(line)} bytes long")
    command = [program, "-M", "virt", "-m", f"{config.memory >> 20}M", "-nographic"]
    command += ["-kernel", str(config.kernel), "-append", line]
    if config.initrd is not None:
        command += ["-initrd", str(config.initrd)]
    for number, disk in enumerate(config.disks):
        path = str(disk).partition(",")[0]
        command += ["-drive", f"file={path},format=raw,if=none,id=d{number},readonly=on"]
        command += ["-device", f"virtio-blk-device,drive=d{number}"]
    return command


@contextmanager
def cold_cache(work: Work) -> Iterator[dict[str, str]]:
    """The environment of a process of ours that finds all images and nothing translated before."""
    find_image(work.image)
    with tempfile.TemporaryDirectory(prefix="asyncvmm-cold-") as folder:
        cache = ImageCache()
        for place in cache.root.iterdir():
            if cache.manifest(place.name) is not None:
                (Path(folder) / place.name).symlink_to(place)
        yield {**os.environ, "ASYNCVMM_CACHE": folder}


def run(
    command: Sequence[str],
    work: Work,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
) -> Spent:
    """Run to the end. BackendError when the work did not end, or said something else.

    ``environment`` is the process's, this one's unless said.
    """
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        env=environment,
    )
    assert process.stdout is not None and process.stderr is not None
    errors: list[bytes] = []
    reader = threading.Thread(target=lambda: errors.append(process.stderr.read()))  # type: ignore[union-attr]
    reader.start()
    killer = threading.Timer(timeout_s, process.kill)
    killer.start()
    console = b""
    marks: dict[str, tuple[float, float]] = {}
    try:
        while data := process.stdout.read(65536):
            console += data
            for mark in (BEGIN, END):
                if mark not in marks and mark.encode() in console:
                    marks[mark] = (_cpu_s(process.pid), time.perf_counter() - began)
        process.wait()
    finally:
        killer.cancel()
        process.kill()
        reader.join()
    said = console.decode(errors="replace")
    if len(marks) != 2 or work.expected not in said:
        tail = (said + errors[0].decode(errors="replace"))[-600:]
        raise BackendError(f"{command[0]}: {work.name} went wrong: {tail}")
    (boot_cpu, boot_wall), (cpu, wall) = marks[BEGIN], marks[END]
    return Spent(boot_cpu, boot_wall, cpu - boot_cpu, wall - boot_wall)


def _cpu_s(pid: int) -> float:
    """User and system time that a process of this machine has taken so far, to a clock tick."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_S


COMMANDS: Final[dict[str, Callable[[Work], list[str]]]] = {OURS: our_command, QEMU: qemu_command}
