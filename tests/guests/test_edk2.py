"""Debian's UEFI firmware: from flash to its shell, and its variables survive reset, end and firmware."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from asyncvmm.api import Guest, Snapshot, find_image, image_config, open_host
from asyncvmm.plugin.images import ImageCache
from tests.guests.conftest import require

OPENSBI = Path("/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin")
PROMPT = b"Shell> "
GUID = "12345678-1234-1234-1234-123456789abc"
ANSI = re.compile(rb"\x1b\[[0-9;?=]*[A-Za-z]")

pytestmark = pytest.mark.guest


class Shell:
    """The UEFI shell on a guest's console."""

    def __init__(self, guest: Guest) -> None:
        self.guest = guest

    async def prompt(self) -> str:
        """What it says up to its prompt."""
        said = b""
        while PROMPT not in ANSI.sub(b"", said):
            said += await self.guest.console.receive_some()
        return ANSI.sub(b"", said).decode()

    async def type(self, line: str) -> str:
        """Type a line; what it says then."""
        await self.guest.console.send_all(line.encode() + b"\r")
        return await self.prompt()


def config(variables: Path, **changes: Any) -> Any:
    """At 100 MIPS the firmware's pauses take a tenth of the instructions."""
    require("edk2")
    flash = (str(variables),)
    return image_config(find_image("edk2"), ImageCache(), mips=100, flash=flash, **changes)


@pytest.fixture
def variables(tmp_path: Path) -> Path:
    require("edk2")
    shipped = find_image("edk2").boot_files(ImageCache()).flash[-1].path
    return Path(shutil.copy(shipped, tmp_path / "vars.fd"))


async def test_variables_survive_a_reset_and_the_end_of_the_guest(variables: Path) -> None:
    async with open_host() as host:
        shell = Shell(await host.start(config(variables)))
        assert "UEFI Interactive Shell" in await shell.prompt()
        assert "EDK II" in await shell.type("ver")
        await shell.type(f'setvar kept -guid {GUID} -bs -nv =S"in flash"')
        await shell.type("set -v volatile yes")
        await shell.type("set lasting yes")
        said = await shell.type("reset -c")
        assert "UEFI Interactive Shell" in said
        said = await shell.type("set")
        assert "lasting = yes" in said and "volatile" not in said
    changes: dict[str, Any] = {"firmware": OPENSBI} if OPENSBI.exists() else {}
    async with open_host() as host:
        shell = Shell(await host.start(config(variables, **changes)))
        await shell.prompt()
        assert "lasting = yes" in await shell.type("set")
        said = await shell.type(f"setvar kept -guid {GUID}")
        assert "69 6E 20 66 6C 61 73 68" in said


async def test_a_fork_keeps_its_variables_for_itself(variables: Path) -> None:
    async with open_host() as host:
        guest = await host.start(config(variables))
        shell = Shell(guest)
        await shell.prompt()
        await shell.type("set who parent")
        snapshot = await guest.snapshot()
        before = variables.read_bytes()
        copy = Shell(await host.start(snapshot, name="copy"))
        assert "who = parent" in await copy.type("set")
        await copy.type("set who copy")
        assert variables.read_bytes() == before
        assert "who = copy" in await copy.type("set")
        assert "who = parent" in await shell.type("set")
        snapshot.close()


async def test_a_saved_snapshot_holds_the_flash(variables: Path, tmp_path: Path) -> None:
    async with open_host() as host:
        guest = await host.start(config(variables))
        shell = Shell(guest)
        await shell.prompt()
        await shell.type("set who saved")
        snapshot = await guest.snapshot()
        snapshot.save(tmp_path / "saved")
        snapshot.close()
        await shell.type("set who later")
    async with open_host() as host:
        snapshot = Snapshot.load(tmp_path / "saved")
        shell = Shell(await host.start(snapshot))
        assert "who = saved" in await shell.type("set")
        snapshot.close()
