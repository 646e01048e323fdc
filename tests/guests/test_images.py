"""The images, through the Python API: harts, memory, disks and servers."""

from __future__ import annotations

import hashlib
import resource
from pathlib import Path

import pytest

from asyncvmm.api import find_image, image_config, open_host
from tests.guests.conftest import Run, require

pytestmark = pytest.mark.guest
MIB = 1 << 20
EPOCH_NS = 1_767_225_600_000_000_000  # nginx crashes in the first second of 1970


async def test_linux_with_two_harts_and_a_gigabyte_costs_what_it_touches() -> None:
    require("linux")
    config = image_config(find_image("linux"), commands=True, harts=2, memory="1G")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with open_host() as host:
        guest = await host.start(config)
        done = await guest.run(
            ["sh", "-c", "grep -c ^processor /proc/cpuinfo; grep MemTotal /proc/meminfo"],
            check=True,
        )
        harts, _, total_kib, _ = done.stdout.split()
        assert harts == b"2"
        assert int(total_kib) > 900 * 1024
        assert guest.stats.resident_bytes < 48 * MIB
        assert (await guest.power_off()).reason == "poweroff"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 160 * 1024  # kibibytes; the image's files are among them


async def test_a_disk_keeps_its_contents_over_a_reboot(tmp_path: Path) -> None:
    require("linux")
    disk = tmp_path / "disk.img"
    disk.touch()
    with disk.open("r+b") as file:
        file.truncate(64 * MIB)
    config = image_config(find_image("linux"), commands=True, disks=(str(disk),))
    piece = "dd if=/dev/urandom of=/tmp/piece bs=1M count=2 2>/dev/null"
    write = f"{piece}; for n in $(seq 32); do cat /tmp/piece; done > /dev/vda; sync"
    said = []
    for command in (write, "sha256sum < /dev/vda"):
        async with open_host() as host:
            guest = await host.start(config)
            said.append((await guest.run(["sh", "-c", command], check=True)).stdout)
            await guest.power_off()
    data = disk.read_bytes()
    assert data[:MIB] != bytes(MIB) and data[-MIB:] == data[MIB : 2 * MIB]
    assert said[1].split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_debian_full(command_line: Run) -> None:
    done = command_line("debian-full", "--", "uname", "-r")
    assert done.returncode == 0 and b"-riscv64" in done.stdout, done.stderr


async def test_debian_root_serves_web_pages_and_keys() -> None:
    require("linux", "debian-root")
    script = """
        nginx && redis-server --daemonize yes > /dev/null
        for n in $(seq 50); do redis-cli ping > /dev/null && break; sleep 0.1; done
        redis-cli set key value; redis-cli get key
        curl -sS -o /dev/null -w '%{http_code}' http://127.0.0.1/
    """
    config = image_config(find_image("debian-root"), commands=True, epoch_ns=EPOCH_NS)
    async with open_host() as host:
        guest = await host.start(config)
        done = await guest.run(["bash", "-c", script])
        assert done.status == 0, done
        assert done.stdout.split()[:3] == [b"OK", b"value", b"200"], done.stdout
