"""Real systems and their NVRAM in a folder: UEFI variables, the date, who the machine is."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncvmm.api import VmFolder, create_vm, open_replay
from asyncvmm.machine.config import GuestConfig
from asyncvmm.runtime.folder.running import RunningMachine
from asyncvmm.storage.nvram import Nvram
from tests.guests.conftest import require
from tests.guests.test_edk2 import Shell

pytestmark = pytest.mark.guest

NS = 10**9
SET = "date -u -s '2031-02-03 04:05:06' > /dev/null && hwclock -w -u"
SET_TO_S = 1927857906  # 2031-02-03 04:05:06 UTC


@pytest.fixture(autouse=True)
def no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCVMM_STATE", str(tmp_path / "state"))


async def test_uefi_variables_stay_in_the_nvram(tmp_path: Path) -> None:
    require("edk2")
    folder = create_vm(tmp_path / "uefi.vm", image="edk2", keys={"mips": "100"})
    assert "nvram.bin,format=nvram" in folder.settings.given["flash"]
    assert not list(folder.paths.disks.iterdir())
    assert folder.paths.nvram.stat().st_size < 1 << 20
    async with folder.run() as machine:
        shell = Shell(machine.guest)
        await shell.prompt()
        await shell.type("set lasting yes")
        await machine.snapshot("yes")
        await shell.type("set lasting no")
        await shell.type("set another one")
    async with folder.run() as machine:
        shell = Shell(machine.guest)
        await shell.prompt()
        said = await shell.type("set")
        assert "lasting = no" in said and "another = one" in said
        await machine.save_and_stop()
    async with folder.run() as machine:
        assert machine.resumed == "_stopped"
        assert "lasting = no" in await Shell(machine.guest).type("set")
    folder.restore("yes")
    async with folder.run(cold=True) as machine:
        shell = Shell(machine.guest)
        await shell.prompt()
        said = await shell.type("set")
        assert "lasting = yes" in said and "another" not in said


async def sh(machine: RunningMachine, script: str) -> str:
    done = await machine.guest.run(["sh", "-c", script], check=True)
    return done.stdout.decode()


async def dates(folder: VmFolder, script: str, *, save: bool = False) -> int:
    """Boot or go on, run ``script``; the date of the RTC then."""
    async with folder.run(commands=folder.head.resume is None) as machine:
        shown = int(await sh(machine, f"{script}; hwclock -s -u; date +%s"))
        if save:
            await machine.save_and_stop()
        else:
            await machine.power_off()
    return shown


async def test_linux_keeps_the_date_that_it_wrote_to_its_clock(tmp_path: Path) -> None:
    require("linux")
    folder = create_vm(tmp_path / "lin.vm", image="linux")
    epoch_s = GuestConfig().epoch_ns // NS
    assert epoch_s <= await dates(folder, "true") < epoch_s + 60
    assert folder.nvram.clock_offset_ns == 0
    assert SET_TO_S <= await dates(folder, SET) < SET_TO_S + 60
    offset_s = folder.nvram.clock_offset_ns // NS
    assert SET_TO_S - 60 < epoch_s + offset_s <= SET_TO_S
    again = await dates(folder, "true", save=True)  # the date of its power-on, and what that took
    assert epoch_s + offset_s <= again < epoch_s + offset_s + 60
    assert again <= await dates(folder, "true") < again + 60
    assert folder.nvram.clock_offset_ns // NS == offset_s


async def test_linux_is_told_who_it_is(tmp_path: Path) -> None:
    require("linux")
    folder = create_vm(tmp_path / "lin.vm", image="linux", nets=("lan",))
    look = "cat /sys/class/net/eth0/address /sys/firmware/devicetree/base/vm,uuid /proc/cmdline"
    async with folder.run(commands=True) as machine:
        said = await sh(machine, look)
        await machine.guest.renew_identity()
        known = await sh(machine, "cat /etc/machine-id")
    machine_id = folder.nvram.machine_id.hex()
    assert known.strip() == machine_id and f"systemd.machine_id={machine_id}" in said
    async with folder.run(commands=True) as machine:
        assert await sh(machine, look) == said
    folder.reseed()
    async with folder.run(commands=True) as machine:
        other = await sh(machine, look)
    assert other.splitlines()[0] != said.splitlines()[0] and machine_id not in other


async def test_uefi_variables_are_those_of_the_recorded_run(tmp_path: Path) -> None:
    require("edk2")
    folder = create_vm(tmp_path / "uefi.vm", image="edk2", keys={"mips": "100"})
    for number in range(2):
        async with folder.run(journal=tmp_path / f"journal{number}") as machine:
            shell = Shell(machine.guest)
            await shell.prompt()
            assert ("lasting = yes" in await shell.type("set")) == bool(number)
            await shell.type("set lasting yes")
    Nvram.fresh().save(folder.paths.nvram)
    for number in range(2):
        async with open_replay(tmp_path / f"journal{number}") as replay:
            await replay.run()
            assert replay.compared and not replay.differing
