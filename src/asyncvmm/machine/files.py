"""Reading what a guest boots from. The only place of this floor that opens files."""

from __future__ import annotations

from pathlib import Path

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.units import GIB
from asyncvmm.machine.config import GuestConfig

MAX_FILE_BYTES = GIB


@attrs.frozen
class BootFile:
    """A file's contents and the name that messages use."""

    name: str
    data: bytes = attrs.field(repr=lambda data: f"{len(data)} bytes")


@attrs.frozen
class BootFiles:
    """The contents of the files that a config names."""

    kernel: BootFile | None = None
    initrd: BootFile | None = None
    firmware: BootFile | None = None
    elf: BootFile | None = None
    dtb: BootFile | None = None


def read_boot_file(path: Path) -> BootFile:
    """ConfigError when it is not a readable, non-empty file of a sensible size."""
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise ConfigError(f"{path}: is a directory")
        if size > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: {size} bytes are more than {MAX_FILE_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    if not data:
        raise ConfigError(f"{path}: the file is empty")
    return BootFile(str(path), data)


def read_boot_files(config: GuestConfig) -> BootFiles:
    """Read every boot file of ``config``."""
    names = [field.name for field in attrs.fields(BootFiles)]
    paths = {name: getattr(config, name) for name in names}
    return BootFiles(
        **{name: read_boot_file(path) for name, path in paths.items() if path is not None}
    )
