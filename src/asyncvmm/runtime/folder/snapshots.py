"""The snapshots of a folder: saved states by name, each with what it came from.

``snapshots/NAME/`` is what ``Snapshot.save`` writes, ``snapshots/NAME.json`` says when, from which other one
it descends, and where the folder was, ``snapshots/NAME.nvram`` is the NVRAM. All calls need the
folder's lock.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import attrs

from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.machine import SnapshotError
from asyncvmm.machine.config import split_disk
from asyncvmm.plugin.options import nearest
from asyncvmm.runtime import snapshot_files
from asyncvmm.runtime.folder.disks import file_backed, kept_files, write_disk
from asyncvmm.runtime.folder.head import STOPPED, Head, read_head, stamp_of, write_head
from asyncvmm.runtime.folder.layout import NAME, FolderPaths, check_name
from asyncvmm.runtime.folder.restore import (
    RESTORE,
    Intent,
    check_targets,
    forget_parts,
    part_of,
    read_intent,
    take_names,
    target_of,
    write_intent,
)
from asyncvmm.runtime.folder.small_json import read_object
from asyncvmm.runtime.snapshots import Snapshot
from asyncvmm.storage.hostfile import sync_folder
from asyncvmm.storage.nvram import Nvram
from asyncvmm.storage.packs import write_durably

FORMAT: Final = 1
MAX_INFO_BYTES: Final = 64 << 10
MAX_NUMBER: Final = 1 << 63


@attrs.frozen
class SnapshotInfo:
    """What ``list`` and ``tree`` show. ``created_s`` is Unix time, ``root`` where the folder was."""

    name: str
    parent: str | None
    created_s: float
    time_ns: int
    memory_bytes: int
    note: str = ""
    root: str = ""
    damage: str = ""


class FolderSnapshots:
    """The snapshots in a folder."""

    def __init__(self, paths: FolderPaths) -> None:
        self.paths: Final = paths
        self.folder: Final = paths.snapshots

    # -- looking

    def names(self, *, hidden: bool = False) -> list[str]:
        """Of all that are whole, in order of their names; the kept state of a stop only if ``hidden``."""
        found = [path.name for path in snapshot_files.saved_in(self.folder)]
        return [n for n in found if NAME.fullmatch(n) or (hidden and n == STOPPED)]

    def list(self, *, hidden: bool = False) -> list[SnapshotInfo]:
        """All, oldest first; a damaged one says what is wrong with it."""
        found = [self._info_or_damage(name) for name in self.names(hidden=hidden)]
        return sorted(found, key=lambda info: (info.created_s, info.name))

    def info(self, name: str) -> SnapshotInfo:
        """One of them; SnapshotError names what is damaged."""
        self._check_known(name)
        return read_info(self._info_path(name), name)

    def _info_or_damage(self, name: str) -> SnapshotInfo:
        try:
            return self.info(name)
        except SnapshotError as error:
            return SnapshotInfo(name, None, 0.0, 0, 0, damage=str(error))

    def path(self, name: str) -> Path:
        """Where it is."""
        return self.folder / name

    def known_path(self, name: str) -> Path:
        """Where it is; ConfigError when there is none of this name."""
        self._check_known(name)
        return self.path(name)

    def _info_path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def nvram(self, name: str) -> Nvram | None:
        """The NVRAM of a state, if it has one; NvramError when it is damaged."""
        path = self._nvram_path(name)
        return Nvram.load(path) if os.path.lexists(path) else None

    def _nvram_path(self, name: str) -> Path:
        return self.folder / f"{name}.nvram"

    def _check_known(self, name: str) -> None:
        known = self.names(hidden=True)
        if name not in known:
            hint = nearest(name, [each for each in known if each != STOPPED])
            raise ConfigError(f"{self.paths.root}: no snapshot {name!r}: {hint}")

    # -- keeping

    def check_new(self, name: str) -> None:
        """ConfigError when a snapshot cannot be called so."""
        if name != STOPPED:
            check_name(name, "snapshot")
        if self.path(name).exists():
            raise ConfigError(
                f"{self.paths.root}: there is a snapshot {name!r} already: give this one another name, "
                f"or `asyncvmm snapshot delete {self.paths.root} {name}`"
            )

    def save(
        self, snapshot: Snapshot, name: str, parent: str | None, nvram: Nvram, note: str = ""
    ) -> int:
        """Write a state, durably; how many pages are new. Its disks must be apart from their files."""
        self.check_new(name)
        info = SnapshotInfo(
            name,
            parent,
            time.time(),
            snapshot.time_ns,
            snapshot.resident_bytes,
            note,
            str(self.paths.root),
        )
        _write_info(self._info_path(name), info)
        nvram.save(self._nvram_path(name))
        return snapshot.save(self.path(name))

    def load(self, name: str) -> Snapshot:
        """A state as a value; SnapshotError or another ConfigError names what is damaged."""
        self._check_known(name)
        self._relocate(name)
        return Snapshot.load(self.path(name))

    def delete(self, name: str) -> None:
        """Forget a state and the pages that no other has; what descended from it descends from its
        parent. ConfigError when the machine is to go on from it.
        """
        self._check_known(name)
        head = read_head(self.paths.head)
        if head.resume == name and name != STOPPED:
            raise ConfigError(
                f"{self.paths.root}: goes on from {name!r} at its next start; before it is deleted, start "
                "it (`--cold` forgets that state)"
            )
        parent = self._info_or_damage(name).parent
        for other in self.list(hidden=True):
            if other.parent == name and not other.damage:
                _write_info(self._info_path(other.name), attrs.evolve(other, parent=parent))
        if head.parent == name:
            write_head(self.paths.head, attrs.evolve(head, parent=parent))
        snapshot_files.delete(self.path(name))
        for path in (self._info_path(name), self._nvram_path(name)):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise BackendError(f"{path}: cannot be removed: {error.strerror}") from error

    # -- going on from one

    def restore(self, name: str, progress: Callable[[int, int], None] | None = None) -> Head:
        """Make the machine's disks what they were, and its next start go on from there.

        New disks are written beside the old ones; once all are durable an intent is, and then they take
        their names: a crash leaves all disks old or all new (see ``finish_restore``).
        """
        targets = []
        with self.load(name) as snapshot:
            kept = kept_files(snapshot.config)
            targets = [target_of(disk.path) for disk in kept.values()]
            check_targets(self.paths, targets)
            for (number, disk), target in zip(kept.items(), targets, strict=True):
                blob, below = snapshot.saved.disks[number], snapshot.saved.disk_files[number]
                part = part_of(target)
                write_disk(blob, below, disk, part, *(() if progress is None else (progress,)))
        nvram = self.nvram(name)
        if nvram is not None:
            nvram.save(part_of(self.paths.nvram))
            targets.append(self.paths.nvram)
        write_intent(self.paths, Intent(name, tuple(targets)))
        self.finish_restore()
        return read_head(self.paths.head)

    def finish_restore(self) -> None:
        """Do what is left of a restore that was decided; nothing when there is none."""
        intent = read_intent(self.paths)
        if intent is None:
            forget_parts(self.paths)
            return
        name = intent.name
        if name not in self.names(hidden=True):
            raise SnapshotError(f"{self.folder / RESTORE}: there is no snapshot {name!r}")
        take_names(self.paths, intent)
        disks = [target for target in intent.targets if target != self.paths.nvram]
        stamps = disk_stamps(self.paths, disks)
        parent = self._info_or_damage(name).parent if name == STOPPED else name
        write_head(self.paths.head, Head(parent, name, stamps))
        (self.folder / RESTORE).unlink()
        sync_folder(self.folder)

    def resume(self, name: str, head: Head) -> Snapshot:
        """The state that the machine goes on from, on the disks as they are in the folder.

        ConfigError when they were changed meanwhile.
        """
        snapshot = self.load(name)
        for relative, stamp in head.disks.items():
            path = self.paths.root / relative
            if stamp_of(path) != stamp:
                snapshot.close()
                raise ConfigError(
                    f"{path}: was changed since the machine's state was saved, which does not fit it any "
                    f"more: `asyncvmm start --cold {self.paths.root}` boots with the disk as it is"
                )
        saved = snapshot.saved
        return Snapshot(attrs.evolve(saved, disks=file_backed(saved.disks, saved.config)))

    def _relocate(self, name: str) -> None:
        """A folder that was moved: what the state says of its files is true again."""
        try:
            info = self.info(name)
        except SnapshotError:
            return
        here = str(self.paths.root)
        if not info.root or info.root == here:
            return
        path = self.path(name) / snapshot_files.MANIFEST
        try:
            manifest = read_object(path, snapshot_files.MAX_MANIFEST_BYTES, SnapshotError)
        except SnapshotError:
            return  # loading it says what is wrong
        if not isinstance(manifest.get("disks"), list):
            return
        moved = _moved(manifest, info.root, here)
        for number, disk in enumerate(moved["disks"]):
            _restamp(disk, manifest["disks"][number])
        write_durably(path, json.dumps(moved, indent=1).encode())
        _write_info(self._info_path(name), attrs.evolve(info, root=here))


def disk_stamps(paths: FolderPaths, disks: Iterable[Path]) -> dict[str, tuple[int, int]]:
    """For a head: the disks as they are, by where they are from the folder."""
    return {os.path.relpath(disk, paths.root): stamp_of(disk) for disk in disks}


def _moved(value: Any, old: str, new: str) -> Any:
    """Paths below ``old`` are below ``new``, in the parts of a manifest that name files."""
    if not isinstance(value, dict):
        return value
    return {
        key: _replace(part, old, new) if key in ("config", "disks") else part
        for key, part in value.items()
    }


def _replace(value: Any, old: str, new: str) -> Any:
    if isinstance(value, str):
        return new + value[len(old) :] if value.startswith(f"{old}/") else value
    if isinstance(value, list):
        return [_replace(each, old, new) for each in value]
    if isinstance(value, dict):
        return {key: _replace(each, old, new) for key, each in value.items()}
    return value


def _restamp(disk: Any, before: Any) -> None:
    """A copied folder has copies of the files below its disks, of the same size and another time."""
    if not isinstance(disk, dict) or disk.get("base") != snapshot_files.FILE:
        return
    if disk.get("file") == before.get("file") or not isinstance(disk.get("file"), str):
        return
    path = split_disk(disk["file"]).path
    if path.is_file() and path.stat().st_size == disk.get("size_bytes"):
        disk["stamp"] = path.stat().st_mtime_ns


def _write_info(path: Path, info: SnapshotInfo) -> None:
    values = {"format": FORMAT, **attrs.asdict(info)}
    del values["damage"]
    write_durably(path, json.dumps(values, indent=1).encode() + b"\n")


def read_info(path: Path, name: str) -> SnapshotInfo:
    """What ``NAME.json`` says; SnapshotError names what is wrong with it."""
    values = read_object(path, MAX_INFO_BYTES, SnapshotError)
    kinds = {"name": str, "created_s": float, "time_ns": int, "memory_bytes": int, "note": str,
             "root": str}  # fmt: skip
    if set(values) != {*kinds, "format", "parent"} or values["format"] != FORMAT:
        raise SnapshotError(f"{path}: has other parts, or is of an unknown format")
    for key, kind in kinds.items():
        if type(values[key]) is not kind:
            raise SnapshotError(f"{path}: {key} is {str(values[key])[:80]!r}")
    parent = values["parent"]
    if values["name"] != name or not (
        parent is None or (isinstance(parent, str) and NAME.fullmatch(parent))
    ):
        raise SnapshotError(f"{path}: is of another snapshot, or its parent is no name")
    numbers = (values["time_ns"], values["memory_bytes"])
    if not 0 <= values["created_s"] < 1e11 or not all(0 <= n < MAX_NUMBER for n in numbers):
        raise SnapshotError(f"{path}: a number in it cannot be")
    del values["format"]
    return SnapshotInfo(**values)
