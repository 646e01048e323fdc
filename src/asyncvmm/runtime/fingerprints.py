"""What a guest was made from, by contents: a replay from other files would be another run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import attrs

from asyncvmm.machine import BootFiles, GuestConfig, Machine
from asyncvmm.machine.config import split_disk

PATHS: Final = ("kernel", "initrd", "firmware", "elf", "dtb")


def boot_hashes(files: BootFiles) -> dict[str, str]:
    """SHA-256 of every boot file."""
    found = {}
    for field in attrs.fields(BootFiles):
        file = getattr(files, field.name)
        if file is not None:
            found[field.name] = file.sha256
    return found


def folder_digests(machine: Machine) -> list[str]:
    """What every shared folder of a guest held when it was captured (``Folder.digest``)."""
    return [device.io.folder.digest for device in machine.devices if device.io.folder.digest]


def config_values(config: GuestConfig) -> dict[str, Any]:
    """A configuration as plain data, with paths that hold from any directory."""
    values: dict[str, Any] = {
        key: value
        for key, value in attrs.asdict(config, recurse=False).items()
        if value is not None
    }
    for name in PATHS:
        if name in values:
            values[name] = str(Path(values[name]).absolute())
    for name in ("disks", "flash"):
        values[name] = [absolute_disk(text) for text in values[name]]
    values["shares"] = [os.path.join(os.getcwd(), text) for text in values["shares"]]
    return values


def absolute_disk(text: str) -> str:
    """A disk's text with its path from the root."""
    path = str(split_disk(text).path)
    return str(Path(path).absolute()) + text[len(path) :]
