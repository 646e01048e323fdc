"""``asyncvmm dtb``: the device tree that a guest would be given."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from asyncvmm.api import GuestConfig
from asyncvmm.base.errors import ConfigError
from asyncvmm.fdt import flatten, to_source
from asyncvmm.machine import Machine
from asyncvmm.machine.files import BootFile, BootFiles
from asyncvmm.plugin import create_plugin_manager

# A program that is never run: the tree does not depend on what is booted.
_NOTHING = BootFile("nothing", b"\x6f\x00\x00\x00")


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "dtb",
        help="write the board's device tree",
        description="Write the device tree blob of a board, for dtc or for firmware.",
        epilog="examples:\n  asyncvmm dtb --harts 2 -o board.dtb\n"
        "  asyncvmm dtb --source --device virtio-rng",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--memory", default="128M", help="RAM (default: %(default)s)")
    parser.add_argument("--harts", type=int, default=1, help="harts (default: %(default)s)")
    parser.add_argument("--append", default="", help="the kernel's command line")
    parser.add_argument(
        "--device",
        action="append",
        default=[],
        metavar="TYPE[,OPTION=VALUE...]",
        help="more devices",
    )
    parser.add_argument("--source", action="store_true", help="as text, for people")
    parser.add_argument("-o", "--output", type=Path, help="a file (default: standard output)")
    parser.set_defaults(function=run_command)


def run_command(options: argparse.Namespace) -> int:
    """Build the board and write its tree."""
    config = GuestConfig(
        memory=options.memory,
        harts=options.harts,
        append=options.append,
        devices=tuple(options.device),
        firmware=Path("none"),
    )
    machine = Machine(config, BootFiles(firmware=_NOTHING), create_plugin_manager().device_types)
    blob = to_source(machine.tree).encode() if options.source else flatten(machine.tree)
    if options.output is not None:
        try:
            options.output.write_bytes(blob)
        except OSError as error:
            raise ConfigError(f"--output {options.output}: {error.strerror}") from error
    else:
        sys.stdout.buffer.write(blob)
    return 0
