"""``asyncvmm bench fork``: what forks of a booted guest cost."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Final

import attrs

from asyncvmm.api.images import find_image, image_config
from asyncvmm.base.errors import ConfigError
from asyncvmm.base.units import MIB
from asyncvmm.cli.progress import BarProgress
from asyncvmm.plugin import create_plugin_manager
from asyncvmm.plugin.images import ImageCache
from asyncvmm.testing.bench_fork import fork_cost, format_fork

NAME: Final = "fork"
MAX_FORKS: Final = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``bench fork`` in a group of their own."""
    group = parser.add_argument_group(
        NAME,
        "`bench fork` boots --image once and measures its forks: time and memory of each, of a "
        "restore from disk, and of many that have each run a command.",
    )
    group.add_argument("--forks", type=_forks, default=500, metavar="N", help="default 500")
    group.add_argument(
        "--memory", type=_forks, default=128, metavar="MIB", help="of the guest (default 128)"
    )


def run(given: argparse.Namespace) -> int:
    """Measure and print the table to stdout; ConfigError for an image that is not here."""
    if given.kernels != [NAME]:
        raise ConfigError(f"bench {NAME} is a benchmark of its own: name no other beside it")
    plugins = create_plugin_manager()
    image = find_image(given.image, plugins)
    if not image.is_present(ImageCache()):
        raise ConfigError(f"image {image.name!r} is not here: asyncvmm image pull {image.name}")
    config = image_config(
        image, ImageCache(), commands=True, memory=given.memory * MIB, engine=given.engine
    )
    print(f"asyncvmm: {given.forks} forks of {image.name}", file=sys.stderr, flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="asyncvmm-bench-") as folder,
        BarProgress().task("commands in forks", given.forks) as bar,
    ):
        cost = fork_cost(
            config,
            Path(folder),
            forks=given.forks,
            restores=max(given.runs, 5),
            plugins=plugins,
            advanced=lambda: bar.advance(1),
        )
    print(format_fork(cost), flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps(attrs.asdict(cost), indent=2) + "\n")
    return 0


def _forks(text: str) -> int:
    number = int(text)
    if not 1 <= number <= MAX_FORKS:
        raise argparse.ArgumentTypeError(f"{text} is not 1 to {MAX_FORKS}")
    return number
