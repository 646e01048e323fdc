"""What claims to be durable is written, synced, renamed and its folder synced, in this order.

A kill keeps what the kernel has, so no campaign of kills sees a sync that is missing or late: this looks
at the order of the calls, as a power cut would.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from asyncvmm.api import VmFolder, create_vm, find_image
from asyncvmm.plugin.images import ImageCache, SilentProgress
from asyncvmm.storage import Qcow2Image, opened
from tests.simulation.test_disk_power_cuts import Recorded, verify

DISK = "disks/data0.qcow2"


class Trace:
    """Watches syncs and renames below ``root``; ``ignores`` syncs as if they were not there."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch, ignores: str = "") -> None:
        self.root = root
        self.ignores = ignores
        self.contents: dict[tuple[int, int], bytes] = {}  # of files when they were synced
        self.wrong: list[str] = []
        self.unsynced: dict[str, str] = {}  # folders, by what was renamed in them
        self.renames = 0
        for name in ("fsync", "fdatasync"):
            patch.setattr(os, name, self._watched(getattr(os, name)))
        for name in ("replace", "rename"):
            patch.setattr(os, name, self._renaming(getattr(os, name)))

    def _watched(self, real: Callable[[int], None]) -> Callable[[int], None]:
        def sync(fd: int) -> None:
            real(fd)
            path = os.readlink(f"/proc/self/fd/{fd}")
            if os.path.isdir(path):
                if self.ignores != "folders":
                    self.unsynced.pop(path, None)
            elif self.ignores != "files":
                self.contents[self._identity(path)] = Path(path).read_bytes()

        return sync

    def _renaming(self, real: Callable[..., None]) -> Callable[..., None]:
        def rename(source: Any, target: Any, **more: Any) -> None:
            kept = Path(target).is_relative_to(self.root) and Path(target).suffix != ".gone"
            if kept and "logs" not in Path(target).parts:
                self.renames += 1
                folder = Path(source)
                for path in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
                    if not self._is_synced(path):
                        self.wrong.append(f"{path} was renamed to {target} before it was synced")
                self.unsynced[os.path.realpath(Path(target).parent)] = str(target)
            real(source, target, **more)

        return rename

    def _is_synced(self, path: Path) -> bool:
        """Also what has nothing to lose: no contents, or another name, from which it was linked."""
        if not path.is_file() or path.stat().st_nlink > 1 or not path.stat().st_size:
            return True
        return self.contents.get(self._identity(path)) == path.read_bytes()

    @staticmethod
    def _identity(path: Path | str) -> tuple[int, int]:
        status = os.stat(path)
        return status.st_dev, status.st_ino

    def finish(self) -> None:
        """AssertionError when something was not durable when it was said to be."""
        assert self.renames
        assert not self.wrong, self.wrong
        assert not self.unsynced, self.unsynced


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VmFolder:
    monkeypatch.setenv("ASYNCVMM_STATE", str(tmp_path / "state"))
    cache = ImageCache(tmp_path / "cache")
    find_image("demo").pull(cache, SilentProgress())
    folder = create_vm(tmp_path / "demo.vm", image="demo", cache=cache, disks=("1M",))
    with opened(folder.path / DISK) as image:
        image.pwrite(0, b"first")
    trio.run(folder.snapshot, "one")
    return folder


ACTIONS: dict[str, Callable[[VmFolder], object]] = {
    "an edit": lambda folder: folder.set("seed", "7"),
    "an identity": lambda folder: folder.reseed(3),
    "a snapshot": lambda folder: trio.run(folder.snapshot, "two"),
    "a restore": lambda folder: folder.restore("one"),
    "a new machine": lambda folder: create_vm(
        folder.path.with_name("new.vm"), elf=folder.settings.guest.elf, disks=("1M",)
    ),
}


@pytest.mark.parametrize("what", ACTIONS)
def test_written_synced_renamed(demo: VmFolder, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        trace = Trace(demo.path.parent, patch)
        ACTIONS[what](demo)
    trace.finish()


@pytest.mark.parametrize("ignores", ["files", "folders"])
@pytest.mark.parametrize("what", ACTIONS)
def test_a_sync_that_is_missing_is_found(
    demo: VmFolder, what: str, ignores: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        trace = Trace(demo.path.parent, patch, ignores)
        ACTIONS[what](demo)
    with pytest.raises(AssertionError):
        trace.finish()


def _no_sync_before_pointers(image: Any, refcounts: Any) -> None:
    refcounts.write()
    refcounts.point()
    image.tables.write()
    image.file.sync()
    refcounts.settle()


def _acknowledged_before_the_sync(image: Any, refcounts: Any) -> None:
    image.file.sync()
    refcounts.write()
    refcounts.point()
    image.tables.write()
    refcounts.settle()


@pytest.mark.parametrize("broken", [_no_sync_before_pointers, _acknowledged_before_the_sync])
def test_a_disk_that_syncs_late_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: Callable[[Any, Any], None]
) -> None:
    """The checks of test_disk_power_cuts can fail: on a qcow2 that keeps its promises only without cuts."""
    monkeypatch.setattr(Qcow2Image, "_write_tables", broken)
    with pytest.raises(AssertionError):
        for seed in range(8):
            recorded = Recorded(tmp_path / f"{seed}.qcow2", None, seed, 512, 16)
            for _ in range(60):
                recorded.step()
            for point in range(0, len(recorded.file.ops) + 1, 3):
                verify(recorded, point, False, tmp_path / "crashed.qcow2")
