"""Disks, flash and NVRAM that keep what is written: a replay has what they held when the run began."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from asyncvmm.api import VmFolder
from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.machine import GuestConfig
from asyncvmm.runtime.host import open_host
from asyncvmm.runtime.journal_file import JournalError, read_journal
from asyncvmm.runtime.kept_disks import content_hash
from asyncvmm.runtime.replay import open_replay
from asyncvmm.storage import create_image, open_image, opened
from asyncvmm_plugins.demo_image.image import build_program
from tests.unit.runtime.folder.conftest import demo, demo_cache, plugins

__all__ = ["demo", "demo_cache", "plugins"]  # fixtures

PROMPT = "demo> "
MIB = 1 << 20


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "demo.elf"
    path.write_bytes(build_program())
    return path


def make_disk(tmp_path: Path, kind: str) -> Path:
    """3 MiB, the second of them zeros; over another file where ``kind`` says so."""
    base = tmp_path / "base.img"
    base.write_bytes(b"\1" * MIB + bytes(MIB) + b"\2" * MIB)
    if kind == "raw":
        return base
    path = tmp_path / "disk.qcow2"
    create_image(
        path,
        3 * MIB,
        format="qcow2",
        backing="base.img" if kind == "overlay" else None,
        backing_format="raw" if kind == "overlay" else None,
    )
    with opened(path) as disk:
        disk.pwrite(0, b"\3" * 512)
        disk.write_zeroes(2 * MIB, 65536)
    return path


def write(path: Path, offset: int, data: bytes) -> None:
    image = open_image(path)
    image.pwrite(offset, data)
    image.close()


async def record(program: Path, disk: Path, journal: Path) -> None:
    async with open_host(journal=journal) as host:
        guest = await host.start(GuestConfig(elf=program, disks=(str(disk),)))
        for words in ("block 0", "block 4096"):
            await guest.console.expect(PROMPT)
            await guest.console.send_all(f"{words}\r".encode())
        await guest.console.expect(PROMPT)


async def is_equal(journal: Path) -> bool:
    async with open_replay(journal) as replay:
        await replay.run()
        assert replay.compared
        return not replay.differing


@pytest.mark.parametrize("kind", ["raw", "qcow2", "overlay"])
async def test_a_disk_that_was_written_since(kind: str, program: Path, tmp_path: Path) -> None:
    disk, journal = make_disk(tmp_path, kind), tmp_path / "journal"
    with opened(disk) as image:
        held = content_hash(image)
    await record(program, disk, journal)
    (copy,) = (tmp_path / "journal.disks").iterdir()
    with opened(copy) as image:
        assert content_hash(image) == held
    assert copy.stat().st_size < (MIB if kind == "overlay" else 3 * MIB)
    write(disk, 0, b"\7" * 512)
    before = disk.read_bytes()
    assert await is_equal(journal)
    assert disk.read_bytes() == before
    disk.unlink()  # but for what it is over nothing of it is needed
    if kind != "raw":
        assert await is_equal(journal)


async def test_a_journal_is_moved_with_its_disks(program: Path, tmp_path: Path) -> None:
    await record(program, make_disk(tmp_path, "raw"), tmp_path / "journal")
    away = tmp_path / "away"
    away.mkdir()
    for name in ("journal", "journal.disks"):
        shutil.move(tmp_path / name, away / name)
    assert await is_equal(away / "journal")


async def test_what_a_disk_held_is_gone_or_changed(program: Path, tmp_path: Path) -> None:
    disk, journal = make_disk(tmp_path, "overlay"), tmp_path / "journal"
    await record(program, disk, journal)
    (copy,) = (tmp_path / "journal.disks").iterdir()
    good = copy.read_bytes()
    write(copy, 8192, b"other")
    with pytest.raises(
        JournalError, match=r"record 1 .*disk\.qcow2: has changed since .*copy of it"
    ):
        await is_equal(journal)
    copy.write_bytes(good[:1000])
    with pytest.raises(JournalError, match="qcow2"):
        await is_equal(journal)
    copy.write_bytes(good)
    assert await is_equal(journal)
    base = tmp_path / "base.img"
    base.rename(tmp_path / "elsewhere")
    with pytest.raises(JournalError, match=r"base\.img.* has to stay where it is"):
        await is_equal(journal)
    copy.unlink()
    with pytest.raises(JournalError, match=r"is gone.*moved together with journal\.disks"):
        await is_equal(journal)


async def test_guests_that_begin_with_the_same_disk(program: Path, tmp_path: Path) -> None:
    """One copy; and a device of the configuration is a disk like the others."""
    disk = make_disk(tmp_path, "raw")
    other = tmp_path / "other.img"
    shutil.copyfile(disk, other)
    journal = tmp_path / "journal"
    async with open_host(journal=journal) as host:
        config = GuestConfig(elf=program, devices=(f"virtio-blk,path={other}",))
        for number, each in enumerate((GuestConfig(elf=program, disks=(str(disk),)), config)):
            guest = await host.start(each, name=f"guest{number}")
            await guest.console.expect(PROMPT)
            (fork,) = await guest.fork()
            await fork.console.send_all(b"block 1\r")
            assert b"01 01 01" in await fork.console.expect(PROMPT)
    assert len(list((tmp_path / "journal.disks").iterdir())) == 1
    write(disk, 0, b"x")
    write(other, 512, b"y")
    assert await is_equal(journal)


async def test_no_room_for_the_copy(program: Path, tmp_path: Path) -> None:
    disk, journal = make_disk(tmp_path, "raw"), tmp_path / "journal"
    async with open_host(journal=journal) as host:
        (tmp_path / "journal.disks").write_bytes(b"")  # no folder can be made there
        with pytest.raises(BackendError, match=r"journal\.disks/.*: cannot be written"):
            await host.start(GuestConfig(elf=program, disks=(str(disk),)))
        await host.start(GuestConfig(elf=program, disks=(f"{disk},snapshot",)))
        (tmp_path / "journal.disks").unlink()
    assert await is_equal(journal)


async def test_a_folder_goes_on_after_it_was_recorded(demo: VmFolder, tmp_path: Path) -> None:
    """From power-on, and from a kept state, with the state and the disks other ones at the replay."""
    journals = [tmp_path / "cold", tmp_path / "kept", tmp_path / "renewed"]
    disk = demo.path / "disks/data0.qcow2"
    for number, journal in enumerate(journals):
        if number == 2:
            demo.reseed(7)
        async with demo.run(journal=journal) as machine:
            assert (machine.resumed is None) == (number == 0)
            guest = machine.guest
            if number == 0:
                await guest.console.expect(PROMPT)
            await guest.console.send_all(b"block 3\r")
            await guest.console.expect(PROMPT)
            await machine.snapshot(f"after{number}")
            await guest.console.send_all(b"uptime\r")
            await guest.console.expect(PROMPT)
            await machine.save_and_stop()
    async with demo.run() as machine:  # it goes on, without a journal
        await machine.guest.console.send_all(b"memtest 3\r")
        await machine.guest.console.expect(PROMPT)
    write(disk, 3 * 512, b"not what it was")
    for journal in journals:
        assert read_journal(journal).complete
        assert await is_equal(journal), journal
    shutil.rmtree(demo.paths.snapshots)
    assert await is_equal(journals[1])


async def test_a_kept_state_shows_todays_date(demo: VmFolder, tmp_path: Path) -> None:
    async with demo.run() as machine:
        await machine.guest.console.expect(PROMPT)
        await machine.save_and_stop()
    async with demo.run(date="host", journal=tmp_path / "journal") as machine:
        await machine.guest.console.send_all(b"uptime\r")
        await machine.guest.console.expect(PROMPT)
    assert await is_equal(tmp_path / "journal")


async def test_shared_folders_are_still_compared(program: Path, tmp_path: Path) -> None:
    share = tmp_path / "share"
    share.mkdir()
    (share / "a").write_bytes(b"one")
    async with open_host(journal=tmp_path / "journal") as host:
        guest = await host.start(GuestConfig(elf=program, shares=(str(share),)))
        await guest.console.expect(PROMPT)
    assert await is_equal(tmp_path / "journal")
    (share / "a").write_bytes(b"two")
    with pytest.raises(ConfigError, match="shared folder"):
        await is_equal(tmp_path / "journal")
