"""``asyncvmm config``: a machine's vm.toml, read and changed key by key."""

from __future__ import annotations

import argparse
import json
from typing import Any

from asyncvmm.api import VmFolder, open_folder
from asyncvmm.cli.terminal import say
from asyncvmm.runtime.folder.running import RESUME_CHANGES
from asyncvmm.runtime.folder.settings import KEYS

OUTSIDE = ("version", "image", "publish", "allow", "logs")  # of the machine itself

EPILOG = """\
examples:
  asyncvmm config get web.vm                       the whole file, checked
  asyncvmm config get web.vm memory
  asyncvmm config set web.vm memory 512M
  asyncvmm config set web.vm net lan lan,mac=52:54:00:00:00:01      several values make a list
  asyncvmm config set web.vm policy.cpu.weight 200
  asyncvmm config unset web.vm publish
  asyncvmm config reseed copy.vm                   a copied folder: another machine from now on

Comments stay. A change that is wrong is refused and leaves the file as it was; a machine that runs sees it at
its next start. Keys: {keys}.
"""


def add_parser(commands: Any) -> None:
    """Add the command and its actions."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "config",
        help="read and change a machine's vm.toml",
        description="Read and change a machine's vm.toml. Errors name the line and the nearest right key.",
        epilog=EPILOG.format(keys=", ".join(KEYS)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    get = actions.add_parser("get", help="print a key's value, or the whole file")
    get.add_argument("folder", metavar="FOLDER")
    get.add_argument("key", metavar="KEY", nargs="?")
    get.set_defaults(function=get_key)
    put = actions.add_parser("set", help="change a key")
    put.add_argument("folder", metavar="FOLDER")
    put.add_argument("key", metavar="KEY")
    put.add_argument("values", metavar="VALUE", nargs="+")
    put.set_defaults(function=set_key)
    unset = actions.add_parser("unset", help="take a key out: the default holds again")
    unset.add_argument("folder", metavar="FOLDER")
    unset.add_argument("key", metavar="KEY")
    unset.set_defaults(function=unset_key)
    reseed = actions.add_parser(
        "reseed",
        help="make the stopped machine another one than that which it was copied from",
        description="Give the machine a new identity in its nvram.bin: uuid, machine-id, the addresses of "
        "its cards, its randomness. Flash and clock stay.",
    )
    reseed.add_argument("folder", metavar="FOLDER")
    reseed.add_argument("--seed", type=int, help="the identity that belongs to this number")
    reseed.set_defaults(function=make_another)


def get_key(options: argparse.Namespace) -> int:
    """Print it."""
    folder = open_folder(options.folder)
    if options.key is None:
        assert folder.settings is not None  # checked
        print(folder.paths.config.read_text(), end="")
        return 0
    value = folder.get(options.key)
    if isinstance(value, (list, tuple)):
        for each in value:
            print(each)
    elif isinstance(value, (dict, bool)):
        print(json.dumps(value))
    elif value is not None:
        print(value)
    return 0


def set_key(options: argparse.Namespace) -> int:
    """Change it."""
    folder = open_folder(options.folder)
    folder.set(options.key, *options.values)
    _say_when(folder, options)
    return 0


def unset_key(options: argparse.Namespace) -> int:
    """Take it out."""
    folder = open_folder(options.folder)
    folder.unset(options.key)
    _say_when(folder, options)
    return 0


def _say_when(folder: VmFolder, options: argparse.Namespace) -> None:
    """A state that the machine goes on from has its own memory, harts, disks and so on."""
    key = options.key.partition(".")[0]
    if key in OUTSIDE or key in RESUME_CHANGES or folder.head.resume is None:
        return
    say(
        f"{options.folder} goes on from a kept state, which has its own {key}: the change holds from "
        f"`asyncvmm start --cold {options.folder}` on, which forgets that state"
    )


def make_another(options: argparse.Namespace) -> int:
    """Give it a new identity."""
    folder = open_folder(options.folder)
    folder.reseed(options.seed)
    if "seed" in folder.settings.given:
        say(f"{options.folder}: vm.toml has a seed, which is where its identity comes from")
    return 0
