"""``asyncvmm inspect``: all about a machine, as JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import attrs
import trio

from asyncvmm.api import AsyncvmmError, VmFolder, disks, open_folder
from asyncvmm.base.units import PAGE_SIZE
from asyncvmm.cli.ps import describe
from asyncvmm.machine import GuestConfig
from asyncvmm.machine.config import split_disk
from asyncvmm.machine.devices import card_addresses
from asyncvmm.machine.renewal import machine_id
from asyncvmm.runtime.folder.running import StartOptions, effective_config


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "inspect",
        help="all about a machine, as JSON",
        description="Print a machine's state, checked configuration, disks and snapshots as JSON.",
        epilog="examples:\n  asyncvmm inspect web.vm\n  asyncvmm inspect web.vm | jq -r .state.state",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="FOLDER")
    parser.set_defaults(function=inspect)


def inspect(options: argparse.Namespace) -> int:
    """Print it."""
    folder = open_folder(options.folder)
    settings = folder.settings
    head = folder.head
    print(
        json.dumps(
            {
                "folder": str(folder.path),
                "state": trio.run(describe, folder),
                "holder": attrs.asdict(folder.holder) if folder.holder is not None else None,
                "image": settings.image,
                "config": _plain(settings.guest),
                "publish": [attrs.asdict(forward) for forward in settings.publish],
                "allow": list(settings.allow),
                "logs": attrs.asdict(settings.logs),
                "nvram": _nvram(folder),
                "disks": [_disk(text) for text in settings.guest.disks],
                "goes_on_from": head.resume,
                "descends_from": head.parent,
                "snapshots": [attrs.asdict(info) for info in folder.snapshots],
                "files": _sizes(folder),
            },
            indent=1,
        )
    )
    return 0


def _plain(config: GuestConfig) -> dict[str, Any]:
    values = attrs.asdict(config, recurse=False)
    return {key: str(v) if isinstance(v, Path) else v for key, v in values.items() if v is not None}


def _nvram(folder: VmFolder) -> dict[str, Any]:
    """Who the machine is when it boots, how its clock is set, and what its flash holds."""
    try:
        nvram = folder.nvram
    except AsyncvmmError as error:
        return {"error": str(error)}
    config = effective_config(folder.settings, StartOptions(), nvram)
    return {
        "uuid": config.uuid,
        "machine_id": machine_id(config, config.name),
        "seed": config.seed,
        "mac_seed": config.mac_seed,
        "cards": card_addresses(config, folder.plugins.device_types),
        "clock_offset_ns": nvram.clock_offset_ns,
        "flash": [
            {"size_bytes": part.size_bytes, "written_bytes": len(part.pages) * PAGE_SIZE}
            for part in nvram.flash
        ],
    }


def _disk(text: str) -> dict[str, Any]:
    options = split_disk(text)
    found: dict[str, Any] = {"path": str(options.path), "keeps_writes": options.keeps_writes}
    try:
        info = disks.image_info(options.path, options.format)
        found.update(
            {key: _json(value) for key, value in attrs.asdict(info).items() if key != "path"}
        )
    except AsyncvmmError as error:
        found["error"] = str(error)
    return found


def _json(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_json(each) for each in value]
    if isinstance(value, dict):
        return {str(key): _json(each) for key, each in value.items()}
    return str(value)


def _sizes(folder: VmFolder) -> dict[str, int]:
    """Bytes on this machine's disk by part of the folder; shared with an image where it is a link."""
    return {
        part.name: sum(p.stat().st_blocks * 512 for p in part.rglob("*") if p.is_file())
        for part in (
            folder.paths.disks, folder.paths.image, folder.paths.snapshots, folder.paths.logs,
        )
    }  # fmt: skip
