"""A folder's snapshots: kept, listed, compared, restored, deleted; damage is named."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import attrs
import pytest

from asyncvmm.api import AsyncvmmError, ConfigError, VmFolder
from asyncvmm.cli import main
from asyncvmm.machine.registers import hart_values, value_names
from asyncvmm.runtime.folder.layout import FolderPaths
from asyncvmm.runtime.folder.running import locked
from asyncvmm.runtime.folder.snapshots import RESTORE, FolderSnapshots
from asyncvmm.storage import check_image, opened

DISK = "disks/data0.qcow2"
BLOCK = 4096


def write(folder: VmFolder, block: int, text: bytes) -> None:
    with opened(folder.path / DISK) as image:
        image.pwrite(block * BLOCK, text.ljust(BLOCK, b"\0"))


def read(folder: VmFolder, block: int) -> bytes:
    with opened(folder.path / DISK, read_only=True) as image:
        return image.pread(block * BLOCK, BLOCK).rstrip(b"\0")


async def test_disks_and_nvram_go_back(demo: VmFolder) -> None:
    write(demo, 3, b"first")
    nvram = demo.paths.nvram.read_bytes()
    await demo.snapshot("one", "the first")
    write(demo, 3, b"second")
    write(demo, 200, b"more")
    attrs.evolve(demo.nvram, clock_offset_ns=7).save(demo.paths.nvram)
    assert await demo.snapshot("two") >= 1
    difference = demo.diff("one", "two")
    assert difference.disks == {"disk0": ((3, 1), (200, 1))}
    assert not difference.memory and not difference.registers and not difference.same
    assert demo.diff("one", "one").same
    demo.restore("one")
    assert (read(demo, 3), read(demo, 200)) == (b"first", b"")
    assert demo.paths.nvram.read_bytes() == nvram
    assert check_image(demo.path / DISK).clean
    demo.restore("two")
    assert (read(demo, 3), read(demo, 200)) == (b"second", b"more")
    one, two = demo.snapshots
    assert (one.name, one.parent, one.note) == ("one", None, "the first")
    assert (two.name, two.parent) == ("two", "one")


async def test_what_ran_between_two(demo: VmFolder) -> None:
    async with demo.run() as machine:
        await machine.guest.console.expect("demo> ")
        await machine.snapshot("one")
        await machine.guest.console.send_all(b"echo on\r")
        await machine.guest.console.expect("\non\r\n")
        await machine.snapshot("two")
    difference = demo.diff("one", "two")
    assert "steps" in {name for _, name, _, _ in difference.registers}
    assert difference.time_ns[0] < difference.time_ns[1]
    assert difference.memory and not difference.disks["disk0"] and not difference.config


async def test_pages_that_others_have_stay(demo: VmFolder) -> None:
    async with demo.run() as machine:
        await machine.guest.console.expect("demo> ")
        digest = machine.guest.machine.digest()
        await machine.snapshot("one")
        await machine.snapshot("two")
        await machine.save_and_stop()
    with pytest.raises(ConfigError, match="did you mean 'one'"):
        demo.delete_snapshot("oen")
    demo.delete_snapshot("one")
    async with demo.run() as machine:
        assert machine.guest.machine.digest() == digest
    demo.restore("two")
    with pytest.raises(ConfigError, match="goes on from 'two'"):
        demo.delete_snapshot("two")
    async with demo.run() as machine:
        assert machine.guest.machine.digest() == digest
    demo.delete_snapshot("two")
    assert demo.snapshots == [] and demo.head.parent is None
    demo_stopped = FolderSnapshots(demo.paths)
    assert demo_stopped.names(hidden=True) == ["_stopped"]


async def test_the_tree(demo: VmFolder, capfd: pytest.CaptureFixture[str]) -> None:
    await demo.snapshot("a")
    await demo.snapshot("b")
    demo.restore("a")
    await demo.snapshot("c")
    capfd.readouterr()
    assert main(["snapshot", "tree", str(demo.path)]) == 0
    shown = [line.split("  ")[0] for line in capfd.readouterr().out.splitlines()]
    assert [line.strip() for line in shown] == ["a", "|- b", "`- c", ""] or "`- c" in shown
    demo.delete_snapshot("b")
    assert main(["snapshot", "list", str(demo.path), "--json"]) == 0
    assert [each["name"] for each in json.loads(capfd.readouterr().out)] == ["a", "c"]
    assert main(["snapshot", "diff", str(demo.path), "a", "c"]) == 0
    assert capfd.readouterr().out == "the same\n"
    assert main(["snapshot", "diff", str(demo.path), "a", "cc"]) == 2


@pytest.mark.parametrize("moved", [0, 1, 2])
async def test_a_restore_that_was_cut_is_finished(demo: VmFolder, moved: int) -> None:
    write(demo, 3, b"first")
    await demo.snapshot("one")
    write(demo, 3, b"second")
    copy = demo.path.with_name("copy.vm")
    shutil.copytree(demo.path, copy)
    demo.restore("one")
    # As it was at the moment of the crash: all is written, some names are not changed yet.
    moves = []
    for name in (DISK, "nvram.bin"):
        target = copy / name
        part = target.with_name(f"{target.name}.restored")
        shutil.copy2(demo.path / name, part)
        if len(moves) < moved:
            part.replace(target)
        moves.append([str(part), str(target)])
    paths = FolderPaths(copy)
    intent = {"format": 1, "name": "one", "moves": moves}
    (paths.snapshots / RESTORE).write_text(json.dumps(intent))
    folder = VmFolder(paths, demo.plugins)
    async with folder.run() as machine:
        assert machine.resumed == "one"
    assert read(folder, 3) == b"first" and not (paths.snapshots / RESTORE).exists()


FILES = ("head.json", "one.json", "one.nvram", "one/manifest.json", "one/memory.table",
         "one/disk0.table", "restore.json")  # fmt: skip


def use_everything(paths: FolderPaths) -> None:
    folder = VmFolder(paths)
    for step in (
        lambda: folder.snapshots,
        lambda: folder.head,
        lambda: folder.diff("one", "two"),
        lambda: folder.restore("one"),
        lambda: FolderSnapshots(paths).load("one").close(),
        lambda: folder.delete_snapshot("one"),
    ):
        try:
            step()
        except AsyncvmmError as error:
            assert str(paths.root) in str(error), error


@pytest.mark.parametrize("name", FILES)
async def test_damaged_files_are_typed_errors(demo: VmFolder, name: str) -> None:
    write(demo, 3, b"first")
    await demo.snapshot("one")
    write(demo, 4, b"second")
    await demo.snapshot("two")
    demo.restore("two")
    target = demo.paths.snapshots / name
    if name == "restore.json":
        target.write_text(json.dumps({"format": 1, "name": "one", "moves": []}))
    good = target.read_bytes()
    kept = demo.path.with_name("kept")
    shutil.copytree(demo.path, kept)
    rng = random.Random(7)
    damages = [b"", good[: len(good) // 2], b"[" * 100_000, b"{}", b"null", bytes(64), good * 2]
    for _ in range(12):
        bad = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        damages.append(bytes(bad))
    for number, damage in enumerate(damages):
        shutil.rmtree(demo.path)
        shutil.copytree(kept, demo.path)
        print(f"damage {number} of {name}")
        target.write_bytes(damage)
        use_everything(demo.paths)


@pytest.mark.parametrize(
    "manifest", ["[]", "{}", '{"disks": {}}', '{"disks": [{}, 1, null]}', None]
)
async def test_damage_in_a_folder_that_was_moved(demo: VmFolder, manifest: str | None) -> None:
    """What a state says of its files is corrected there, before anybody has checked it."""
    write(demo, 3, b"first")
    await demo.snapshot("one")
    moved = FolderPaths(demo.path.rename(demo.path.with_name("moved")))
    path = moved.snapshots / "one" / "manifest.json"
    values = json.loads(path.read_text())
    if manifest is None:  # of all types that are no path
        values["disks"] = [{**disk, "file": 7} for disk in values["disks"]]
    path.write_text(json.dumps(values) if manifest is None else manifest)
    with pytest.raises(AsyncvmmError, match="manifest"):
        FolderSnapshots(moved).load("one")
    use_everything(moved)


@pytest.mark.parametrize("name", ["disks/\0", "\0", "disks/\ud800"])
def test_a_nul_is_in_no_path(demo: VmFolder, name: str) -> None:
    head = {"format": 1, "parent": None, "resume": None, "disks": {name: [1, 2]}}
    demo.paths.head.write_text(json.dumps(head))
    with pytest.raises(ConfigError, match="is no path"):
        _ = demo.head
    intent = {"format": 1, "name": "x", "moves": [[f"{name}.restored", name]]}
    (demo.paths.snapshots / RESTORE).write_text(json.dumps(intent))
    with pytest.raises(ConfigError, match=r"restore\.json"), locked(demo.paths):
        pass


def test_an_intent_moves_nothing_else(demo: VmFolder, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    intent = {"format": 1, "name": "x", "moves": [[str(victim), str(demo.paths.config)]]}
    (demo.paths.snapshots / RESTORE).write_text(json.dumps(intent))
    with pytest.raises(ConfigError, match=r"restore\.json"), locked(demo.paths):
        pass
    assert victim.read_text() == "mine" and "version" in demo.paths.config.read_text()


async def test_registers_have_their_names(demo: VmFolder) -> None:
    async with demo.run() as machine:
        hart = machine.guest.machine.harts[0]
        names = value_names(len(hart_values(hart)))
        assert len(names) == len(hart_values(hart)) == len(set(names))
        values = dict(zip(names, hart_values(hart), strict=True))
        assert values["pc"] == int(hart.pc) and values["x2"] == int(hart.x[2])
        assert {"fflags", "f31", "pmpcfg0", "pmpaddr15"} <= set(names)
