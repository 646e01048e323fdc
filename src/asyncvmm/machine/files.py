"""Reading what a guest boots from. The only place of this floor that opens files."""

from __future__ import annotations

import functools
import hashlib
import os
from pathlib import Path
from weakref import WeakValueDictionary

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.units import GIB
from asyncvmm.machine.config import GuestConfig
from asyncvmm.storage.bounded import open_regular

MAX_FILE_BYTES = GIB


@attrs.frozen
class BootFile:
    """A file's contents and the name that messages use; ``identity`` is device, inode, size in bytes and
    time in ns of the file that they were read from.
    """

    name: str
    data: bytes = attrs.field(repr=lambda data: f"{len(data)} bytes")
    identity: tuple[int, ...] = attrs.field(default=(), eq=False)

    @functools.cached_property
    def sha256(self) -> str:
        """The hash of the contents, in hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()


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
        with open_regular(path) as file:
            stat = os.fstat(file.fileno())
            if stat.st_size > MAX_FILE_BYTES:
                raise ConfigError(f"{path}: {stat.st_size} bytes are more than {MAX_FILE_BYTES}")
            data = file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    if not data:
        raise ConfigError(f"{path}: the file is empty")
    return BootFile(str(path), data, identity_of(stat))


def identity_of(stat: os.stat_result) -> tuple[int, ...]:
    """Device, inode, size and time: a file that changed has another."""
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns)


class BootFileReader:
    """Reads boot files; guests that boot from the same file hold one copy of it.

    A file that changed (its inode, size or time) is another file. Threads may share a reader.
    """

    def __init__(self) -> None:
        self._held: WeakValueDictionary[tuple[str, tuple[int, ...]], BootFile] = (
            WeakValueDictionary()
        )

    def read(self, path: Path) -> BootFile:
        """See read_boot_file."""
        try:
            stat = os.stat(path)
        except (OSError, ValueError):  # also for a NUL, and for what no name can be encoded to
            return read_boot_file(path)  # says what is wrong
        key = (str(path), identity_of(stat))
        held = self._held.get(key)
        if held is None:
            held = read_boot_file(path)
            self._held[key] = held
        return held


def read_boot_files(config: GuestConfig, reader: BootFileReader | None = None) -> BootFiles:
    """Read every boot file of ``config``, or take what ``reader`` has."""
    read = read_boot_file if reader is None else reader.read
    names = [field.name for field in attrs.fields(BootFiles)]
    paths = {name: getattr(config, name) for name in names}
    return BootFiles(**{name: read(path) for name, path in paths.items() if path is not None})
