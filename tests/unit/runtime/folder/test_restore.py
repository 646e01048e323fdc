"""What a restore that was cut off may still change: disks, NVRAM, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from asyncvmm.api import ConfigError, VmFolder
from asyncvmm.machine import SnapshotError
from asyncvmm.runtime.folder.layout import FolderPaths
from asyncvmm.runtime.folder.restore import RESTORE, SUFFIX, Intent, read_intent, write_intent
from asyncvmm.runtime.folder.running import locked
from asyncvmm.runtime.folder.settings_edit import set_value
from asyncvmm.storage import create_image, opened

DISK = "disks/data0.qcow2"
OLD, NEW = b"old", b"new"


def decide(folder: VmFolder, *targets: str, **values: Any) -> Path:
    """Let a restore stand before its last step; the file that says so."""
    path = folder.paths.snapshots / RESTORE
    path.write_text(json.dumps({"format": 2, "name": "one", "targets": targets, **values}))
    return path


def victim(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(OLD)
    path.with_name(f"{path.name}{SUFFIX}").write_bytes(NEW)
    return path


def refused(folder: VmFolder, said: str) -> None:
    with pytest.raises(SnapshotError, match=said) as caught, locked(folder.paths):
        pass
    assert str(folder.paths.snapshots / RESTORE) in str(caught.value)
    assert "without this file the disks stay as they are" in str(caught.value)


@pytest.mark.parametrize("how", ["absolute", "dots", "dots in disks", "link", "link to a folder"])
async def test_nothing_outside_is_touched(demo: VmFolder, tmp_path: Path, how: str) -> None:
    await demo.snapshot("one")
    outside = victim(tmp_path / "outside" / "mine")
    (demo.paths.disks / "link").symlink_to(outside.parent)
    named = {
        "absolute": str(outside),
        "dots": "../outside/mine",
        "dots in disks": "disks/../../outside/mine",
        "link": "disks/link/mine",
        "link to a folder": str(demo.paths.disks / "link" / "mine"),
    }[how]
    decide(demo, DISK, named)
    victim(demo.path / DISK)
    refused(demo, "is no path" if "dots in" in how else "is neither in .*disks nor a disk")
    assert outside.read_bytes() == OLD and (demo.path / DISK).read_bytes() == OLD


@pytest.mark.parametrize("name", ["vm.toml", "lock", "snapshots/one.json", "logs/vm.log"])
async def test_nothing_else_in_the_folder(demo: VmFolder, name: str) -> None:
    await demo.snapshot("one")
    before = demo.paths.config.read_bytes()
    (demo.path / f"{name}{SUFFIX}").write_bytes(NEW)
    decide(demo, name)
    refused(demo, "is neither in")
    assert demo.paths.config.read_bytes() == before


async def test_a_link_does_not_become_a_disk(demo: VmFolder, tmp_path: Path) -> None:
    await demo.snapshot("one")
    outside = victim(tmp_path / "outside" / "mine")
    before = (demo.path / DISK).read_bytes()
    (demo.path / f"{DISK}{SUFFIX}").symlink_to(outside)
    decide(demo, DISK)
    refused(demo, "there is no restored file for")
    assert (demo.path / DISK).read_bytes() == before and not (demo.path / DISK).is_symlink()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": "two"}, "there is no snapshot 'two'"),
        ({"name": "../one"}, "name is '../one'"),
        ({"name": None}, "name is 'None'"),
        ({"targets": [DISK, DISK]}, "names a file twice"),
        ({"targets": [7]}, "'7' is no path"),
        ({"targets": ["disks//data0.qcow2"]}, "is no path"),
        ({"targets": ["disks"]}, "is neither in"),
        ({"targets": [f"{DISK}{SUFFIX}"]}, "is no path"),
        ({"targets": ["disks/\ud800"]}, "is no path"),
        ({"targets": ["disks/gone"]}, "there is no restored file"),
        ({"format": 3}, "is of format '3'"),
        ({"format": True}, "does not say what"),
        ({"format": 1, "moves": [["a", "b"]]}, "is no restored disk"),
    ],
)
async def test_what_is_wrong_is_said(demo: VmFolder, values: dict[str, Any], said: str) -> None:
    await demo.snapshot("one")
    victim(demo.path / DISK)
    decide(demo, DISK, **values)
    with pytest.raises(SnapshotError, match=said), locked(demo.paths):
        pass
    assert (demo.path / DISK).read_bytes() == OLD


async def test_a_disk_elsewhere_that_vm_toml_names(demo: VmFolder, tmp_path: Path) -> None:
    disk = tmp_path / "elsewhere" / "more.qcow2"
    disk.parent.mkdir()
    create_image(disk, 1 << 20)
    set_value(demo.paths.config, "disks", [DISK, "../elsewhere/more.qcow2"])
    for text in (b"first", b"second"):
        with opened(disk) as image:
            image.pwrite(0, text)
        await demo.snapshot(text.decode())
    demo.restore("first")
    with opened(disk, read_only=True) as image:
        assert image.pread(0, 5) == b"first"
    set_value(demo.paths.config, "disks", [DISK])
    with pytest.raises(
        ConfigError, match=r"more\.qcow2' is neither in .* nor a disk that .*toml names"
    ):
        demo.restore("second")
    assert not (demo.paths.snapshots / RESTORE).exists()
    assert [path.name for path in disk.parent.iterdir()] == ["more.qcow2"]


async def test_a_folder_that_was_moved_in_the_middle(demo: VmFolder) -> None:
    with opened(demo.path / DISK) as image:
        image.pwrite(0, b"first")
    await demo.snapshot("one")
    shutil.copyfile(demo.path / DISK, demo.path / f"{DISK}{SUFFIX}")
    with opened(demo.path / DISK) as image:
        image.pwrite(0, b"second")
    write_intent(demo.paths, Intent("one", (demo.path / DISK,)))
    moved = FolderPaths(demo.path.rename(demo.path.with_name("moved.vm")))
    assert read_intent(moved) == Intent("one", (moved.root / DISK,))
    with locked(moved):
        folder = VmFolder(moved, demo.plugins)
        assert folder.head.resume == "one" and set(folder.head.disks) == {DISK}
        with opened(moved.root / DISK, read_only=True) as image:
            assert image.pread(0, 5) == b"first"
    assert not (moved.snapshots / RESTORE).exists()


def test_what_was_not_decided_is_cleared_away(demo: VmFolder) -> None:
    left = demo.path / f"{DISK}{SUFFIX}"
    left.write_bytes(NEW)
    own = demo.paths.disks / "mine.restored"
    own.write_bytes(OLD)
    with locked(demo.paths):
        assert not left.exists() and own.read_bytes() == OLD


async def test_the_disks_folder_is_a_link(demo: VmFolder, tmp_path: Path) -> None:
    """Its disks are where vm.toml says they are; nothing is cleared away there."""
    await demo.snapshot("one")
    elsewhere = demo.paths.disks.rename(tmp_path / "elsewhere")
    demo.paths.disks.symlink_to(elsewhere)
    bystander = elsewhere / "somebody.part"
    bystander.write_bytes(OLD)
    demo.restore("one")
    assert demo.head.resume == "one" and bystander.exists()
    outside = victim(elsewhere / "mine")
    decide(demo, "disks/mine")
    refused(demo, "is neither in")
    assert outside.read_bytes() == OLD and os.path.islink(demo.paths.disks)
