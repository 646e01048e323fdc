"""The folder of a machine that a stranger made: pipes, devices, links and words that move the cursor."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import trio

from asyncvmm.api import AsyncvmmError, VmFolder, create_vm, find_image
from asyncvmm.cli import main
from asyncvmm.plugin.images import ImageCache, SilentProgress
from asyncvmm.runtime.folder.layout import FolderPaths
from asyncvmm.runtime.folder.lock import FolderLock, holder_of
from asyncvmm.runtime.folder.logs import ConsoleLog, VmLog, parse_entry
from asyncvmm.runtime.folder.settings import LogLimits
from asyncvmm.storage.packs import write_durably
from tools.fuzz.campaign import campaign
from tools.fuzz.targets import find_targets

MINE = b"somebody's own words\n"
FILES = ("vm.toml", "lock", "nvram.bin", "snapshots/head.json", "snapshots/restore.json",
         "snapshots/one.json", "snapshots/one.nvram", "snapshots/one/manifest.json",
         "snapshots/one/memory.table", "snapshots/one/disk0.table", "disks/data0.qcow2", "image/elf",
         "logs/vm.log", "logs/console.log")  # fmt: skip


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VmFolder:
    monkeypatch.setenv("ASYNCVMM_STATE", str(tmp_path / "state"))
    cache = ImageCache(tmp_path / "cache")
    find_image("demo").pull(cache, SilentProgress())
    return create_vm(tmp_path / "demo.vm", image="demo", cache=cache, disks=("1M",))


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link to nothing"])
@pytest.mark.parametrize("name", FILES)
async def test_what_is_no_file(demo: VmFolder, name: str, kind: str) -> None:
    """No command waits for a pipe, nor reads a device that has no end."""
    await demo.snapshot("one")
    path = demo.path / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else "nowhere")

    async def run() -> None:
        async with demo.run(max_instructions=1000):
            pass

    said = []
    for step in (
        lambda: demo.settings, lambda: demo.head, lambda: demo.nvram, lambda: demo.holder,
        lambda: demo.snapshots, lambda: demo.diff("one", "one"), lambda: demo.log(), run,
        lambda: demo.restore("one"), lambda: demo.delete_snapshot("one"),
    ):  # fmt: skip
        try:
            if step is run:
                await run()
            else:
                step()
        except AsyncvmmError as error:
            said.append(str(error))
    if name.startswith("snapshots/one") or name in ("vm.toml", "nvram.bin", "snapshots/head.json"):
        damage = [info.damage for info in demo.snapshots]
        assert any(str(path) in text or name in text for text in (*said, *damage)) or (
            kind == "link to nothing"
        ), said
    assert not (demo.path / "nowhere").exists()


@pytest.mark.parametrize("name", ["lock", "logs/vm.log", "logs/console.log", "snapshots/head.json"])
async def test_nothing_is_written_through_a_link(demo: VmFolder, tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(MINE)
    path = demo.path / name
    path.unlink(missing_ok=True)
    path.symlink_to(victim)
    try:
        async with demo.run() as machine:
            await machine.guest.console.expect("demo> ")
        await demo.snapshot("one")
        demo.restore("one")
    except AsyncvmmError as error:
        assert str(path) in str(error)
    assert victim.read_bytes() == MINE


async def test_a_machine_whose_logs_are_links_runs(demo: VmFolder, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(MINE)
    for path in (demo.paths.vm_log, demo.paths.console_log):
        path.unlink(missing_ok=True)
        path.symlink_to(victim)
    async with demo.run() as machine:
        await machine.guest.console.expect("demo> ")
        assert machine.log.lost > 0
    assert victim.read_bytes() == MINE


@pytest.mark.parametrize("name", ["logs", "snapshots", "snapshots/pages"])
async def test_logs_and_snapshots_are_in_the_folder(
    demo: VmFolder, tmp_path: Path, name: str
) -> None:
    await demo.snapshot("one")
    elsewhere = tmp_path / "elsewhere"
    (demo.path / name).rename(elsewhere)
    (demo.path / name).symlink_to(elsewhere)
    theirs = elsewhere / "somebody.gone"
    theirs.write_bytes(MINE)
    for step in (
        lambda: demo.delete_snapshot("one"),
        lambda: demo.restore("one"),
        demo.reseed,
    ):
        with pytest.raises(AsyncvmmError, match="is a symbolic link"):
            step()
    assert theirs.read_bytes() == MINE


def test_a_lock_that_is_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(MINE)
    (tmp_path / "lock").symlink_to(victim)
    with pytest.raises(AsyncvmmError, match="lock: cannot be opened: is a symbolic link"):
        FolderLock(tmp_path / "lock")
    with pytest.raises(AsyncvmmError, match="is a symbolic link"):
        holder_of(tmp_path / "lock")
    assert victim.read_bytes() == MINE


def test_a_durable_write_follows_no_planted_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(MINE)
    (tmp_path / f"head.json.{os.getpid()}.part").symlink_to(victim)
    write_durably(tmp_path / "head.json", b"{}")
    assert victim.read_bytes() == MINE
    assert (tmp_path / "head.json").read_bytes() == b"{}" and not (
        tmp_path / "head.json"
    ).is_symlink()


EVIL = "\x1b]0;owned\x07\x1b[2J\u202e\ud800"


def test_what_a_guest_says_moves_no_cursor(tmp_path: Path) -> None:
    log = VmLog(tmp_path / "vm.log", LogLimits())
    log.device_said("blk0", EVIL)
    log.close()
    shown = parse_entry((tmp_path / "vm.log").read_bytes(), "vm.log").format()
    assert shown.isprintable() and "\\x1b[2J" in shown
    console = ConsoleLog(tmp_path / "console.log", LogLimits())
    console.write(EVIL.encode("utf-8", "surrogatepass"))  # what a console said stays as it was
    console.close()
    assert (tmp_path / "console.log").read_bytes() == EVIL.encode("utf-8", "surrogatepass")


def test_what_a_stranger_wrote_moves_no_cursor(
    demo: VmFolder, capfd: pytest.CaptureFixture[str]
) -> None:
    trio.run(demo.snapshot, "one")
    info = demo.paths.snapshots / "one.json"
    info.write_text(json.dumps({**json.loads(info.read_text()), "note": EVIL, "time_ns": 1}))
    (demo.paths.snapshots / "\x1b[2J").mkdir()
    (demo.paths.snapshots / "\x1b[2J" / "manifest.json").write_text("{}")
    with demo.paths.vm_log.open("a") as log:
        log.write(json.dumps({"wall": "", "virtual_ns": 10**400, "event": EVIL}) + "\n")
        log.write(json.dumps({"wall": "", "virtual_ns": None, "event": EVIL}) + "\n")
    capfd.readouterr()
    for words in (["snapshot", "list"], ["snapshot", "tree"], ["logs"], ["ps"], ["config", "get"]):
        main([*words, str(demo.path)])
    main(["config", "set", str(demo.path), EVIL, "1"])
    out, err = capfd.readouterr()
    assert "\x1b" not in out + err and "\\x1b[2J" in out


async def test_a_saved_number_that_no_device_can_hold(demo: VmFolder) -> None:
    async with demo.run() as machine:
        await machine.guest.console.expect("demo> ")
        await machine.snapshot("one")
    path = demo.paths.snapshots / "one" / "manifest.json"
    manifest = json.loads(path.read_text())
    devices = manifest["machine"]["devices"]
    (serial,) = [each for each in devices.values() if each["type"] == "ns16550"]
    assert "timeout_left_ns" in serial["state"]
    serial["state"]["timeout_left_ns"] = 1 << 63
    path.write_text(json.dumps(manifest))
    demo.restore("one")
    with pytest.raises(AsyncvmmError, match=r"demo/ns165500: its saved state cannot be"):
        async with demo.run():
            pass


@pytest.mark.parametrize("folder", ["", "disks"])
def test_a_restore_that_follows_links_is_found(
    monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """The fuzz target can fail: of a bound that looks at names only, it finds a way around it."""
    (target,) = find_targets(["folder.restore"])

    def by_name(paths: FolderPaths, target: Path) -> bool:
        return target.parent.is_relative_to(paths.root / folder)

    monkeypatch.setattr("asyncvmm.runtime.folder.restore._in_disks", by_name)
    finding = campaign(target, 1, range(5000)).finding
    assert finding is not None and "AssertionError: " in finding.text
