"""A balloon in a real guest: memory goes and comes, and the process of the host gets smaller."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncvmm.api import BalloonShortError, ConfigError, Guest, find_image, image_config, open_host
from tests.guests.conftest import require

pytestmark = pytest.mark.guest
MIB = 1 << 20


def process_bytes() -> int:
    """How much memory this process has (resident)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def fill(guest: Guest, mib: int) -> None:
    """Let the guest use its memory, and free it again."""
    script = (
        f"mkdir -p /tmp/m && mount -t tmpfs -o size={mib + 8}m none /tmp/m && "
        f"dd if=/dev/zero of=/tmp/m/file bs=1M count={mib} 2>/dev/null && "
        "rm /tmp/m/file && umount /tmp/m"
    )
    done = await guest.run(["sh", "-c", script])
    assert done.status == 0, done


async def test_memory_goes_and_comes() -> None:
    require("linux")
    size, given_back = 300 * MIB, 80 * MIB
    config = image_config(
        find_image("linux"),
        commands=True,
        memory=400 * MIB,
        engine="interpreter",  # translating takes memory of its own, of which the process gets larger
        devices=("virtio-balloon,reporting=no",),
    )
    async with open_host() as host:
        guest = await host.start(config)
        await fill(guest, 100)
        full, process = guest.stats.resident_bytes, process_bytes()
        assert full > 100 * MIB
        await guest.balloon.set(size)
        await guest.balloon.wait()
        small = guest.stats.resident_bytes
        assert guest.balloon.actual_bytes == size
        assert full - small > given_back
        assert guest.balloon.returned_bytes >= full - small
        assert process - process_bytes() > given_back * 3 // 4
        told = await guest.balloon.statistics()
        assert 0 < told["free_memory"] < 100 * MIB < 300 * MIB < told["total_memory"] < 400 * MIB
        (fork,) = await guest.fork()
        assert fork.balloon.actual_bytes == size
        await guest.balloon.set(0)
        await guest.balloon.wait()
        await fill(guest, 100)
        assert guest.stats.resident_bytes > 100 * MIB
        assert (await guest.run(["echo", "well"])).stdout == b"well\n"
        assert (await fork.run(["echo", "well"])).stdout == b"well\n"
        assert fork.stats.resident_bytes < small + 40 * MIB


async def test_free_pages_are_reported() -> None:
    require("linux")
    config = image_config(
        find_image("linux"), commands=True, memory=256 * MIB, devices=("virtio-balloon",)
    )
    async with open_host() as host:
        guest = await host.start(config)
        await fill(guest, 100)
        await guest.run(["sleep", "10"])  # of virtual time: reports are two seconds late
        assert guest.balloon.returned_bytes > 80 * MIB
        assert guest.stats.resident_bytes < 90 * MIB
        await fill(guest, 100)


async def test_two_runs_are_equal() -> None:
    require("linux")
    config = image_config(find_image("linux"), commands=True, devices=("virtio-balloon",))
    digests = []
    for _ in range(2):
        async with open_host() as host:
            guest = await host.start(config)
            await fill(guest, 40)
            await guest.balloon.set("32M")
            await guest.balloon.wait()
            await host.run_until(2 * 10**10)
            digests.append(guest.machine.digest())
    assert digests[0] == digests[1]


@pytest.mark.parametrize("image", ["linux", "debian-full"])
async def test_a_guest_gives_what_it_has_available_and_no_more(image: str) -> None:
    require(image)
    config = image_config(
        find_image(image), commands=True, memory=256 * MIB, devices=("virtio-balloon",)
    )
    async with open_host() as host:
        guest = await host.start(config)
        await guest.run(["true"])  # its driver is there
        available = (await guest.balloon.statistics())["available_memory"]
        await guest.balloon.set(available)
        await guest.balloon.wait()
        left = (await guest.balloon.statistics())["available_memory"]
        most = guest.balloon.actual_bytes + left
        assert 0 < left < 24 * MIB
        began_ns = guest.now_ns
        await guest.balloon.set(256 * MIB)
        with pytest.raises(BalloonShortError, match=r"of 256\.0 MiB and has had no more") as short:
            await guest.balloon.wait()
        assert available < short.value.actual_bytes < most + 8 * MIB
        assert guest.now_ns - began_ns < 20 * 10**9
        assert (await guest.run(["echo", "well"])).stdout == b"well\n"
        await guest.balloon.set("16M")
        await guest.balloon.wait()


async def test_what_cannot_be_asked() -> None:
    require("linux")
    async with open_host() as host:
        config = image_config(find_image("linux"), devices=("virtio-balloon",))
        guest = await host.start(config)
        with pytest.raises(ConfigError, match="0 to"):
            await guest.balloon.set("2G")
        other = await host.start(image_config(find_image("linux")), name="other")
        with pytest.raises(ConfigError, match="virtio-balloon"):
            await other.balloon.set(0)
