"""What a stopped machine goes on from: power-on, or a saved state that its disks belong to.

``snapshots/head.json`` names the snapshot that the machine descends from (``parent``) and, if it goes on
from a saved state, that state (``resume``) with the stamps of the disks as they were left then.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.runtime.folder.layout import NAME
from asyncvmm.runtime.folder.small_json import read_json
from asyncvmm.storage.bounded import can_be_path
from asyncvmm.storage.packs import write_durably

FORMAT: Final = 1
MAX_BYTES: Final = 1 << 20
STOPPED: Final = "_stopped"  # the state that `stop --save` and `run` keep; no user's snapshot


class HeadError(ConfigError):
    """head.json is damaged; the text names file and place."""


@attrs.frozen
class Head:
    """``disks`` are (size in bytes, time of last change in ns) by path."""

    parent: str | None = None
    resume: str | None = None
    disks: Mapping[str, tuple[int, int]] = attrs.field(factory=dict, hash=False)


def read_head(path: Path) -> Head:
    """The head; a new one when there is no file. HeadError names what is wrong."""
    try:
        values = read_json(path, MAX_BYTES, HeadError)
    except FileNotFoundError:
        return Head()
    return _checked(path, values)


def _checked(path: Path, values: Any) -> Head:
    if not isinstance(values, dict) or set(values) != {"format", "parent", "resume", "disks"}:
        raise HeadError(f"{path}: has other parts than format, parent, resume, disks")
    if values["format"] != FORMAT:
        raise HeadError(f"{path}: is of format {str(values['format'])[:40]!r} (this is {FORMAT})")
    for key in ("parent", "resume"):
        name = values[key]
        if name is None or (key == "resume" and name == STOPPED):
            continue
        if not isinstance(name, str) or NAME.fullmatch(name) is None:
            raise HeadError(f"{path}: {key} is {str(name)[:80]!r}")
    disks = values["disks"]
    if not isinstance(disks, dict):
        raise HeadError(f"{path}: disks is no table")
    for name, stamp in disks.items():
        numbers = isinstance(stamp, list) and len(stamp) == 2 and all(type(n) is int for n in stamp)
        if not numbers:
            raise HeadError(f"{path}: disks: {name[:80]!r} has no size and time")
        if not can_be_path(name):
            raise HeadError(f"{path}: disks: {name[:80]!r} is no path")
    stamps = {name: (stamp[0], stamp[1]) for name, stamp in disks.items()}
    return Head(values["parent"], values["resume"], stamps)


def write_head(path: Path, head: Head) -> None:
    """Durably."""
    values = {"format": FORMAT, "parent": head.parent, "resume": head.resume}
    disks = {name: list(stamp) for name, stamp in head.disks.items()}
    write_durably(path, json.dumps({**values, "disks": disks}, indent=1).encode() + b"\n")


def stamp_of(path: Path) -> tuple[int, int]:
    """A disk's size and time; ConfigError when it is not there."""
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    return status.st_size, status.st_mtime_ns
