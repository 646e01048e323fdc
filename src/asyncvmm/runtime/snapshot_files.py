"""Snapshots on disk: a folder with a readable manifest and tables, and packs of pages beside it.

``NAME/manifest.json`` says what the guest was; ``NAME/memory.table`` and ``NAME/disk0.table`` say which
page is where in ``pages/*.pack``, which all snapshots of the folder above share. Everything is written
beside its place, made durable and renamed, the whole folder last. Whatever is read is checked before
anything is made of it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import attrs

from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.base.texts import shortened, shown
from asyncvmm.base.units import PAGE_SIZE
from asyncvmm.device import Blob
from asyncvmm.hypervisor import DiskRatesState
from asyncvmm.machine import (
    BootFile,
    BootFileReader,
    BootFiles,
    GuestConfig,
    MachineState,
    SnapshotError,
    read_boot_files,
)
from asyncvmm.machine.config import split_disk
from asyncvmm.memory.pages import PageTable, new_table
from asyncvmm.plugin import BlobSpec
from asyncvmm.runtime.blobs import open_file_blob
from asyncvmm.runtime.saved import HostSide, SavedGuest
from asyncvmm.storage import OverlayBlob, Qcow2Image, RawImage
from asyncvmm.storage.bounded import read_bounded
from asyncvmm.storage.hostfile import sync_folder
from asyncvmm.storage.packs import PackError, write_durably
from asyncvmm.storage.pagestore import PageStore

FORMAT: Final = 2  # see _UPGRADES
MANIFEST: Final = "manifest.json"
MANIFEST_KEYS: Final = frozenset(
    ("format", "time_ns", "config", "boot", "disks", "host", "machine")
)
HOST_MANIFEST: Final = "host.json"
PAGES: Final = "pages"
MEMORY: Final = "memory.table"
MAX_MANIFEST_BYTES: Final = 64 << 20
MAX_DISK_BYTES: Final = 1 << 43
MAX_DISKS: Final = 64
Upgrade = Callable[[dict[str, Any]], dict[str, Any]]  # a manifest of one format as the next has it
_boot_files: Final = BootFileReader()  # snapshots of one kernel read it once
# What a saved disk is over its blocks: the file as it is, or nothing but zeros.
FILE, ZEROS = "file", "zeros"


class Zeros(Blob):
    """Nothing but zeros, read-only."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes, True)

    def pread(self, offset: int, length: int) -> bytes:
        """See Blob."""
        return bytes(length)


def save(snapshot: SavedGuest, path: Path | str) -> int:
    """Write a snapshot to the new folder ``path``; how many pages were not there already.

    ConfigError when the folder exists, BackendError when something cannot be written.
    """
    with new_folder(Path(path)) as (part, store):
        write_guest(snapshot, part, store)
    return store.pages_written


@contextmanager
def new_folder(target: Path) -> Iterator[tuple[Path, PageStore]]:
    """Write a snapshot in this context: it takes its name at the end, all of it or nothing.

    ConfigError when there is something already, BackendError when something cannot be written.
    """
    if target.exists():
        raise ConfigError(f"{target}: there is something already: give the snapshot another name")
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        yield part, PageStore(target.parent / PAGES)
        part.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise BackendError(f"{target}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_guest(snapshot: SavedGuest, folder: Path, store: PageStore) -> None:
    """Write a guest's manifest and tables to ``folder``, its pages to ``store``."""
    store.save(folder / MEMORY, _pages(snapshot.state.pages))
    manifest = {
        "format": FORMAT,
        "time_ns": snapshot.state.values["now_ns"],
        "config": _config_values(snapshot.config),
        "boot": _boot_values(snapshot.files),
        "disks": [
            _save_disk(store, folder / f"disk{number}.table", disk, name)
            for number, (disk, name) in enumerate(
                zip(snapshot.disks, snapshot.disk_files, strict=True)
            )
        ],
        "host": _host_values(snapshot.host_side),
        "machine": dict(snapshot.state.values),
    }
    write_durably(folder / MANIFEST, json.dumps(manifest, indent=1).encode())


def load(path: Path | str) -> SavedGuest:
    """The snapshot in a folder. SnapshotError (a ConfigError) names the file and what is wrong."""
    folder = Path(path)
    if (folder / HOST_MANIFEST).exists():
        raise SnapshotError(f"{folder}: is a snapshot of a host: load it with HostSnapshot.load")
    return read_guest(folder, PageStore(folder.parent / PAGES))


def read_guest(folder: Path, store: PageStore) -> SavedGuest:
    """What ``write_guest`` wrote. An error names the manifest, or what of the state is damaged."""
    file = folder / MANIFEST
    try:
        return _read_guest(folder, store, file)
    except ConfigError as error:
        text = str(error)
        if isinstance(error, PackError) or text.startswith(f"{file}: "):
            raise
        raise SnapshotError(f"{file}: {shortened(text)}") from error


def _read_guest(folder: Path, store: PageStore, file: Path) -> SavedGuest:
    manifest = read_manifest(file, MANIFEST_KEYS, FORMAT, _UPGRADES)
    config = GuestConfig.from_mapping(_mapping(manifest, "config"))
    files = read_boot_files(config, _boot_files)
    if not _same_boot(files, _mapping(manifest, "boot")):
        raise SnapshotError("the kernel or another boot file of this guest has changed")
    table = new_table(config.memory // PAGE_SIZE)
    disks: list[Blob] = []
    try:
        for number, data, at in store.load(folder / MEMORY, int(table.page_count)):
            table.put(number, data, at)
        saved = manifest["disks"]
        if not isinstance(saved, list) or len(saved) > MAX_DISKS:
            raise SnapshotError(f"{file}: disks is not a short list")
        for number, one in enumerate(saved):
            disks.append(_load_disk(store, folder / f"disk{number}.table", file, one))
        return SavedGuest(
            config,
            files,
            MachineState(_mapping(manifest, "machine"), table),
            tuple(disks),
            tuple(one["file"] for one in saved),
            _host_side(file, _mapping(manifest, "host")),
        )
    except BaseException:
        table.release()
        for disk in disks:
            disk.close()
        raise


def delete(path: Path | str) -> None:
    """Remove a snapshot and the pages that no other snapshot beside it has."""
    folder = Path(path)
    if not any((folder / name).is_file() for name in (MANIFEST, HOST_MANIFEST)):
        raise ConfigError(f"{folder}: there is no snapshot")
    gone = folder.with_name(f"{folder.name}.{os.getpid()}.gone")
    try:
        folder.replace(gone)
        shutil.rmtree(gone)
    except OSError as error:
        raise BackendError(f"{folder}: cannot be removed: {error.strerror or error}") from error
    tables = [t for depth in ("*", "*/guest*") for t in folder.parent.glob(f"{depth}/*.table")]
    PageStore(folder.parent / PAGES).sweep(tables)


def saved_in(folder: Path | str) -> list[Path]:
    """The snapshots in a folder, of guests and of hosts, by name."""
    names = (MANIFEST, HOST_MANIFEST)
    return sorted(found.parent for name in names for found in Path(folder).glob(f"*/{name}"))


def read_manifest(
    file: Path, keys: frozenset[str], known: int, upgrades: Mapping[int, Upgrade]
) -> dict[str, Any]:
    """A file of JSON with these parts in the format ``known``, or in one that ``upgrades`` bring there
    step by step; SnapshotError says what is wrong.
    """
    try:
        manifest = json.loads(read_bounded(file, MAX_MANIFEST_BYTES, SnapshotError))
    except OSError as error:
        raise SnapshotError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise SnapshotError(f"{file}: is not JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise SnapshotError(f"{file}: is not a mapping")
    while type(number := manifest.get("format")) is int and number in upgrades:
        try:
            manifest = {**upgrades[number](manifest), "format": number + 1}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SnapshotError(f"{file}: format {number}: {shortened(repr(error))}") from error
    if number != known:
        raise SnapshotError(f"{file}: is of an unknown format (this is {known})")
    if set(manifest) != keys:
        wrong = ", ".join(sorted(set(manifest) ^ keys))
        raise SnapshotError(f"{file}: the parts differ: {shortened(wrong)}")
    return manifest


def _mapping(manifest: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = manifest[key]
    if not isinstance(value, dict):
        raise SnapshotError(f"{key} is not a mapping")
    return value


def _pages(table: PageTable) -> Iterator[tuple[int, bytes]]:
    for index in range(int(table.page_count)):
        if not table.is_absent(index):
            yield index, table.page_bytes(index)


# -- disks


def _save_disk(store: PageStore, table: Path, disk: Blob, file: str) -> dict[str, Any]:
    """The blocks of a disk that its file does not hold for good."""
    on_file = isinstance(disk, (RawImage, Qcow2Image))
    if isinstance(disk, OverlayBlob) and isinstance(disk.base, (RawImage, Qcow2Image, Zeros)):
        store.save(table, ((n, _block(disk, n)) for n in disk.changed()), zeros=True)
        base = ZEROS if isinstance(disk.base, Zeros) else FILE
    elif on_file:
        store.save(table, ())
        base = FILE
    else:
        count = -(-disk.size_bytes // PAGE_SIZE)
        store.save(table, ((number, _block(disk, number)) for number in range(count)))
        base = ZEROS
    stamp = _stamp(Path(split_disk(file).path)) if base == FILE else 0
    return {"base": base, "file": file, "stamp": stamp, "size_bytes": disk.size_bytes,
            "writable": isinstance(disk, OverlayBlob) or not on_file}  # fmt: skip


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError as error:
        raise SnapshotError(f"{path}: cannot be read: {error.strerror}") from error


def _block(disk: Blob, number: int) -> bytes:
    start = number * PAGE_SIZE
    return disk.pread(start, min(PAGE_SIZE, disk.size_bytes - start)).ljust(PAGE_SIZE, b"\0")


def _load_disk(store: PageStore, table: Path, file: Path, saved: object) -> Blob:
    keys = {"base", "file", "stamp", "size_bytes", "writable"}
    if not isinstance(saved, dict) or set(saved) != keys or saved["base"] not in (FILE, ZEROS):
        raise SnapshotError(f"{file}: a disk has other parts")
    size = saved["size_bytes"]
    if type(size) is not int or not 0 < size <= MAX_DISK_BYTES or type(saved["file"]) is not str:
        raise SnapshotError(f"{file}: a disk of {shown(size)} bytes")
    base: Blob = Zeros(size)
    if saved["base"] == FILE:
        options = split_disk(saved["file"])
        base = open_file_blob(BlobSpec(options.path, True, options.format))
        if base.size_bytes != size or _stamp(options.path) != saved["stamp"]:
            base.close()
            raise SnapshotError(f"{options.path}: has changed since it was part of {file.parent}")
    if saved["writable"] is not True:
        return base
    disk = OverlayBlob(base)
    try:
        for number, data, at in store.load(table, -(-size // PAGE_SIZE)):
            start = number * PAGE_SIZE
            disk.pwrite(start, data[at : at + min(PAGE_SIZE, size - start)])
    except BaseException:
        disk.close()
        raise
    return disk


# -- what is in the manifest


def _config_values(config: GuestConfig) -> dict[str, Any]:
    return {
        key: str(value) if isinstance(value, Path) else value
        for key, value in attrs.asdict(config, recurse=False).items()
        if value is not None
    }


def _boot_values(files: BootFiles) -> dict[str, Any]:
    """What the guest boots from after a reset: the hash of each file, and which file it was."""
    return {
        name: {"sha256": file.sha256, "identity": list(file.identity)}
        for name, file in _each(files).items()
    }


def _same_boot(files: BootFiles, saved: Mapping[str, Any]) -> bool:
    """Whether these are the files: the same as they were, or (for they may have been copied) equal."""
    found = _each(files)
    return found.keys() == saved.keys() and all(
        isinstance(one := saved[name], dict)
        and (
            (file.identity and one.get("identity") == list(file.identity))
            or one.get("sha256") == file.sha256
        )
        for name, file in found.items()
    )


def _each(files: BootFiles) -> dict[str, BootFile]:
    each = {field.name: getattr(files, field.name) for field in attrs.fields(BootFiles)}
    return {name: file for name, file in each.items() if file is not None}


def _from_1(manifest: dict[str, Any]) -> dict[str, Any]:
    """Format 1 had only the hashes of boot files."""
    boot = {name: {"sha256": sha, "identity": []} for name, sha in manifest["boot"].items()}
    return {**manifest, "boot": boot}


_UPGRADES: Final[Mapping[int, Upgrade]] = {1: _from_1}


def _host_values(side: HostSide) -> dict[str, Any]:
    return {
        "console": side.console.hex(),
        "ready": side.ready,
        "next_command": side.next_command,
        "command": side.command,
        "heard": side.heard.hex(),
        "disks": None if side.disks is None else side.disks.save(),
        "cards": None if side.cards is None else side.cards.save(),
    }


def _host_side(file: Path, saved: dict[str, Any]) -> HostSide:
    try:
        side = HostSide(
            bytes.fromhex(saved["console"]),
            saved["ready"],
            saved["next_command"],
            saved["command"],
            bytes.fromhex(saved["heard"]),
            None if saved["disks"] is None else DiskRatesState.load(saved["disks"]),
            None if saved["cards"] is None else DiskRatesState.load(saved["cards"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SnapshotError(f"{file}: host: {shortened(repr(error))}") from error
    numbers = (side.next_command, side.command)
    if type(side.ready) is not bool or any(type(n) is not int for n in numbers):
        raise SnapshotError(f"{file}: host: numbers were expected")
    if not all(0 <= number <= 0xFFFF for number in numbers) or not side.next_command:
        raise SnapshotError(f"{file}: host: a command of {numbers}")
    return side
