"""The demo guest at its prompt: every command, its end, and that it is the same every time."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from asyncvmm.machine import GuestConfig
from asyncvmm.plugin.images import ImageCache, SilentProgress
from asyncvmm.runtime.guest import Guest, GuestExit
from asyncvmm.runtime.host import Host, open_host
from asyncvmm_plugins.demo_image.image import DemoImage

PROMPT = "demo> "


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = ImageCache(tmp_path_factory.mktemp("cache"))
    DemoImage().pull(cache, SilentProgress())
    elf = DemoImage().boot_files(cache).elf
    assert elf is not None
    return elf


class Session:
    """A guest at its prompt."""

    def __init__(self, host: Host, guest: Guest) -> None:
        self.host, self.guest = host, guest

    async def type(self, keys: bytes) -> str:
        """What comes after these keys, up to the next prompt, without the echo's line."""
        await self.guest.console.send_all(keys)
        said = (await self.guest.console.expect(PROMPT)).decode()
        return said.partition("\r\n")[2].removesuffix(PROMPT)

    async def command(self, text: str) -> str:
        """What a command says."""
        return await self.type(text.encode() + b"\r")

    async def power_off(self, text: str = "poweroff") -> GuestExit:
        """How the guest ends."""
        await self.guest.console.send_all(text.encode() + b"\r")
        return await self.guest.wait()


@asynccontextmanager
async def session(demo: Path, **options: Any) -> AsyncIterator[Session]:
    async with open_host(mips=options.pop("mips", 1000)) as host:
        guest = await host.start(GuestConfig(name="demo", elf=demo, **options))
        banner = (await guest.console.expect(PROMPT)).decode()
        assert "asyncvmm demo monitor" in banner
        yield Session(host, guest)


async def test_help_names_every_command(demo: Path) -> None:
    async with session(demo) as at:
        listed = [line.split()[0] for line in (await at.command("help")).splitlines()]
        assert listed == [
            *("help", "uptime", "memtest", "echo", "block", "harts", "crash", "poweroff", "reboot")
        ]


async def test_echo_and_the_line_editor(demo: Path) -> None:
    async with session(demo) as at:
        assert await at.command("  echo  two  words ") == "two  words \r\n"
        assert await at.type(b"ecgo\x08\x7fho x\x7fyes\n") == "yes\r\n"
        assert await at.type(b"rubbish\x15echo kept\r\n") == "kept\r\n"
        assert await at.type(b"poweroff 1\x03") == ""
        assert await at.type(b"\x1b[A\x1b[1;5D\x1bOPecho\ttab\x01\r") == "tab\r\n"
        assert await at.type("echo aé€\x7fb\r".encode()) == "aéb\r\n"
        assert await at.type(b"\x7f\x7f\x15\r") == ""
        assert await at.command("echo") == "\r\n"


async def test_a_line_that_is_too_long_rings_the_bell_and_is_cut(demo: Path) -> None:
    async with session(demo) as at:
        await at.guest.console.send_all(b"echo " + b"x" * 20_000 + b"\r")
        said = await at.guest.console.expect("\r\n")
        assert said.count(b"\a") == 20_000 - 250
        assert await at.guest.console.expect("\r\n") == b"x" * 250 + b"\r\n"
        await at.guest.console.expect(PROMPT)
        assert await at.command("echo on") == "on\r\n"


async def test_unknown_commands_are_named(demo: Path) -> None:
    async with session(demo) as at:
        assert await at.command("ech o") == "unknown command: ech (try `help`)\r\n"
        assert await at.command("echoo") == "unknown command: echoo (try `help`)\r\n"


async def test_uptime_is_the_guests_own_time(demo: Path) -> None:
    async with session(demo, mips=1) as at:
        times = []
        for command in ("uptime", "memtest 8", "uptime"):
            said = await at.command(command)
            if found := re.fullmatch(r"up (\d+)\.(\d{6}) s\r\n", said):
                times.append(int(found[1]) * 1_000_000 + int(found[2]))
        first, second = times
        # At a million steps a second a step is a microsecond; memtest took most of them.
        steps = at.guest.stats.instructions
        assert steps // 2 < second - first < second <= at.guest.now_ns // 1000


async def test_memtest_reports_what_it_tested(demo: Path) -> None:
    async with session(demo, memory="4M") as at:
        assert re.fullmatch(
            r"memtest: 8192 bytes at 0x8000\w000: ok\r\n", await at.command("memtest 2")
        )
        assert at.guest.stats.resident_bytes < 64 << 10
        said = await at.command("memtest 0")
        most = int(said.removeprefix("memtest takes a number of pages, 1 to "))
        assert 1000 < most < 1024
        for wrong in (str(most + 1), "x", "-1", "0x", "99999999999999999999999", "1 2"):
            assert await at.command(f"memtest {wrong}") == said
        said = await at.command(f"memtest {most:#x} ")
        assert f"{most << 12} bytes" in said and said.endswith(": ok\r\n")
        assert at.guest.stats.resident_bytes == 4 << 20


async def test_block_shows_a_sector_of_the_disk(demo: Path, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(b"first sector".ljust(512) + bytes(range(256)) * 2)
    async with session(demo, disks=(f"{image},readonly",)) as at:
        head, *lines = (await at.command("block")).splitlines()
        assert head == "sector 0 of 2" and len(lines) == 32
        assert lines[0].startswith("0000000000 66 69 72 73 74 20")
        assert lines[0].endswith("  |first sector    |")
        lines = (await at.command("block 1")).splitlines()[1:]
        shown = b"".join(bytes.fromhex(line[11:58]) for line in lines)
        assert shown == bytes(range(256)) * 2
        assert lines[2] == (
            "0000000220 20 21 22 23 24 25 26 27 28 29 2a 2b 2c 2d 2e 2f  | !\"#$%&'()*+,-./|"
        )
        assert await at.command("block 2") == "block: the disk has 2 sectors\r\n"
        assert await at.command("block one") == "block takes the number of a sector\r\n"


async def test_block_without_a_disk_and_behind_other_devices(demo: Path, tmp_path: Path) -> None:
    async with session(demo, devices=("virtio-rng",)) as at:
        assert await at.command("block") == "block: there is no virtio disk\r\n"
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(512))
    devices = ("virtio-rng", f"virtio-blk,path={image}")
    async with session(demo, devices=devices) as at:
        assert "sector 0 of 1" in await at.command("block 0")


async def test_every_hart_answers(demo: Path) -> None:
    async with session(demo) as at:
        assert await at.command("harts") == "hart 0 is at the prompt\r\n1 in all\r\n"
    async with session(demo, harts=4) as at:
        for _ in range(2):
            assert (await at.command("harts")).splitlines() == [
                "hart 0 is at the prompt",
                *(f"hart {number} answers" for number in (1, 2, 3)),
                "4 in all",
            ]


@pytest.mark.parametrize(
    ("kind", "cause", "value"),
    [
        ("", "5, load access fault", 8),
        (" load", "5, load access fault", 8),
        (" store", "7, store access fault", 16),
        (" jump", "1, instruction access fault", 0x40000000),
        (" illegal", "2, illegal instruction", 0),
        (" ecall", "11, environment call from M-mode", 0),
    ],
)
async def test_a_trap_is_shown_and_the_prompt_comes_back(
    demo: Path, kind: str, cause: str, value: int
) -> None:
    async with session(demo) as at:
        said = (await at.command(f"crash{kind}")).strip()
        place = r"0x[0-9a-f]{16}"
        assert re.fullmatch(f"trap: cause {cause}, at {place}, value {value:#018x}", said)
        assert await at.command("echo alive") == "alive\r\n"
        assert (await at.command("crash no")).startswith("crash takes load, ")


@pytest.mark.parametrize("code", [0, 1, 42, 65535])
async def test_the_code_of_poweroff_is_the_guests_exit_code(demo: Path, code: int) -> None:
    async with session(demo) as at:
        for wrong in ("65536", "-1", "all"):
            said = await at.command(f"poweroff {wrong}")
            assert said == "poweroff takes an exit code, 0 to 65535\r\n"
        assert await at.power_off(f"poweroff {code}") == GuestExit(
            "poweroff", code, "by demo/test-finisher0"
        )


async def test_reboot_starts_again(demo: Path) -> None:
    async with session(demo, harts=2) as at:
        assert "asyncvmm demo monitor" in await at.command("reboot")
        assert (await at.command("harts")).endswith("2 in all\r\n")
        assert (await at.power_off()).code == 0


async def test_an_idle_guest_costs_nothing(demo: Path) -> None:
    async with session(demo, harts=2) as at:
        await trio.testing.wait_all_tasks_blocked()
        before = at.guest.stats
        await trio.testing.wait_all_tasks_blocked()
        assert at.guest.stats == before
        assert await at.command("echo x") == "x\r\n"


SCRIPT = ("harts", "memtest 4", "uptime", "crash illegal", "echo x", "block", "help")


async def run_script(session: Session, script: Sequence[str]) -> tuple[str, str]:
    """Everything that was said, and the digest at the end."""
    said = [await session.command(line) for line in script]
    await session.power_off()
    return "".join(said), session.guest.machine.digest()


async def test_the_same_script_gives_the_same_guest(demo: Path) -> None:
    results = []
    for seed in (1, 1, 2):
        async with session(demo, harts=2, seed=seed, devices=("virtio-rng",)) as at:
            results.append(await run_script(at, SCRIPT))
    assert results[0] == results[1]
    # Another seed is another guest: its device tree holds other random bytes.
    assert results[2][0] == results[0][0] and results[2][1] != results[0][1]


async def test_two_guests_side_by_side_are_as_if_alone(demo: Path) -> None:
    scripts = {"left": SCRIPT, "right": (*reversed(SCRIPT), "memtest 9")}

    async def one(host: Host, name: str, results: dict[str, tuple[str, str]]) -> None:
        guest = await host.start(GuestConfig(name=name, elf=demo, harts=2))
        await guest.console.expect(PROMPT)
        results[name] = await run_script(Session(host, guest), scripts[name])

    alone: dict[str, tuple[str, str]] = {}
    for name in scripts:
        async with open_host() as host:
            await one(host, name, alone)
    together: dict[str, tuple[str, str]] = {}
    async with open_host() as host, trio.open_nursery() as nursery:
        for name in scripts:
            nursery.start_soon(one, host, name, together)
    assert together == alone
