"""The small files of a machine's folder: what it goes on from, what its snapshots are called, who has it.

Whatever they say, reading them is a value or a typed error that names the file, what is shown of them can be
printed, and nothing outside of the folder is touched.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

from asyncvmm.cli.ps import describe_row
from asyncvmm.cli.snapshot import list_lines, tree_lines
from asyncvmm.runtime.folder.head import read_head, stamp_of
from asyncvmm.runtime.folder.index import read_entry
from asyncvmm.runtime.folder.layout import FolderPaths
from asyncvmm.runtime.folder.lock import FolderLock, holder_of, read_holder
from asyncvmm.runtime.folder.logs import parse_entry
from asyncvmm.runtime.folder.restore import RESTORE, SUFFIX
from asyncvmm.runtime.folder.snapshots import FolderSnapshots
from asyncvmm.storage.nvram import Nvram
from tools.fuzz.files import read_or_refused, scratch
from tools.fuzz.json_values import changed_json

DISK: Final = "disks/data0.qcow2"
_HEADS: Final = (
    {"format": 1, "parent": None, "resume": None, "disks": {}},
    {"format": 1, "parent": "one", "resume": "one", "disks": {DISK: [65536, 1_700_000_000_000_000_000]}},
    {"format": 1, "parent": "two", "resume": "_stopped", "disks": {DISK: [1, 2], "../x": [3, 4]}},
)  # fmt: skip
_INFOS: Final = (
    {"format": 1, "name": "one", "parent": None, "created_s": 1_700_000_000.5, "time_ns": 5_000_000_000,
     "memory_bytes": 1 << 20, "note": "the first", "root": "/somewhere/demo.vm"},
    {"format": 1, "name": "one", "parent": "two", "created_s": 0.0, "time_ns": 0,
     "memory_bytes": 0, "note": "", "root": ""},
)  # fmt: skip
_HOLDER: Final = {"pid": 71, "host": "here", "command": "asyncvmm start demo.vm",
                  "since_s": 1_700_000_000.5, "serves": True}  # fmt: skip
_ENTRIES: Final = (
    {"wall": "2026-11-24T12:00:00.000Z", "virtual_ns": 5_000_000_000, "event": "device",
     "source": "blk0", "text": "something", "n": 7},
    {"wall": "2026-11-24T12:00:00.000Z", "virtual_ns": None, "event": "start", "words": ["a", "b"]},
)  # fmt: skip
_TOML: Final = (
    'elf = "image/x.elf"\ndisks = ["disks/data0.qcow2", "../shared/more.raw", "own.raw"]\n'
)
SEEDS: Final = {"entry": (b"/home/somebody/web.vm\n", b"/a/b\n", b"/\xff\xc3\xa9.vm\n")}
OLD: Final = b"as it was"
NEW: Final = b"restored"
MINE: Final = b"somebody's"


@functools.cache
def _root() -> Path:
    """The folder of a machine, and beside it what is none of its business."""
    root = scratch() / "demo.vm"
    for name in ("one", "two"):
        (root / "snapshots" / name).mkdir(parents=True)
        (root / "snapshots" / name / "manifest.json").write_text("{}")
    for name in ("disks", "logs"):
        (root / name).mkdir()
    (root / "vm.toml").write_text(_TOML)
    Nvram.fresh(1).save(root / "nvram.bin")
    for name in ("outside", "shared"):
        (scratch() / name).mkdir()
    return root


def _paths() -> FolderPaths:
    return FolderPaths(_root())


def fuzz_head(data: bytes) -> None:
    """snapshots/head.json, and the tree that shows it."""
    paths = _paths()
    paths.head.write_bytes(changed_json(data, _HEADS))
    head = read_or_refused(lambda: read_head(paths.head), paths.head)
    if head is not None:
        _show("\n".join(tree_lines(head, [])))
        for name in head.disks:
            read_or_refused(lambda name=name: stamp_of(paths.root / name), paths.root, name)  # type: ignore[misc]


def fuzz_info(data: bytes) -> None:
    """snapshots/NAME.json, listed and in a tree."""
    paths = _paths()
    paths.head.unlink(missing_ok=True)
    (paths.snapshots / "one.json").write_bytes(changed_json(data, _INFOS))
    found = FolderSnapshots(paths).list()
    assert sorted(info.name for info in found) == ["one", "two"]
    assert all(str(paths.snapshots) in info.damage or not info.damage for info in found)
    head = read_head(paths.head)
    _show("\n".join([*list_lines(head, found), *tree_lines(head, found)]))


def fuzz_lock(data: bytes) -> None:
    """The lock: of somebody who has it, and of somebody who died with it."""
    path = _paths().lock
    raw = changed_json(data, (_HOLDER,))
    path.write_bytes(raw)
    holder = read_or_refused(lambda: read_holder(path), path)
    assert holder_of(path) is None
    with FolderLock(path) as lock:
        assert (lock.died is None) == (not raw)
        found = lock.died or holder
        if found is not None:
            state = {
                "folder": "demo.vm",
                "state": "in use",
                "pid": found.pid,
                "command": found.command,
            }
            _show(f"{found.describe()} {' '.join(describe_row(state))}")
    assert not path.read_bytes()


def fuzz_log(data: bytes) -> None:
    """A line of vm.log."""
    line = changed_json(data, _ENTRIES).replace(b"\n", b" ")
    entry = read_or_refused(lambda: parse_entry(line, "vm.log, line 7"), "vm.log, line 7")
    if entry is not None:
        _show(entry.format())


def fuzz_entry(data: bytes) -> None:
    """What ``ps`` knows a machine by."""
    path = scratch() / "entry"
    path.write_bytes(data)
    root = read_or_refused(lambda: read_entry(path), path)
    assert root is None or root.is_absolute()


def fuzz_restore(data: bytes) -> None:
    """snapshots/restore.json: what it moves, and that it moves nothing else."""
    paths = _paths()
    before = _prepared(paths)
    path = paths.snapshots / RESTORE
    raw = changed_json(data, _intents(paths.root), _places(paths.root), damage=0.05)
    path.write_bytes(raw)
    try:
        _restore(paths, before)
    finally:
        path.unlink(missing_ok=True)
        if paths.head.exists() or _files() != before:
            paths.head.unlink(missing_ok=True)
            _prepared.cache_clear()


@functools.cache
def _prepared(paths: FolderPaths) -> dict[str, bytes | str]:
    return _prepare(paths)


def _restore(paths: FolderPaths, before: dict[str, bytes | str]) -> None:
    path = paths.snapshots / RESTORE
    snapshots = FolderSnapshots(paths)
    done = read_or_refused(lambda: snapshots.finish_restore() or True, path)
    after = _files()
    allowed = {"demo.vm/nvram.bin", "demo.vm/own.raw", "shared/more.raw", "demo.vm/vm.toml"}
    for name in before.keys() | after.keys():
        target = name.removesuffix(SUFFIX)
        if before.get(name) == after.get(name):
            continue
        assert target in allowed - {"demo.vm/vm.toml"} or target.startswith("demo.vm/disks/"), name
        if name == target:  # an old file is what lay beside it, or what it was
            assert after.get(name) == before.get(name + SUFFIX), name
        else:
            assert name not in after, name
    if done:
        assert not path.exists()
        head = read_head(paths.head)
        assert head.resume is None or head.disks is not None


def _prepare(paths: FolderPaths) -> dict[str, bytes | str]:
    """All files as they were, with new ones beside each, also where none can be."""
    shutil.rmtree(paths.disks)
    (paths.disks / "more").mkdir(parents=True)
    (paths.disks / "link").symlink_to("../../outside")
    (paths.disks / f"planted{SUFFIX}").symlink_to("../../outside/victim")
    (paths.disks / f"folder{SUFFIX}").mkdir()
    for name in ("disks/data0.qcow2", "disks/more/data1.raw", "own.raw", "../shared/more.raw",
                 "../outside/victim"):  # fmt: skip
        (paths.root / name).write_bytes(MINE if "outside" in name else OLD)
        (paths.root / f"{name}{SUFFIX}").write_bytes(NEW)
    (paths.root / "vm.toml").write_text(_TOML)
    (paths.root / f"vm.toml{SUFFIX}").write_text("elf = 'evil'\n")
    (paths.root / f"nvram.bin{SUFFIX}").write_bytes(NEW)
    paths.nvram.write_bytes(OLD)
    (paths.snapshots / "one.json").write_text(json.dumps(_INFOS[0]))
    return _files()


def _files() -> dict[str, bytes | str]:
    """What lies where, of all that a restore could reach."""
    found: dict[str, bytes | str] = {}
    for folder in ("demo.vm", "demo.vm/disks", "demo.vm/disks/more", "outside", "shared"):
        with os.scandir(scratch() / folder) as entries:
            for entry in entries:
                name = f"{folder}/{entry.name}"
                if entry.is_symlink():
                    found[name] = os.readlink(entry.path)
                elif entry.is_file():
                    found[name] = Path(entry.path).read_bytes()
    return found


def _intents(root: Path) -> tuple[Any, ...]:
    place = f"{root}/{DISK}"
    return (
        {"format": 2, "name": "one", "targets": [DISK, "nvram.bin"]},
        {"format": 2, "name": "_stopped", "targets": [DISK, str(root.parent / "shared/more.raw"), "own.raw"]},
        {"format": 2, "name": "two", "targets": ["nvram.bin"]},
        {"format": 1, "name": "one", "moves": [[f"{place}{SUFFIX}", place]]},
    )  # fmt: skip


@functools.cache
def _places(root: Path) -> tuple[str, ...]:
    names = (
        "disks/more/data1.raw", "disks/data0.qcow2", "nvram.bin", "own.raw", "../shared/more.raw",
        "../outside/victim", "disks/../../outside/victim", "disks/link/victim", "disks/link", "vm.toml",
        "disks/../vm.toml", "snapshots/one.json", "disks/planted", "disks/folder", "disks", "disks/", ".",
        "", "/", "..", "disks/..", "disks/.", "lock", "logs/vm.log", "./nvram.bin", "disks//data0.qcow2",
        "more/data1.raw", "disks/more", f"{DISK}{SUFFIX}", "disks/not/there", "disks/nothing",
        "disks/more/../data0.qcow2", "../demo.vm/disks/data0.qcow2", "../demo.vm/vm.toml",
    )  # fmt: skip
    shown = [*names, *(str(root / name) for name in names), str(root.parent / "outside/victim")]
    shown.append(str(root.parent / "shared/more.raw"))
    return tuple([json.dumps(name) for name in shown])


def _show(text: str) -> None:
    """As a terminal gets it."""
    text.encode()
    assert all(each.isprintable() or each == "\n" for each in text), repr(text)[:500]
