"""A machine's NVRAM in its folder: flash, clock and identity are kept, and are those of its snapshots."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from pathlib import Path

import attrs
import pytest
import trio

from asyncvmm.api import ConfigError, VmFolder, open_folder
from asyncvmm.cli import main
from asyncvmm.isa.asm import assemble
from asyncvmm.isa.elf_writer import to_elf
from asyncvmm.machine.config import GuestConfig
from asyncvmm.machine.renewal import date_offset
from asyncvmm.plugin import PluginManager
from asyncvmm.plugin.images import BootFiles, DiskFile
from asyncvmm.runtime.folder.create import NewMachine, create_folder
from asyncvmm.runtime.folder.running import RunningMachine
from asyncvmm.runtime.folder.snapshots import FolderSnapshots
from asyncvmm.storage.nvram import Nvram

# At the console: p programs one more bit of the flash, r shows how many are, d sets the date 2**32 ns
# later, w waits for more than a second (of 1 MIPS). Each answers with a character.
MONITOR = """
_start:
    li   s0, 0x20000000
    li   s1, 0x10000000
    li   s2, 0x101000
next:
1:  lbu  t0, 5(s1)
    andi t0, t0, 1
    beqz t0, 1b
    lbu  a0, 0(s1)
    li   t0, 112
    beq  a0, t0, program
    li   t0, 114
    beq  a0, t0, show
    li   t0, 100
    beq  a0, t0, date
    li   t0, 500000
1:  addi t0, t0, -1
    bnez t0, 1b
    li   a0, 46
answer:
    sb   a0, 0(s1)
    j    next
program:
    lw   t1, 0(s0)
    slli t1, t1, 1
    li   t0, 0x00400040
    sw   t0, 0(s0)
    sw   t1, 0(s0)
    li   t0, 0x00ff00ff
    sw   t0, 0(s0)
    j    answer
show:
    lbu  a0, 0(s0)
    xori a0, a0, 0xff
    addi a0, a0, 48
    j    answer
date:
    lw   t0, 0(s2)
    lw   t1, 4(s2)
    addi t1, t1, 1
    sw   t1, 4(s2)
    sw   t0, 0(s2)
    j    answer
"""
EPOCH_NS = GuestConfig().epoch_ns
FLASH_BYTES = 64 << 10


@pytest.fixture
def folder(tmp_path: Path, plugins: PluginManager, monkeypatch: pytest.MonkeyPatch) -> VmFolder:
    monkeypatch.setenv("ASYNCVMM_STATE", str(tmp_path / "state"))
    return make(tmp_path / "one.vm", plugins)


def make(path: Path, plugins: PluginManager) -> VmFolder:
    elf, flash = path.with_suffix(".elf"), path.with_suffix(".fd")
    elf.write_bytes(to_elf(assemble(MONITOR, 0x80000000)))
    flash.write_bytes(b"\xff" * FLASH_BYTES)
    files = BootFiles(elf=elf, flash=(DiskFile(flash),), memory="8M")
    wanted = NewMachine(files=files, nets=("lan",), keys={"mips": "1"})
    create_folder(path, wanted, types=plugins.device_types)
    return open_folder(path, plugins=plugins)


async def say(machine: RunningMachine, keys: str) -> str:
    said = ""
    for key in keys:
        await machine.guest.console.send_all(key.encode())
        said += (await machine.guest.console.receive_some()).decode()
    return said


def programmed(nvram: Nvram) -> int:
    """How many bits."""
    return 8 - nvram.flash[0].read(0, 1)[0].bit_count()


def is_later(offset_ns: int, times: int) -> bool:
    """The program takes some microseconds to set the date."""
    return 0 <= times * 2**32 - offset_ns <= times * 10_000


async def test_flash_is_in_the_nvram(folder: VmFolder) -> None:
    assert folder.settings.given["flash"] == ["nvram.bin,format=nvram"]
    assert folder.nvram.flash[0].size_bytes == FLASH_BYTES and not folder.nvram.flash[0].pages
    assert list(folder.paths.disks.iterdir()) == []
    async with folder.run() as machine:
        assert await say(machine, "rp") == "0p"
        assert programmed(folder.nvram) == 0
        assert await say(machine, "w") == "."  # a second later it is durable
        assert programmed(folder.nvram) == 1
        assert await say(machine, "pr") == "p3"
    assert programmed(folder.nvram) == 2  # a machine that is stopped where it is loses nothing
    async with folder.run() as machine:
        assert await say(machine, "r") == "3"


async def test_all_of_it_is_in_snapshots(folder: VmFolder) -> None:
    async with folder.run() as machine:
        await say(machine, "p")
        await machine.snapshot("one")
        await say(machine, "pd")
        digest = machine.guest.machine.digest()
        await machine.save_and_stop()
    one = FolderSnapshots(folder.paths).nvram("one")
    assert one is not None and programmed(one) == 1 and one.clock_offset_ns == 0
    assert programmed(folder.nvram) == 2 and is_later(folder.nvram.clock_offset_ns, 1)
    async with folder.run() as machine:
        assert machine.resumed == "_stopped" and machine.guest.machine.digest() == digest
        assert await say(machine, "rp") == "3p"
    assert programmed(folder.nvram) == 3
    folder.restore("one")
    assert folder.nvram == one
    async with folder.run() as machine:
        assert machine.resumed == "one" and await say(machine, "r") == "1"
    damaged = folder.paths.nvram.read_bytes()[:-1]
    folder.paths.nvram.write_bytes(damaged)
    with pytest.raises(ConfigError, match=r"nvram\.bin: byte 12"):
        async with folder.run():
            pass


async def test_what_the_guest_sets_its_clock_to_stays(folder: VmFolder) -> None:
    async with folder.run() as machine:
        await say(machine, "d")
        assert is_later(folder.nvram.clock_offset_ns, 1)  # at once: kill -9 does not lose it
        await say(machine, "d")
    offset = folder.nvram.clock_offset_ns
    assert is_later(offset, 2)
    async with folder.run() as machine:
        assert date_offset(machine.guest.machine) == EPOCH_NS + offset
        await machine.save_and_stop()
    assert folder.nvram.clock_offset_ns == offset
    async with folder.run() as machine:  # a kept state's date goes on
        assert date_offset(machine.guest.machine) == EPOCH_NS + offset
        await say(machine, "d")
        await machine.save_and_stop()
    offset = folder.nvram.clock_offset_ns
    assert is_later(offset, 3)
    before = time.time_ns()
    async with folder.run(date="host") as machine:
        after = time.time_ns()
        shown = date_offset(machine.guest.machine)
        assert shown is not None
        shown += machine.guest.now_ns  # no await since it was set
        assert before <= shown - offset <= after
    assert folder.nvram.clock_offset_ns == offset


KILLED = """
import os, signal, sys
import trio
from asyncvmm.api import open_folder
from tests.unit.runtime.folder.test_nvram import say

async def main():
    async with open_folder(sys.argv[1]).run() as machine:
        await say(machine, "pwdp")
        os.kill(os.getpid(), signal.SIGKILL)

trio.run(main)
"""


async def test_a_kill_loses_what_was_changed_last(folder: VmFolder) -> None:
    root = Path(__file__).parents[4]
    command = [sys.executable, "-c", KILLED, str(folder.path)]
    done = await trio.run_process(command, cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    assert programmed(folder.nvram) == 1  # the first bit was there for a second, the other was not
    assert is_later(folder.nvram.clock_offset_ns, 1)
    async with folder.run() as machine:
        assert await say(machine, "rp") == "1p"
        assert not list(folder.path.glob("*.part"))


async def test_two_folders_are_two_machines(
    folder: VmFolder, plugins: PluginManager, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make(folder.path.with_name("two.vm"), plugins)
    other.set("name", folder.settings.guest.name)
    copy_path = folder.path.with_name("copy.vm")

    async def seen(one: VmFolder) -> tuple[object, ...]:
        async with one.run(cold=True) as machine:
            guest = machine.guest.machine
            tree = guest.tree
            mac = next(d.io.net.mac for d in guest.devices if d.type.name == "virtio-net")
            chosen = tree.find("/chosen")
            assert chosen is not None
            seed, known = chosen.properties["rng-seed"], chosen.properties["asyncvmm,machine-id"]
            return mac, seed, known, tree.root.properties["vm,uuid"]

    mine = await seen(folder)
    assert mine == await seen(folder)
    assert not set(mine) & set(await seen(other))
    async with folder.run() as machine:
        await machine.save_and_stop()
    shutil.copytree(folder.path, copy_path)
    copy = open_folder(copy_path, plugins=plugins)
    copy.set("name", "one")
    assert copy.nvram == folder.nvram
    assert main(["config", "reseed", str(copy_path), "--seed", "3"]) == 0
    assert attrs.evolve(copy.nvram, flash=()) == Nvram.fresh(3)
    assert copy.nvram.flash == folder.nvram.flash
    async with copy.run() as machine:  # the kept state is that of the other machine now
        assert machine.resumed and machine.guest.config.machine_id == copy.nvram.machine_id.hex()
        assert machine.guest.config.seed == copy.nvram.random_seed
    assert not set(mine) & set(await seen(copy))
    capsys.readouterr()
    assert await trio.to_thread.run_sync(main, ["inspect", str(copy_path)]) == 0
    shown = json.loads(capsys.readouterr().out)["nvram"]
    theirs = await seen(copy)
    assert shown["machine_id"] == copy.nvram.machine_id.hex() and shown["clock_offset_ns"] == 0
    assert shown["flash"] == [{"size_bytes": FLASH_BYTES, "written_bytes": 0}]
    assert isinstance(theirs[0], bytes) and shown["cards"] == [theirs[0].hex(":")]
    copy.set("seed", "0")  # said by its owner: all of its identity is that of the seed
    async with copy.run() as machine:
        assert machine.guest.config.machine_id is None
