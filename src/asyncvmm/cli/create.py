"""``asyncvmm create``: the folder of a new virtual machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from asyncvmm.api import ConfigError, create_vm, find_image
from asyncvmm.cli import image as image_command
from asyncvmm.cli.interrupts import Interruptible
from asyncvmm.plugin.images import ImageCache
from asyncvmm.runtime.folder.index import remember

EPILOG = """\
examples:
  asyncvmm create web.vm --image debian-root
  asyncvmm create web.vm --image debian-root --memory 512M --harts 2 --disk 4G -p 8080:80
  asyncvmm create lab.vm --kernel Image --initrd initrd.cpio --set append=console=ttyS0
  asyncvmm create demo.vm --image demo && asyncvmm start demo.vm && asyncvmm console demo.vm

The folder holds vm.toml (configuration), disks/ (the first one over the image's root disk: what the guest
writes is kept), image/ (the files it boots, as they are now), snapshots/, logs/ and a lock. It may be moved,
copied while the machine is stopped, and removed with `asyncvmm rm`. Look at vm.toml of a folder that somebody
gave you before you run it: it may name files of yours as disks and shares. Nothing else in a folder reaches
outside of it.
"""


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "create",
        help="make the folder of a virtual machine",
        description="Make the folder of a virtual machine.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="such as web.vm; must not exist"
    )
    boot = parser.add_argument_group("what it boots")
    boot.add_argument(
        "--image", help="an image of `asyncvmm image list`, pulled when it is not here"
    )
    boot.add_argument("--kernel", type=Path, help="Linux Image, or what the firmware starts")
    boot.add_argument("--initrd", type=Path, help="initial RAM file system")
    boot.add_argument("--firmware", type=Path, help="firmware entered in M-mode")
    boot.add_argument("--elf", type=Path, help="a bare-metal program, entered in M-mode")
    boot.add_argument(
        "--append", default="", help="the kernel's command line (added to an image's)"
    )
    machine = parser.add_argument_group("the machine")
    machine.add_argument("--memory", metavar="SIZE", help="RAM, such as 256M")
    machine.add_argument("--harts", type=int, help="number of harts")
    machine.add_argument(
        "--disk", action="append", default=[], metavar="SIZE|FILE",
        help="a further disk: an empty one of this size, or a copy of an image file",
    )  # fmt: skip
    machine.add_argument(
        "--device", action="append", default=[], metavar="TYPE[,OPTION=VALUE...]", help="a device"
    )
    machine.add_argument(
        "--net", action="append", default=[], metavar="lan[,OPTION=VALUE...]", help="a network card"
    )
    machine.add_argument(
        "-p", "--publish", action="append", default=[], metavar="[ADDRESS:]PORT:GUESTPORT",
        help="forward a port of this machine to the guest's",
    )  # fmt: skip
    machine.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="HOST[:PORT]",
        help="what it may reach outside",
    )
    machine.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="keys",
        help="any other key of vm.toml, as `asyncvmm config set` takes it",
    )  # fmt: skip
    parser.set_defaults(function=create)


def create(options: argparse.Namespace) -> int:
    """Make it."""
    keys = {}
    for text in options.keys:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {text}: KEY=VALUE is expected")
        keys[key] = value
    plain = {name: getattr(options, name) for name in ("kernel", "initrd", "firmware", "elf")}
    if options.image is not None:
        if plain["elf"] or plain["firmware"]:
            raise ConfigError("--image is a whole system: --elf and --firmware do not go with it")
        image_command.ensure(find_image(options.image), ImageCache())
    elif not any(plain.values()):
        raise ConfigError(
            "nothing to boot: give --image (see `asyncvmm image list`), or --kernel, --firmware or --elf"
        )
    with Interruptible("making its disks") as progress:
        folder = create_vm(
            options.folder,
            image=options.image or "",
            progress=progress,
            keys=keys,
            append=options.append,
            memory=options.memory,
            harts=options.harts,
            disks=tuple(options.disk),
            nets=tuple(options.net),
            publish=tuple(options.publish),
            allow=tuple(options.allow),
            devices=tuple(options.device),
            **plain,
        )
    remember(folder.path)
    return 0
