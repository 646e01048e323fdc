"""The options that say which guest runs, where it ends and what is shown: of ``run`` and ``profile``."""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from asyncvmm.api import ConfigError, Forward, GuestConfig, find_image, image_config
from asyncvmm.cli import image as image_command
from asyncvmm.cli import terminal
from asyncvmm.cli.checks import check_timeout
from asyncvmm.cli.session import GDB_PORT
from asyncvmm.firmware.elf import is_elf
from asyncvmm.machine.config import split_disk
from asyncvmm.machine.renewal import FREEZE, HOST
from asyncvmm.plugin.images import DiskFile, ImageCache


def add_date(parser: argparse.ArgumentParser) -> None:
    """What a folder's machine takes for the date."""
    parser.add_argument(
        "--date", choices=[FREEZE, HOST],
        help="a folder's machine: its clock shows this machine's date, with what its guest has set it to "
        "differ; or that of a kept state goes on (freeze, the default)",
    )  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What says which guest runs, and until when."""
    parser.add_argument(
        "target", nargs="?", metavar="TARGET", help="an image's name, an ELF file, a folder"
    )
    boot = parser.add_argument_group("what to boot")
    boot.add_argument("--kernel", type=Path, help="Linux Image, or what the firmware starts")
    boot.add_argument("--initrd", type=Path, help="initial RAM file system")
    boot.add_argument("--append", help="the kernel's command line (added to an image's)")
    boot.add_argument("--firmware", type=Path, help="firmware entered in M-mode")
    boot.add_argument(
        "--flash",
        action="append",
        default=[],
        metavar="PATH[,readonly][,snapshot]",
        help="a flash part (two at most; started when there is no kernel); for an image with flash, "
        "what its last part is kept in: made when it is not there",
    )
    machine = parser.add_argument_group("the machine")
    machine.add_argument("--memory", metavar="SIZE", help="RAM, such as 256M (default: 128M)")
    machine.add_argument("--harts", type=int, help="number of harts (default: 1)")
    machine.add_argument(
        "--disk",
        action="append",
        default=[],
        metavar="PATH[,readonly][,snapshot][,format=raw|qcow2]",
        help="a disk image, qcow2 when it is named so and raw otherwise (see `asyncvmm disk`)",
    )
    machine.add_argument(
        "--snapshot",
        action="store_true",
        help="throw away what the guest writes to its disks and flash",
    )
    machine.add_argument(
        "--share",
        action="append",
        default=[],
        metavar="FOLDER[:TAG][:cow]",
        help="a folder for the guest to mount (mount -t 9p -o trans=virtio,version=9p2000.L TAG /mnt; "
        "TAG is share unless said): read-only, or with cow writable for the guest alone",
    )
    machine.add_argument(
        "--device", action="append", default=[], metavar="TYPE[,OPTION=VALUE...]", help="a device"
    )
    network = parser.add_argument_group("the network")
    network.add_argument(
        "--net",
        action="append",
        default=[],
        metavar="lan[,OPTION=VALUE...]",
        help="a network card, with DHCP, DNS and echo from a gateway",
    )
    network.add_argument(
        "-p",
        "--publish",
        action="append",
        default=[],
        metavar="[ADDRESS:]PORT:GUESTPORT",
        help="forward a port of this machine (loopback unless said) to the guest's",
    )
    network.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="HOST[:PORT]",
        help="let the guest reach this outside: a name, *.domain, an address, a network, * for all",
    )
    network.add_argument(
        "--capture", type=Path, metavar="FILE", help="every frame, as pcapng with virtual time"
    )
    machine.add_argument("--seed", type=int, help="of all randomness in the guest (default: 0)")
    machine.add_argument(
        "--clock",
        choices=["virtual", "realtime"],
        help="virtual time as fast as it goes, or paced to the wall clock "
        "(default: realtime at a terminal and with -p or --allow, else virtual)",
    )
    machine.add_argument(
        "--engine",
        choices=["auto", "interpreter", "jit"],
        help="what runs the code: translated where llvmlite is installed (default: auto)",
    )
    ends = parser.add_argument_group("when to stop")
    ends.add_argument("--until", metavar="TEXT", help="stop with 0 once the console says TEXT")
    ends.add_argument("--max-instructions", type=int, metavar="N", help="stop after N instructions")
    ends.add_argument("--timeout", type=float, metavar="SECONDS", help="of wall time")
    debug = parser.add_argument_group("debugging")
    debug.add_argument(
        "--gdb",
        nargs="?",
        type=int,
        const=GDB_PORT,
        metavar="PORT",
        help=f"serve gdb at a loopback port (default: {GDB_PORT}; 0: a free one)",
    )
    debug.add_argument(
        "--gdb-wait",
        action="store_true",
        help="the same, and wait for gdb before the first instruction",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--record",
        type=Path,
        metavar="FILE",
        help="a journal of all that enters the guest: `asyncvmm replay FILE` repeats the run",
    )
    output.add_argument("--log", type=Path, help="keep what the console says in a file")
    output.add_argument("--verbose", action="store_true", help="the console on standard error too")
    output.add_argument(
        "--stats", action="store_true", help="counters on standard error at the end"
    )


def check_options(options: argparse.Namespace) -> None:
    """Raise ConfigError for what the parser of ``add_arguments`` lets through."""
    if options.max_instructions is not None and options.max_instructions < 1:
        raise ConfigError(f"--max-instructions must be positive, not {options.max_instructions}")
    check_gdb(options)
    check_timeout(options)
    if options.until == "":
        raise ConfigError("--until needs a text to wait for")
    if options.until is not None and options.guest_command is not None:
        raise ConfigError("--until is for a console: it does not go with a command after --")
    options.publish = [Forward.parse(text) for text in options.publish]
    taken = [(each.host, each.host_port) for each in options.publish if each.host_port]
    for host, port in taken:
        if taken.count((host, port)) > 1:
            raise ConfigError(f"-p: port {port} of {host} is forwarded twice")


def check_gdb(options: argparse.Namespace) -> None:
    """ConfigError for a port that is none."""
    if options.gdb is not None and not 0 <= options.gdb <= 65535:
        raise ConfigError(f"--gdb: ports are 0 to 65535, not {options.gdb}")


def make_config(options: argparse.Namespace) -> GuestConfig:
    """The guest that the command line describes; images are pulled when they are not here."""
    config = _config(options)
    if options.snapshot:
        config = attrs.evolve(
            config,
            disks=tuple(f"{disk},snapshot" for disk in config.disks),
            flash=tuple(f"{part},snapshot" for part in config.flash),
        )
    return config


def _config(options: argparse.Namespace) -> GuestConfig:
    interactive = options.guest_command is None and terminal.is_terminal(0)
    outside = bool(options.publish or options.allow)
    changes: dict[str, Any] = {
        "memory": options.memory,
        "harts": options.harts,
        "append": options.append,
        "seed": options.seed,
        "engine": options.engine,
        "clock": options.clock or ("realtime" if interactive or outside else "virtual"),
        "flash": tuple(options.flash),
        "disks": tuple(options.disk),
        "nets": tuple(options.net) or (("lan",) if outside or options.capture else ()),
        "shares": tuple(options.share),
        "devices": tuple(options.device),
        "epoch_ns": time.time_ns() if interactive else None,
    }
    parts = {name: getattr(options, name) for name in ("kernel", "initrd", "firmware")}
    target = options.target
    if target is None:
        if not parts["kernel"] and not parts["firmware"] and not options.flash:
            raise ConfigError(
                "nothing to run: name an image (see `asyncvmm image list`) or an ELF file, "
                "or give --kernel, --firmware or --flash"
            )
        return _plain(changes, parts)
    given = [f"--{name}" for name, value in parts.items() if value]
    if _is_file(target):
        if given:
            raise ConfigError(f"{target} is a whole program: {given[0]} does not go with it")
        if not is_elf(_first_bytes(Path(target))):
            raise ConfigError(f"{target}: is not an ELF file; a kernel is given with --kernel")
        return _plain(changes, {"elf": Path(target)})
    image = find_image(target)
    cache = ImageCache()
    image_command.ensure(image, cache)
    changes.update({name: value for name, value in parts.items() if value})
    _make_flash(image.boot_files(cache).flash, options.flash)
    return image_config(image, cache, commands=options.guest_command is not None, **changes)


def _make_flash(parts: Sequence[DiskFile], own: Sequence[str]) -> None:
    """Give the user's flash files that are not there yet what the image's parts begin with."""
    for part, text in zip(reversed(parts), reversed(own), strict=False):
        path = split_disk(text).path
        if not part.readonly and not path.exists():
            try:
                shutil.copyfile(part.path, path)
            except OSError as error:
                raise ConfigError(f"--flash {path}: {error.strerror}") from error
            terminal.say(f"made {path} from the image's {part.path.name}")


def _plain(changes: dict[str, Any], parts: dict[str, Any]) -> GuestConfig:
    settings = {key: value for key, value in (changes | parts).items() if value is not None}
    return GuestConfig.from_mapping(settings)


def _is_file(target: str) -> bool:
    return "/" in target or Path(target).is_file()


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
