"""``asyncvmm bench scale``: what many guests on one host cost."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

import attrs

from asyncvmm.api.images import find_image
from asyncvmm.base.errors import ConfigError
from asyncvmm.cli.progress import BarProgress
from asyncvmm.plugin import create_plugin_manager
from asyncvmm.plugin.images import ImageCache
from asyncvmm.testing.bench_build import build, kernel_named
from asyncvmm.testing.bench_scale import (
    busy_cost,
    format_busy,
    format_idle,
    format_own,
    idle_cost,
    own_cost,
)

NAME: Final = "scale"
PARTS: Final = ("busy", "host", "idle")
ENDLESS: Final = 10_000  # times the usual rounds: no guest ends while it is measured
HOST_GUESTS: Final = (1, 8, 64, 200)
MAX_GUESTS: Final = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``bench scale`` in a group of their own."""
    group = parser.add_argument_group(
        NAME,
        "`bench scale` measures many guests on one host: busy ones (CPU time per instruction "
        "against one alone, in turn), the host's own time per quantum, and idle ones by the hour.",
    )
    group.add_argument("--part", choices=PARTS, action="append", help="default all")
    group.add_argument(
        "--workload", default="mix", metavar="KERNEL", help="what is busy (default mix)"
    )
    group.add_argument("--busy", type=_guests, default=64, metavar="N", help="default 64 guests")
    group.add_argument("--idle", type=_guests, default=200, metavar="N", help="default 200 guests")
    group.add_argument("--image", default="linux", help="of the idle guests (default linux)")
    group.add_argument(
        "--hours", type=_hours, default=1.0, help="of virtual time for the idle guests (default 1)"
    )
    group.add_argument("--workers", type=_cpus, help="threads for busy guests (default all cores)")
    group.add_argument(
        "--quantum-ms", type=_cpus, help="of the busy guests' host, in virtual time (default 1)"
    )
    group.add_argument("--cpus", type=_cpus, default=8, help="of the simulated host (default 8)")


def run(given: argparse.Namespace) -> int:
    """Measure what ``given`` asks for and print a line for each result to stdout.

    Raises ConfigError for an unknown kernel or image, one that is not pulled, or a missing compiler.
    """
    if given.kernels != [NAME]:
        raise ConfigError(f"bench {NAME} is a benchmark of its own: name no other beside it")
    parts = given.part or PARTS
    plugins = create_plugin_manager()
    results: dict[str, Any] = {}
    if "busy" in parts or "host" in parts:
        kernel = kernel_named(given.workload)
        elf = build(kernel, "sv39", rounds=kernel.rounds * ENDLESS)
    if "busy" in parts:
        print(f"asyncvmm: 1 and {given.busy} busy guests", file=sys.stderr, flush=True)
        busy = busy_cost(
            elf,
            guests=given.busy,
            cpus=given.cpus,
            runs=given.runs,
            engine=given.engine,
            plugins=plugins,
            workers=given.workers,
            quantum_us=None if given.quantum_ms is None else given.quantum_ms * 1000,
        )
        print(format_busy(busy), flush=True)
        results["busy"] = attrs.asdict(busy)
    if "host" in parts:
        results["host"] = []
        for guests in HOST_GUESTS:
            own = own_cost(elf, guests=guests, cpus=given.cpus, plugins=plugins)
            print(format_own(own), flush=True)
            results["host"].append(attrs.asdict(own))
    if "idle" in parts:
        image = find_image(given.image, plugins)
        if not image.is_present(ImageCache()):
            raise ConfigError(f"image {image.name!r} is not here: asyncvmm image pull {image.name}")
        with BarProgress().task(f"booting {given.idle} x {image.name}", given.idle) as bar:
            idle = idle_cost(
                image,
                guests=given.idle,
                virtual_s=given.hours * 3600,
                cpus=given.cpus,
                engine=given.engine,
                plugins=plugins,
                booted=lambda: bar.advance(1),
            )
        print(format_idle(idle), flush=True)
        results["idle"] = attrs.asdict(idle)
    if given.json is not None:
        _write(given.json, results)
    return 0


def _write(path: Path, results: dict[str, Any]) -> None:
    path.write_text(json.dumps(results, indent=2) + "\n")


def _guests(text: str) -> int:
    return _between(text, 1, MAX_GUESTS)


def _cpus(text: str) -> int:
    return _between(text, 1, 64)


def _between(text: str, low: int, high: int) -> int:
    number = int(text)
    if not low <= number <= high:
        raise argparse.ArgumentTypeError(f"{text} is not {low} to {high}")
    return number


def _hours(text: str) -> float:
    hours = float(text)
    if not 0 < hours <= 1000:
        raise argparse.ArgumentTypeError(f"{text} is not a number of hours up to 1000")
    return hours
