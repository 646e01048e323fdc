"""``asyncvmm rm``: a machine's folder and all that is in it."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from typing import Any

from asyncvmm.api import ConfigError, VmFolder, open_folder
from asyncvmm.cli import terminal
from asyncvmm.runtime.folder.index import forget
from asyncvmm.runtime.folder.lock import FolderLock


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "rm",
        help="remove a machine's folder: disks, snapshots, everything",
        description="Remove machines' folders with their disks, snapshots and logs. Not while they run.",
        epilog="examples:\n  asyncvmm rm web.vm\n  asyncvmm rm --yes web.vm db.vm",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", metavar="FOLDER", nargs="+")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.set_defaults(function=remove)


def remove(options: argparse.Namespace) -> int:
    """Ask, then remove each of them."""
    folders = [open_folder(path) for path in options.folders]
    for folder in folders:
        with FolderLock(folder.paths.lock):
            if not options.yes and not _agreed(folder):
                print(f"asyncvmm: {folder.path} is left as it is", file=sys.stderr)
                return 1
            gone = folder.path.with_name(f"{folder.path.name}.{os.getpid()}.gone")
            folder.path.rename(gone)
            shutil.rmtree(gone)
        forget(folder.path)
    return 0


def _agreed(folder: VmFolder) -> bool:
    if not terminal.is_terminal(0):
        raise ConfigError(f"{folder.path}: there is nobody to ask whether to remove it: give --yes")
    count = len(folder.snapshots)
    print(
        f"Remove {folder.path} with its disks and {count} snapshot{'s' * (count != 1)}? [y/N] ",
        end="",
        file=sys.stderr,
        flush=True,
    )
    return sys.stdin.readline().strip().lower() in ("y", "yes")
