"""Hostile Linux guests beside guests with reserved CPU, and beside one with a share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from asyncvmm.api import GuestConfig, find_image, image_config
from asyncvmm.hypervisor import CpuUsage
from asyncvmm.plugin import create_plugin_manager
from asyncvmm.runtime.guest import Guest
from asyncvmm.runtime.host import open_host
from tests.guests.conftest import require
from tests.simulation.hostile import COMPUTATION, MS, SPIN, Programs
from tests.simulation.watched import Watchers

pytestmark = pytest.mark.guest

BOOTED_NS = 260 * MS
END_NS = 470 * MS
FORK_BOMB = "b() { b | b & }; b; wait"
MEMORY_HOG = (
    "mkdir -p /m; mount -t tmpfs -o size=90m none /m; while :; do cat /dev/zero > /m/x; done"
)
DISK_FLOOD = "while :; do dd if=/dev/vda of=/dev/null bs=4k iflag=direct; done"
CPU_HOG = "while :; do :; done"
HOSTILE = {
    "forks1": FORK_BOMB,
    "forks2": FORK_BOMB,
    "memory1": MEMORY_HOG,
    "memory2": MEMORY_HOG,
    "disk1": DISK_FLOOD,
    "disk2": DISK_FLOOD,
    "cpu1": CPU_HOG,
}
WORK = (
    "i=0; while [ $i -lt 40 ]; do i=$((i+1)); echo $i > /w; cat /w /proc/uptime; done | "
    "md5sum; grep cpu /proc/stat"
)


def linux(name: str, **options: Any) -> GuestConfig:
    require("linux")
    return image_config(find_image("linux"), commands=True, name=name, memory="96M", **options)


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


def hostile(programs: Programs, name: str, policy: dict[str, Any]) -> GuestConfig:
    disks = (f"{programs.disk},readonly",) if name.startswith("disk") else ()
    return linux(name, disks=disks, policy=policy)


async def attack(guest: Guest) -> None:
    """Do it once it is up, until the host ends."""
    await guest.wait_ready()
    await guest.run(["sh", "-c", HOSTILE[guest.name]])


async def life(
    programs: Programs, bare: bool, real: bool, neighbours: bool
) -> dict[str, tuple[str, ...]]:
    """What becomes of a bare-metal guest and of a Linux that works: digests and what it said."""
    found: dict[str, tuple[str, ...]] = {}
    async with (
        open_host(cpus=2, policy="static-partition", paused=True) as host,
        trio.open_nursery() as nursery,
    ):
        guests = []
        if bare:
            policy = {"cpu.reserve": 200, "cpuset.cpus": "0"}
            guests.append(await host.start(programs.config(COMPUTATION, "bare", policy=policy)))
        if real:
            policy = {"cpu.reserve": 300, "cpuset.cpus": "1"}
            guests.append(await host.start(linux("real", policy=policy)))
        beside = []
        for name in HOSTILE if neighbours else ():
            beside.append(await host.start(hostile(programs, name, {"cpu.reserve": 200})))
            nursery.start_soon(attack, beside[-1])
        await host.run_until(BOOTED_NS)
        before = [guest.stats.instructions for guest in beside]
        said: list[bytes] = []

        async def work() -> None:
            said.append((await guests[-1].run(["sh", "-c", WORK], check=True)).stdout)

        if real:
            nursery.start_soon(work)
        await host.run_until(END_NS)
        for guest in guests:
            found[guest.name] = (guest.machine.digest(), *(part.decode() for part in said))
        # Not one of them has stopped.
        for guest, count in zip(beside, before, strict=True):
            assert guest.stats.instructions > count + 1_000_000, guest.name
        nursery.cancel_scope.cancel()
    return found


async def test_reserved_guests_are_the_same_alone_and_beside_seven_hostile_linux_guests(
    programs: Programs,
) -> None:
    bare = await life(programs, bare=True, real=False, neighbours=False)
    real = await life(programs, bare=False, real=True, neighbours=False)
    digest, said = real["real"]
    cpu, steal = said.splitlines()[1].split()[0], int(said.splitlines()[1].split()[8])
    assert (cpu, len(digest)) == ("cpu", 64)
    assert steal > 10  # it sees that only its slots are its own, and sees the same in company
    both = await life(programs, bare=True, real=True, neighbours=True)
    assert both["real"] == real["real"]
    assert both["bare"][0] == bare["bare"][0]


async def test_under_eevdf_hostile_linux_guests_take_nothing_of_a_share(
    programs: Programs,
) -> None:
    """At each decision nobody's lag is beyond a quantum (``Watched`` looks), and time is not lost."""
    watchers = Watchers()
    plugins = create_plugin_manager()
    plugins.register(watchers, "watchers")
    async with (
        open_host(cpus=1, policy="watched", plugins=plugins, paused=True) as host,
        trio.open_nursery() as nursery,
    ):
        for name in HOSTILE:
            config = hostile(programs, name, {"cpu.weight": 100})
            nursery.start_soon(attack, await host.start(config))
        await host.run_until(500 * MS)
        start = host.now_ns
        honest = await host.start(programs.config(SPIN, "honest", policy={"cpu.weight": 700}))
        await host.run_until(start + 100 * MS)
        usage: CpuUsage = honest.usage().cpu
        assert usage.entitled_steps is not None
        assert usage.received_steps >= usage.entitled_steps - 1_000_000
        assert usage.received_steps >= 50_000_000 - 1_000_000  # half of all weights
        assert watchers.made[0].decisions > 200
        nursery.cancel_scope.cancel()
