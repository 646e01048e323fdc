"""Guest instructions per CPU second of several machines on the same ELFs, taken in turn.

A machine is a name and a callable that runs one ELF to its end (:data:`RunElf`). QEMU is one when
it is installed; the caller brings ours. Runs alternate between the machines, so that a slow spell
of the host hits all of them alike, and each figure is a median.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import statistics
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from asyncvmm.base.errors import BackendError
from asyncvmm.testing.bench_build import EMPTY, KERNELS, PAGINGS, Kernel, Paging, build

QEMU: Final = "qemu-system-riscv64"
_REPORT: Final = re.compile(
    rb"bench (?P<kernel>\w+) checksum=(?P<checksum>[0-9a-f]{16}) "
    rb"kernel=(?P<measured>\d+) total=(?P<total>\d+)"
)


@attrs.frozen
class Run:
    """One ELF run to its end: instructions retired (None if the machine cannot tell exactly), user
    and system CPU seconds, and the bytes of the console."""

    instructions: int | None
    cpu_seconds: float
    console: bytes


RunElf = Callable[[Path], Run]


@attrs.frozen
class Machine:
    """Something that runs ELFs. `process` marks one that starts a process per run: the cost of an
    empty guest is then taken off its CPU time."""

    name: str
    run: RunElf
    process: bool = False


@attrs.frozen
class Report:
    """The line that a benchmark guest prints.

    `measured` counts the instructions of the kernel, `total` those since entry; both mean what they
    say only on a machine whose `instret` is exact (QEMU's is with -icount only).
    """

    kernel: str
    checksum: str
    measured: int
    total: int


@attrs.frozen
class Row:
    """A kernel's result: MIPS by machine, in the order of the machines; NaN if it was over too soon
    to be measured (raise the scale)."""

    kernel: str
    paging: Paging
    checksum: str
    instructions: int
    mips: Mapping[str, float]


def parse_report(console: bytes) -> Report:
    """The report in a guest's console output; BackendError when there is none."""
    found = _REPORT.search(console)
    if found is None:
        tail = console[-200:].decode(errors="replace")
        raise BackendError(f"the benchmark guest printed no report but {tail!r}")
    return Report(
        found["kernel"].decode(),
        found["checksum"].decode(),
        int(found["measured"]),
        int(found["total"]),
    )


def qemu_machine(icount: bool, timeout_seconds: float = 600.0) -> Machine | None:
    """QEMU's virt board, with `-icount shift=0` (deterministic) or plain; None if not installed."""
    program = shutil.which(QEMU)
    if program is None:
        return None
    options = ["-icount", "shift=0"] if icount else []

    def run(elf: Path) -> Run:
        command = [program, "-M", "virt", "-bios", "none", "-nographic", *options]
        cpu_seconds, console = _timed([*command, "-kernel", str(elf)], timeout_seconds)
        return Run(parse_report(console).total if icount else None, cpu_seconds, console)

    return Machine("qemu icount" if icount else "qemu", run, process=True)


def measure(
    machines: Sequence[Machine],
    *,
    kernels: Sequence[Kernel] = KERNELS,
    pagings: Sequence[Paging] = PAGINGS,
    runs: int = 3,
    scale: float = 1.0,
    cache: Path | None = None,
) -> Iterator[Row]:
    """Run every kernel on every machine in turn, `runs` times, and yield its row when it is done.

    Raises BackendError when two machines disagree about a checksum, or when none of them counts
    instructions.
    """
    start = _start_costs(machines, runs, cache)
    for kernel in kernels:
        for paging in pagings:
            elf = build(kernel, paging, rounds=kernel.scaled(scale), cache=cache)
            done: dict[str, list[Run]] = {machine.name: [] for machine in machines}
            for _ in range(runs):
                for machine in machines:
                    done[machine.name].append(machine.run(elf))
            yield _row(kernel, paging, done, start)


def format_table(rows: Sequence[Row], *, ours: str | None, reference: str | None) -> str:
    """The rows as text, with a column for `ours` over `reference` when both were measured."""
    if not rows:
        return ""
    names = list(rows[0].mips)
    ratio = ours in names and reference in names
    heads = ["kernel", "paging", "M instr", *(f"{name} MIPS" for name in names)]
    if ratio:
        heads.append(f"{ours} / {reference}")
    lines = [heads]
    for row in rows:
        cells = [row.kernel, row.paging, f"{row.instructions / 1e6:.1f}"]
        cells += [f"{row.mips[name]:.0f}" for name in names]
        if ours is not None and reference is not None and ratio:
            cells.append(f"{row.mips[ours] / row.mips[reference]:.3f}")
        lines.append(cells)
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def to_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as plain values for ``json.dump``; MIPS are floats by machine name."""
    return [attrs.asdict(row) for row in rows]


def _start_costs(machines: Sequence[Machine], runs: int, cache: Path | None) -> dict[str, float]:
    """CPU seconds that each process machine spends on an empty guest, as a median."""
    if not any(machine.process for machine in machines):
        return {}
    elf = build(EMPTY, cache=cache)
    return {
        machine.name: statistics.median(machine.run(elf).cpu_seconds for _ in range(max(runs, 3)))
        for machine in machines
        if machine.process
    }


def _row(
    kernel: Kernel, paging: Paging, done: Mapping[str, Sequence[Run]], start: Mapping[str, float]
) -> Row:
    checksums = {
        name: {parse_report(run.console).checksum for run in runs} for name, runs in done.items()
    }
    different = set().union(*checksums.values())
    if len(different) != 1:
        seen = ", ".join(f"{name}: {'/'.join(sorted(sums))}" for name, sums in checksums.items())
        raise BackendError(f"{kernel.name} ({paging}) gave different checksums: {seen}")
    counts = [run.instructions for runs in done.values() for run in runs]
    counted = next((count for count in counts if count is not None), None)
    if counted is None:
        raise BackendError("no machine here counts instructions: add QEMU with icount, or ours")
    mips = {}
    for name, runs in done.items():
        begin = start.get(name, 0.0)
        seconds = statistics.median(run.cpu_seconds for run in runs) - begin
        measurable = seconds > begin / 4  # else it is the noise of starting that is measured
        mips[name] = counted / seconds / 1e6 if measurable and seconds > 0 else math.nan
    return Row(kernel.name, paging, different.pop(), counted, mips)


def _timed(command: Sequence[str], timeout_seconds: float) -> tuple[float, bytes]:
    """Run a command to its end: its user and system seconds, and its output."""
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        watchdog = threading.Timer(timeout_seconds, child.kill)
        watchdog.start()
        try:
            _, status, usage = os.wait4(child.pid, 0)
        finally:
            watchdog.cancel()
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        console = output.read()
    if child.returncode != 0:
        tail = console[-300:].decode(errors="replace")
        raise BackendError(f"{command[0]} ended with status {child.returncode}: {tail}")
    return usage.ru_utime + usage.ru_stime, console
