"""Going back to a snapshot in two steps: new files are written beside the old ones, then take their names.

``snapshots/restore.json`` stands between the two: it says what is to be done still, whoever uses the folder
next. It may name the NVRAM, what is in ``disks/``, and the disks that vm.toml names, wherever those are;
nothing else, because a folder may come from somebody else.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.machine import SnapshotError
from asyncvmm.runtime.folder.disks import kept_files
from asyncvmm.runtime.folder.head import STOPPED
from asyncvmm.runtime.folder.layout import NAME, FolderPaths
from asyncvmm.runtime.folder.settings import load_settings
from asyncvmm.runtime.folder.small_json import read_object
from asyncvmm.storage.bounded import can_be_path
from asyncvmm.storage.hostfile import sync_folder
from asyncvmm.storage.packs import write_durably

FORMAT: Final = 2  # 1 had pairs of absolute paths
MAX_BYTES: Final = 64 << 10
RESTORE: Final = "restore.json"
SUFFIX: Final = ".restored"


@attrs.frozen
class Intent:
    """The snapshot called ``name`` is gone back to: at ``targets`` is to be what lies beside them."""

    name: str
    targets: tuple[Path, ...]


def part_of(target: Path) -> Path:
    """Where a restored file is until it takes its name."""
    return target.with_name(f"{target.name}{SUFFIX}")


def target_of(path: Path) -> Path:
    """A disk's path without ``..``, as an intent names it."""
    return Path(os.path.normpath(path))


def check_targets(paths: FolderPaths, targets: Sequence[Path]) -> None:
    """ConfigError for a place that a restore may not change; see above."""
    named: set[Path] | None = None
    for target in targets:
        if target == paths.nvram or _in_disks(paths, target):
            continue
        if named is None:
            guest = load_settings(paths.config).guest
            named = {target_of(disk.path) for disk in kept_files(guest).values()}
        if target not in named:
            raise ConfigError(
                f"{str(target)[:200]!r} is neither in {paths.disks} nor a disk that {paths.config} names"
            )


def _in_disks(paths: FolderPaths, target: Path) -> bool:
    """Whether it really is, without links on the way."""
    disks = os.path.join(os.path.realpath(paths.root), paths.disks.name)
    real = os.path.realpath(target.parent)
    return target.name not in ("", "..") and (real == disks or real.startswith(f"{disks}{os.sep}"))


def write_intent(paths: FolderPaths, intent: Intent) -> None:
    """Durably: from now on the restore is done, whatever happens."""
    root = paths.root
    names = [str(t.relative_to(root) if t.is_relative_to(root) else t) for t in intent.targets]
    values = {"format": FORMAT, "name": intent.name, "targets": names}
    write_durably(paths.snapshots / RESTORE, json.dumps(values).encode())


def read_intent(paths: FolderPaths) -> Intent | None:
    """What is left to be done; None when nothing is. SnapshotError names what is wrong with it."""
    path = paths.snapshots / RESTORE
    if not os.path.lexists(path):
        return None
    try:
        intent = _checked(paths, read_object(path, MAX_BYTES, SnapshotError))
        check_targets(paths, intent.targets)
        for target in intent.targets:
            _check_files(target)
    except ConfigError as error:
        text = str(error).removeprefix(f"{path}: ")
        raise SnapshotError(
            f"{path}: {text} (no restore was cut off? without this file the disks stay as they are)"
        ) from error
    return intent


def _checked(paths: FolderPaths, values: dict[str, Any]) -> Intent:
    form = values.get("format")
    places: Any
    if form == 1:
        places = _from_1(values)
    elif form == FORMAT and type(form) is int:
        places = values.get("targets")
    else:
        raise SnapshotError(f"is of format {str(form)[:40]!r} (this is {FORMAT})")
    name = values.get("name")
    if not isinstance(name, str) or not (name == STOPPED or NAME.fullmatch(name)):
        raise SnapshotError(f"name is {str(name)[:80]!r}")
    if not isinstance(places, list):
        raise SnapshotError("does not say what to restore")
    for place in places:
        if not isinstance(place, str) or not can_be_path(place) or _dotted(place):
            raise SnapshotError(f"{str(place)[:80]!r} is no path")
    targets = tuple([paths.root / place for place in places])
    if len(set(targets)) != len(targets):
        raise SnapshotError("names a file twice")
    return Intent(name, targets)


def _dotted(place: str) -> bool:
    return os.path.normpath(place) != place or place.endswith(SUFFIX)


def _from_1(values: dict[str, Any]) -> list[Any]:
    moves = values.get("moves")
    if not isinstance(moves, list):
        raise SnapshotError("does not say what to restore")
    for move in moves:
        if not isinstance(move, list) or len(move) != 2 or move[0] != f"{move[1]}{SUFFIX}":
            raise SnapshotError(f"{str(move)[:80]!r} is no restored disk")
    return [target for _, target in moves]


def _check_files(target: Path) -> None:
    """That what lies beside ``target`` can take its name, or has it already."""
    try:
        ready = stat.S_ISREG(os.lstat(part_of(target)).st_mode)
    except FileNotFoundError:
        ready = target.is_file()
    except OSError as error:
        raise SnapshotError(f"{str(target)[:200]!r}: {error.strerror}") from error
    if not ready or target.is_dir():
        raise SnapshotError(f"there is no restored file for {str(target)[:200]!r}")


def take_names(paths: FolderPaths, intent: Intent) -> None:
    """What was restored takes its names, as far as it has not; BackendError when that fails."""
    for target in intent.targets:
        part = part_of(target)
        try:
            if part.exists():
                part.replace(target)
                sync_folder(target.parent)
        except OSError as error:
            raise BackendError(f"{target}: cannot be replaced: {error.strerror}") from error


def forget_parts(paths: FolderPaths) -> None:
    """Of a restore that was not decided yet; a disk that somebody called so has no other beside it."""
    for folder in (paths.disks, paths.root):
        if not folder.is_symlink():
            for left in folder.glob(f"*{SUFFIX}"):
                if left.is_file() and left.with_name(left.name.removesuffix(SUFFIX)).exists():
                    left.unlink()
