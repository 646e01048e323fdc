"""``asyncvmm bench``: guest instructions per CPU second, beside QEMU's when that is installed.

``bench scale`` is in ``bench_scale.py``, ``bench net`` and ``bench disk`` in ``bench_peers.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from asyncvmm.base.errors import GuestError
from asyncvmm.cli import bench_peers, bench_scale
from asyncvmm.plugin import create_plugin_manager
from asyncvmm.testing.bare_metal import run_bare_metal
from asyncvmm.testing.bench import (
    Machine,
    Row,
    Run,
    RunElf,
    format_table,
    measure,
    qemu_machine,
    to_json,
)
from asyncvmm.testing.bench_build import KERNELS, PAGINGS, kernel_named

OURS = "asyncvmm"
EPILOG = """\
examples:
  asyncvmm bench                             all kernels, with and without paging
  asyncvmm bench mix nbody --runs 5 --no-qemu
  asyncvmm bench scale                       64 busy guests, the host's own time, 200 idle Linux
  asyncvmm bench scale --part busy --busy 16 --cpus 1
  asyncvmm bench scale --part idle --idle 20 --hours 24 --json scale.json
  asyncvmm bench net                         guest to guest, guest and host: MB/s, requests/s
  asyncvmm bench disk --runs 1               sequential and 4 KiB random
"""


def add_parser(commands: Any) -> None:
    """Declare the command on the parser of all commands."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "bench",
        help="measure instructions per second",
        description="Guest instructions per CPU second (MIPS) on benchmarks of our own, in turn "
        "with QEMU's when it is installed. Needs a RISC-V C compiler: the bench extra brings one.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.set_defaults(function=_run)


def _run(given: argparse.Namespace) -> int:
    if bench_scale.NAME in given.kernels:
        return bench_scale.run(given)
    if set(bench_peers.NAMES) & set(given.kernels):
        return bench_peers.run(given)
    return run(given, our_machine(given.engine))


def our_machine(engine: str = "auto") -> RunElf:
    """Runs ELFs on a machine in this process, with the devices of the installed plugins.

    ``cpu_seconds`` are those of the process: translation is in them.
    """
    types = create_plugin_manager().device_types

    def run_elf(elf: Path) -> Run:
        result = run_bare_metal(elf, types=types, engine=engine)
        if result.code != 0:
            raise GuestError(f"{elf.name} ended with code {result.code}: {result.console!r}")
        return Run(result.instructions, result.cpu_seconds, result.console)

    return run_elf


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options on its parser."""
    known = ", ".join(kernel.name for kernel in KERNELS)
    parser.add_argument(
        "kernels",
        nargs="*",
        metavar="KERNEL",
        help=f"of {known}; default all; or: scale, net, disk",
    )
    parser.add_argument("--runs", type=_positive, default=3, help="median of so many (default 3)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="work per run; 1 is 140 million instructions"
    )
    parser.add_argument("--paging", choices=PAGINGS, action="append", help="default both")
    parser.add_argument(
        "--engine", choices=["auto", "interpreter", "jit"], default="auto", help="of ours"
    )
    parser.add_argument("--no-qemu", action="store_true", help="measure ours alone")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the results there as well")
    bench_scale.add_arguments(parser)
    bench_peers.add_arguments(parser)


def run(given: argparse.Namespace, run_elf: RunElf) -> int:
    """Measure what `given` asks for, `run_elf` being ours, and print the table to stdout.

    A line per finished kernel goes to stderr. Raises ConfigError for an unknown kernel or a missing
    compiler, BackendError when machines disagree.
    """
    kernels = [kernel_named(name) for name in given.kernels] or KERNELS
    pagings = list(dict.fromkeys(given.paging or PAGINGS))
    machines = [Machine(OURS, run_elf)]
    reference = None
    if not given.no_qemu:
        peers = [machine for icount in (True, False) if (machine := qemu_machine(icount))]
        if peers:
            reference = peers[0].name
        else:
            print("qemu-system-riscv64 is not installed: no reference", file=sys.stderr)
        machines += peers
    rows: list[Row] = []
    for row in measure(
        machines, kernels=kernels, pagings=pagings, runs=given.runs, scale=given.scale
    ):
        rows.append(row)
        speeds = ", ".join(f"{name} {mips:.0f}" for name, mips in row.mips.items())
        print(f"{row.kernel} {row.paging}: MIPS {speeds}", file=sys.stderr)
    print(format_table(rows, ours=OURS, reference=reference))
    if given.json is not None:
        given.json.write_text(json.dumps(to_json(rows), indent=2) + "\n")
    return 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return number
