"""Every device at work in a Linux guest: what is saved at any instant goes on to the same digest."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncvmm.api.images import find_image, image_config
from asyncvmm.machine import GuestConfig
from asyncvmm.plugin.images import ImageCache
from asyncvmm.runtime.host import open_host
from asyncvmm.runtime.host_snapshots import HostSnapshot
from tests.guests.conftest import require

pytestmark = pytest.mark.guest

MS = 1_000_000
LONG_NS = 60 * MS
# What a guest does all the time, and how one sees that it does. A board has eight places for virtio: two
# guests share the devices.
CARDS = """
(while true; do
    dd if=/dev/vda of=/dev/vdb bs=4k count=8 seek=$((i % 8)) 2> /dev/null
    head -c 100 /dev/hwrng > /dev/null; hwclock > /dev/null; i=$((i + 1))
done) > /dev/null 2>&1 &
ping -i 1 -s 1000 gateway > /dev/null 2>&1 &
(while true; do nc gateway 9 < /dev/null; echo tick > /dev/console; done) > /dev/null 2>&1 &
until cmp -s -n 32768 /dev/vda /dev/vdb; do sleep 0.1; done
"""
FILES = """
mkdir -p /mnt && mount -t 9p -o trans=virtio,version=9p2000.L share /mnt || exit 1
(while true; do
    cat /mnt/text > /dev/null; echo more >> /mnt/log; ls -l /mnt
    mv /mnt/log /mnt/log2; mv /mnt/log2 /mnt/log
done) > /dev/null 2>&1 &
(while true; do
    dd if=/mnt/text of=/dev/mtd0 bs=64 count=8; dd if=/dev/mtd0 bs=4k count=4
done) > /dev/null 2>&1 &
(while test -x /mnt/vsock; do /mnt/vsock connect 9; echo $? > /tmp/vsock; done) > /dev/null 2>&1 &
until cat /mnt/log* > /dev/null && head -c 5 /dev/mtd0 | grep -q 'as it'; do sleep 0.1; done
test ! -x /mnt/vsock || until grep -q 1 /tmp/vsock; do sleep 0.1; done
"""


def with_cards(folder: Path, engine: str, harts: int) -> GuestConfig:
    """Disks, network, randomness, balloon; console, date and run channel as everywhere."""
    for name in ("one", "two"):
        (folder / f"{name}.raw").write_bytes(bytes(range(256)) * 1024)
    return image_config(
        find_image("linux"), ImageCache(), commands=True, name="all", engine=engine, harts=harts,
        nets=("lan",), memory=40 << 20,
        disks=(f"{folder / 'one.raw'},readonly", f"{folder / 'two.raw'},snapshot"),
        devices=("virtio-rng", "vmgenid", "virtio-balloon"),
    )  # fmt: skip


def with_files(folder: Path, engine: str, harts: int) -> GuestConfig:
    """A shared folder, flash, and vsock with traffic where there is a compiler for its program."""
    (folder / "flash.bin").write_bytes(b"\xff" * (32 << 20))
    shared = folder / "shared"
    shared.mkdir()
    (shared / "text").write_text("as it is\n" * 3000)
    if compiler := shutil.which("riscv64-linux-gnu-gcc"):
        source = Path(__file__).with_name("vsock_program.c")
        subprocess.run([compiler, "-O1", "-static", "-o", shared / "vsock", source], check=True)
    return image_config(
        find_image("linux"), ImageCache(), commands=True, name="all", engine=engine, harts=harts,
        memory=40 << 20, flash=(f"{folder / 'flash.bin'},snapshot",),
        shares=(f"{shared}:share:cow",), devices=("virtio-vsock",),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("config", "busy"), [(with_cards, CARDS), (with_files, FILES)], ids=["cards", "files"]
)
@pytest.mark.parametrize("engine", ["jit", "interpreter"])
@pytest.mark.parametrize("harts", [1, 2])
def test_any_instant_goes_on(
    tmp_path_factory: pytest.TempPathFactory,
    engine: str,
    harts: int,
    config: Callable[[Path, str, int], GuestConfig],
    busy: str,
) -> None:
    require("linux")
    folder = tmp_path_factory.mktemp("devices")

    async def begin() -> tuple[int, str]:
        async with open_host() as host:
            guest = await host.start(config(folder, engine, harts))
            await guest.run(["sh", "-c", busy], check=True)
            with await host.snapshot() as snapshot:
                snapshot.save(folder / "begun")
            until_ns = host.now_ns + LONG_NS
            await host.run_until(until_ns)
            return until_ns, guest.machine.digest()

    until_ns, unstopped = trio.run(begin)
    number = 0

    @settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.integers(1, LONG_NS - 1), min_size=1, max_size=3, unique=True))
    def at(before_end_ns: list[int]) -> None:
        async def main() -> None:
            nonlocal number
            taken: list[HostSnapshot] = []
            with HostSnapshot.load(folder / "begun") as begun:
                async with open_host(snapshot=begun, paused=True) as host:
                    for ns in sorted(before_end_ns, reverse=True):
                        await host.run_until(until_ns - ns)
                        number += 1
                        taken.append(await host.snapshot())
                        taken[-1].save(folder / f"at{number}")
                        taken.append(HostSnapshot.load(folder / f"at{number}"))
                    await host.run_until(until_ns)
                    assert host.guests["all"].machine.digest() == unstopped
            for one in taken:
                with one:
                    async with open_host(snapshot=one, paused=True, workers=1) as host:
                        await host.run_until(until_ns)
                        assert host.guests["all"].machine.digest() == unstopped, one.time_ns

        trio.run(main)

    at()
