"""A machine in a folder: made whole or not at all, run, kept, gone on from, moved."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from asyncvmm.api import ConfigError, VmFolder, create_vm, open_folder
from asyncvmm.cli import main
from asyncvmm.plugin import PluginManager
from asyncvmm.plugin.images import ImageCache
from asyncvmm.runtime.folder.lock import FolderBusyError, FolderLock
from asyncvmm.runtime.folder.logs import LogEntry
from asyncvmm.storage import check_image, opened


def events(folder: VmFolder) -> list[str]:
    return [entry.event for entry in folder.log() if isinstance(entry, LogEntry)]


def test_a_folder_has_its_files(demo: VmFolder) -> None:
    names = sorted(path.name for path in demo.path.iterdir())
    assert names == ["disks", "image", "lock", "logs", "nvram.bin", "snapshots", "vm.toml"]
    assert demo.settings.image == "demo" and demo.settings.guest.name == "demo"
    assert check_image(demo.path / "disks/data0.qcow2").clean
    assert demo.holder is None


def test_what_cannot_be_made_leaves_nothing(
    tmp_path: Path, plugins: PluginManager, demo_cache: ImageCache
) -> None:
    target = tmp_path / "x.vm"

    def make(**wanted: object) -> None:
        create_vm(target, image="demo", plugins=plugins, cache=demo_cache, **wanted)  # type: ignore[arg-type]

    with pytest.raises(ConfigError, match=r"x\.vm/vm\.toml, line \d+: harts"):
        make(harts=99)
    with pytest.raises(ConfigError, match="neither a file nor a size"):
        make(disks=("4X",))
    with pytest.raises(ConfigError, match="did you mean 'memory'"):
        make(keys={"memori": "3"})
    with pytest.raises(ConfigError, match="no such file"):
        create_vm(target, kernel=tmp_path / "missing", plugins=plugins)
    assert list(tmp_path.iterdir()) == []
    make()
    with pytest.raises(ConfigError, match="exists already"):
        make()
    with pytest.raises(ConfigError, match="is not the folder of a virtual machine"):
        open_folder(tmp_path)
    with pytest.raises(ConfigError, match="asyncvmm create"):
        open_folder(tmp_path / "other.vm")


def test_a_disk_file_is_copied(
    tmp_path: Path, plugins: PluginManager, demo_cache: ImageCache
) -> None:
    source = tmp_path / "a.img"
    source.write_bytes(b"hello".ljust(1 << 20, b"\0"))
    folder = create_vm(
        tmp_path / "x.vm", image="demo", plugins=plugins, cache=demo_cache, disks=(str(source),)
    )
    with opened(folder.path / "disks/data0.qcow2") as image:
        assert image.pread(0, 5) == b"hello"


async def test_its_state_is_kept_and_gone_on_from(demo: VmFolder) -> None:
    async with demo.run() as machine:
        await machine.guest.console.expect("demo> ")
        assert demo.holder is not None
        with pytest.raises(FolderBusyError):
            FolderLock(demo.paths.lock)
        digest = machine.guest.machine.digest()
        await machine.save_and_stop()
    assert demo.head.resume == "_stopped" and demo.snapshots == []
    async with demo.run(clock="realtime") as machine:
        assert machine.resumed == "_stopped" and demo.head.resume is None
        assert machine.guest.machine.digest() == digest
        assert machine.guest.config.clock == "realtime"
        await machine.guest.console.send_all(b"echo on\r")
        await machine.guest.console.expect("\non\r\n")
    assert demo.head.resume is None
    assert events(demo) == ["start", "saved", "end", "start", "end"]
    assert b"demo> " in demo.paths.console_log.read_bytes()


async def test_a_kept_state_does_not_fit_a_changed_disk(demo: VmFolder) -> None:
    async with demo.run() as machine:
        await machine.save_and_stop()
    disk = demo.path / "disks/data0.qcow2"
    os.utime(disk, ns=(1, 1))
    with pytest.raises(ConfigError, match="--cold"):
        async with demo.run():
            pass
    with pytest.raises(ConfigError, match="has its memory already"):
        async with demo.run(memory="64M"):
            pass
    assert demo.head.resume == "_stopped"
    async with demo.run(cold=True, memory="64M") as machine:
        assert machine.guest.config.memory == 64 << 20
    assert demo.head.resume is None


async def test_a_moved_and_a_copied_folder_go_on(demo: VmFolder, tmp_path: Path) -> None:
    async with demo.run() as machine:
        await machine.guest.console.expect("demo> ")
        digest = machine.guest.machine.digest()
        await machine.snapshot("ready")
        await machine.save_and_stop()
    copy = tmp_path / "copy.vm"
    shutil.copytree(demo.path, copy)
    moved = tmp_path / "elsewhere"
    demo.path.rename(moved)
    for path in (moved, copy):
        folder = open_folder(path, plugins=demo.plugins)
        async with folder.run() as machine:
            assert machine.resumed == "_stopped" and machine.guest.machine.digest() == digest
            assert str(machine.guest.config.elf).startswith(str(path))
        folder.restore("ready")
        async with folder.run() as machine:
            assert machine.resumed == "ready" and machine.guest.machine.digest() == digest


async def test_leftovers_of_a_crash_are_cleared(demo: VmFolder) -> None:
    (demo.path / "vm.toml.99.part").write_text("half")
    (demo.paths.snapshots / "x.99.part").mkdir()
    (demo.paths.snapshots / "y.99.gone").mkdir()
    (demo.paths.disks / "data0.qcow2.restored").write_text("half")
    async with demo.run():
        pass
    assert not [
        path for path in demo.path.rglob("*") if path.suffix in (".part", ".gone", ".restored")
    ]


# -- the commands


@pytest.fixture
def cache(demo_cache: ImageCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCVMM_CACHE", str(demo_cache.root))
    monkeypatch.setenv("ASYNCVMM_STATE", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("cache")
def test_create_config_run_and_rm(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["create", "a.vm", "--image", "demo", "--memory", "64M", "--set", "seed=7"]) == 0
    assert main(["config", "get", "a.vm", "seed"]) == 0
    assert main(["config", "set", "a.vm", "harts", "2"]) == 0
    assert main(["config", "get", "a.vm"]) == 0
    out = capfd.readouterr().out
    assert out.startswith("7\n# The virtual machine") and "harts = 2" in out
    assert main(["config", "set", "a.vm", "hart", "2"]) == 2
    assert "did you mean 'harts'?" in capfd.readouterr().err
    assert main(["run", "a.vm", "--until", "demo> "]) == 0
    assert "64 MiB of RAM" in capfd.readouterr().out
    assert main(["run", "a.vm", "--kernel", "x"]) == 2
    assert main(["run", "demo", "--cold"]) == 2
    assert main(["rm", "a.vm"]) == 2
    assert "give --yes" in capfd.readouterr().err
    with FolderLock(tmp_path / "a.vm/lock"):
        assert main(["rm", "--yes", "a.vm"]) == 1
        assert f"is in use by pid {os.getpid()}" in capfd.readouterr().err
    assert main(["rm", "--yes", "a.vm"]) == 0
    assert not (tmp_path / "a.vm").exists()
    assert main(["run", "a.vm/"]) == 2
    assert main(["create", "b.vm"]) == 2
    assert "nothing to boot" in capfd.readouterr().err
