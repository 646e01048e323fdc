"""What a guest was made from, by contents: a replay from other files would be another run."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.machine import BootFiles, GuestConfig, Machine
from asyncvmm.machine.config import split_disk
from asyncvmm.plugin import BlobSpec
from asyncvmm.runtime.blobs import open_file_blob

BLOCK: Final = 1 << 20
PATHS: Final = ("kernel", "initrd", "firmware", "elf", "dtb")


def boot_hashes(files: BootFiles) -> dict[str, str]:
    """SHA-256 of every boot file."""
    found = {}
    for field in attrs.fields(BootFiles):
        file = getattr(files, field.name)
        if file is not None:
            found[field.name] = file.sha256
    return found


def disk_hashes(config: GuestConfig) -> list[str]:
    """SHA-256 of what every disk and flash part holds before the guest runs, whatever its format."""
    found = []
    for text in (*config.disks, *config.flash):
        options = split_disk(text)
        stat = options.path.stat()
        key = (options.path, options.format, stat.st_ino, stat.st_size, stat.st_mtime_ns)
        found.append(_disk_hash(*key))
    return found


@lru_cache(maxsize=64)
def _disk_hash(path: Path, form: str | None, _inode: int, _size: int, _time: int) -> str:
    """Of the blocks that are not zeros, with their numbers: holes cost reading, not hashing."""
    digest = hashlib.sha256()
    blob = open_file_blob(BlobSpec(path, True, form))
    zeros = bytes(BLOCK)
    try:
        for start in range(0, blob.size_bytes, BLOCK):
            block = blob.pread(start, min(BLOCK, blob.size_bytes - start))
            if block != zeros[: len(block)]:
                digest.update(start.to_bytes(8, "little") + block)
        digest.update(blob.size_bytes.to_bytes(8, "little"))
    finally:
        blob.close()
    return digest.hexdigest()


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


def refuse_kept_writes(config: GuestConfig) -> None:
    """ConfigError for a disk or folder that would not be the same one when the run is repeated."""
    for text in (*config.disks, *config.flash):
        options = split_disk(text)
        if options.keeps_writes:
            raise ConfigError(
                f"guest {config.name}: a replay would find what the guest wrote to {options.path}: "
                "add ',snapshot' or ',readonly' to the disk"
            )
