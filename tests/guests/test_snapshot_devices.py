"""Every device at work in a Linux guest: what is saved at any instant goes on to the same digest."""

from __future__ import annotations

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
# Disks, randomness, date, network, console and run channel, all the time.
BUSY = """
(while true; do
    dd if=/dev/vda of=/dev/vdb bs=4k count=8 seek=$((i % 8)) 2> /dev/null
    head -c 100 /dev/hwrng > /dev/null; hwclock > /dev/null; i=$((i + 1))
done) > /dev/null 2>&1 &
ping -i 1 -s 1000 gateway > /dev/null 2>&1 &
(while true; do nc gateway 9 < /dev/null; echo tick > /dev/console; done) > /dev/null 2>&1 &
"""


def config(folder: Path, engine: str, harts: int) -> GuestConfig:
    """A guest with a device of each kind."""
    for name in ("one", "two"):
        (folder / f"{name}.raw").write_bytes(bytes(range(256)) * 1024)
    image = find_image("linux")
    return image_config(
        image, ImageCache(), commands=True, name="all", engine=engine, harts=harts,
        nets=("lan",), memory=40 << 20,
        disks=(f"{folder / 'one.raw'},readonly", f"{folder / 'two.raw'},snapshot"),
        devices=("virtio-rng", "vmgenid", "virtio-balloon"),
    )  # fmt: skip


@pytest.mark.parametrize("engine", ["jit", "interpreter"])
@pytest.mark.parametrize("harts", [1, 2])
def test_any_instant_goes_on(
    tmp_path_factory: pytest.TempPathFactory, engine: str, harts: int
) -> None:
    require("linux")
    folder = tmp_path_factory.mktemp("devices")

    async def begin() -> tuple[int, str]:
        async with open_host() as host:
            guest = await host.start(config(folder, engine, harts))
            await guest.run(["sh", "-c", BUSY], check=True)
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
                    # With two harts a stop off the grid shows in a digest soon after it, so the
                    # copies are compared with the run that was stopped where they were taken.
                    expected = host.guests["all"].machine.digest()
                    assert harts > 1 or expected == unstopped
            for one in taken:
                with one:
                    async with open_host(snapshot=one, paused=True, workers=1) as host:
                        for ns in sorted(before_end_ns, reverse=True):
                            if until_ns - ns > one.time_ns:
                                await host.run_until(until_ns - ns)
                        await host.run_until(until_ns)
                        assert host.guests["all"].machine.digest() == expected, one.time_ns

        trio.run(main)

    at()
