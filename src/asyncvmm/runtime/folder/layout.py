"""What lies where in the folder of a virtual machine."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final

import attrs

from asyncvmm.base.errors import ConfigError

VM_TOML: Final = "vm.toml"
NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")


class _Place:
    """Where something is, from the folder."""

    def __init__(self, *parts: str) -> None:
        self._parts = parts

    def __get__(self, paths: FolderPaths, kind: type) -> Path:
        return paths.root.joinpath(*self._parts)


@attrs.frozen
class FolderPaths:
    """The places in the folder ``root``, an absolute path."""

    root: Path

    config = _Place(VM_TOML)
    lock = _Place("lock")
    nvram = _Place("nvram.bin")
    disks = _Place("disks")
    image = _Place("image")
    logs = _Place("logs")
    vm_log = _Place("logs", "vm.log")
    console_log = _Place("logs", "console.log")
    server_log = _Place("logs", "server.err")
    journal = _Place("logs", "journal")
    snapshots = _Place("snapshots")
    head = _Place("snapshots", "head.json")
    socket = _Place("control.sock")

    @property
    def name(self) -> str:
        """What people call the machine: the folder's name without ``.vm``."""
        return self.root.name.removesuffix(".vm") or self.root.name


def is_folder(path: Path | str) -> bool:
    """Whether a virtual machine is there."""
    return (Path(path) / VM_TOML).is_file()


def find_folder(path: Path | str) -> FolderPaths:
    """The folder at ``path``; ConfigError says what is there instead."""
    root = Path(path)
    if not is_folder(root):
        if not root.exists():
            raise ConfigError(
                f"{root}: there is no such folder: `asyncvmm create {root}` makes one"
            )
        raise ConfigError(f"{root}: is not the folder of a virtual machine: it has no {VM_TOML}")
    return FolderPaths(root.resolve())


def check_name(name: str, what: str) -> str:
    """A name of a snapshot or a disk; ConfigError for one that cannot be a file's."""
    if NAME.fullmatch(name) is None:
        raise ConfigError(
            f"{what} {name!r}: a name is 1 to 64 letters, digits, '.', '-' or '_', and begins with a "
            "letter or digit"
        )
    return name


def check_own(paths: FolderPaths) -> None:
    """ConfigError when logs or snapshots lie elsewhere: what is written and removed there under fixed
    names would be somebody else's. (Disks may: vm.toml says where.)
    """
    for place in (paths.logs, paths.snapshots, paths.snapshots / "pages"):
        if place.is_symlink():
            raise ConfigError(
                f"{place}: is a symbolic link: a machine's {place.name} are in its folder"
            )


def clear_leftovers(paths: FolderPaths) -> None:
    """Remove what a crash left half written. Only with the folder's lock."""
    for folder in (paths.root, paths.disks, paths.logs, paths.snapshots, paths.snapshots / "pages"):
        if folder.is_symlink():
            continue
        for pattern in ("*.part", "*.gone", ".*.partial"):
            for found in folder.glob(pattern):
                if found.is_dir():
                    shutil.rmtree(found, ignore_errors=True)
                else:
                    found.unlink(missing_ok=True)
