"""``asyncvmm bench net`` and ``asyncvmm bench disk``: networks and disks in turn with QEMU's."""

from __future__ import annotations

import argparse
import functools
import json
import sys
from pathlib import Path
from typing import Final

import trio

from asyncvmm.api.images import find_image
from asyncvmm.base.errors import ConfigError
from asyncvmm.cli import image as image_command
from asyncvmm.cli.groups import only_error
from asyncvmm.plugin import create_plugin_manager
from asyncvmm.plugin.images import ImageCache
from asyncvmm.testing.bench_disk import measure_disk
from asyncvmm.testing.bench_net import PARTS, measure_net
from asyncvmm.testing.bench_peers import Results, Task
from asyncvmm.testing.bench_shells import find_qemu

NET: Final = "net"
DISK: Final = "disk"
NAMES: Final = (NET, DISK)
SYSTEM: Final = "debian-root"  # it has nginx, curl, Python and coreutils


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``bench net`` and ``bench disk`` in a group of their own."""
    group = parser.add_argument_group(
        "net and disk",
        "`bench net` measures guest to guest and between guest and host, `bench disk` a raw image: "
        f"{SYSTEM} on asyncvmm and on QEMU in turn (`-netdev user`, `cache=none`), timed on the host.",
    )
    group.add_argument(
        "--net-part", choices=PARTS, action="append", help="of bench net (default both)"
    )
    group.add_argument(
        "--folder", type=Path, metavar="PATH", help="where bench disk makes its image"
    )


def run(given: argparse.Namespace) -> int:
    """Measure what ``given`` asks for and print a table to stdout; every run goes to stderr.

    Raises ConfigError for wrong words, BackendError when a guest fails.
    """
    if len(given.kernels) != 1:
        raise ConfigError(f"bench {given.kernels[0]} is a benchmark of its own: name no other")
    if given.folder is not None and not given.folder.is_dir():
        raise ConfigError(f"--folder {given.folder}: is not a directory")
    plugins = create_plugin_manager()
    image = find_image(SYSTEM, plugins)
    image_command.ensure(image, ImageCache())
    qemu = not given.no_qemu and find_qemu() is not None
    if not qemu and not given.no_qemu:
        print("qemu-system-riscv64 is not installed: no reference", file=sys.stderr)
    common = {"runs": given.runs, "qemu": qemu, "engine": given.engine, "plugins": plugins}
    if given.kernels == [NET]:
        parts = tuple(given.net_part or PARTS)
        measure = functools.partial(measure_net, image, parts=parts, done=_say, **common)
    else:
        measure = functools.partial(measure_disk, image, folder=given.folder, done=_say, **common)
    try:
        results: Results = trio.run(measure)
    except BaseExceptionGroup as group:
        raise only_error(group) from None
    print(results.table())
    if given.json is not None:
        given.json.write_text(json.dumps(results.to_json(), indent=2) + "\n")
    return 0


def _say(machine: str, task: Task, seconds: float) -> None:
    rate = f"{task.amount / seconds:.1f} {task.unit}/s"
    print(f"{machine}: {task.name}: {rate}", file=sys.stderr, flush=True)
