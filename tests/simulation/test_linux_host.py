"""Linux guests side by side on a simulated host: shares, steal time, eight at once."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from asyncvmm.api.images import find_image, image_config
from asyncvmm.machine import GuestConfig
from asyncvmm.plugin.images import ImageCache
from asyncvmm.runtime.guest import Guest
from asyncvmm.runtime.host import open_host

SECOND = 1_000_000_000
TICK_NS = 10_000_000  # USER_HZ of /proc/stat
pytestmark = pytest.mark.guest


def linux(name: str, **options: Any) -> GuestConfig:
    image = find_image("linux")
    if not image.is_present(ImageCache()):
        pytest.skip("the image linux is not pulled")
    return image_config(image, commands=True, name=name, **options)


async def spin(guest: Guest) -> None:
    await guest.run(["sh", "-c", "while :; do :; done"])


async def test_busy_linux_guests_get_their_weights_and_see_what_was_stolen() -> None:
    weights = (100, 200, 400)
    async with open_host(cpus=1, mips=100) as host:
        guests = [
            await host.start(linux(f"w{weight}", policy={"cpu.weight": weight}))
            for weight in weights
        ]
        for guest in guests:
            await guest.wait_ready()
        async with trio.open_nursery() as nursery:
            for guest in guests:
                nursery.start_soon(spin, guest)
            await host.run_until(host.now_ns + SECOND // 5)
            before = [guest.stats.instructions for guest in guests]
            await host.run_until(host.now_ns + SECOND)
            after = [guest.stats.instructions for guest in guests]
            host.resume()
            nursery.cancel_scope.cancel()
        done = [end - start for start, end in zip(before, after, strict=True)]
        for weight, count in zip(weights, done, strict=True):
            assert count == pytest.approx(sum(done) * weight / sum(weights), rel=0.005)
        for guest in guests:
            said = (await guest.run(["cat", "/proc/stat"], check=True)).stdout.split()
            steal_ns = int(said[8]) * TICK_NS
            assert steal_ns == pytest.approx(guest.usage().cpu.steal_ns, rel=0.03, abs=2 * TICK_NS)


async def test_eight_linux_guests_answer() -> None:
    answers = {}

    async def ask(guest: Guest) -> None:
        said = await guest.run(["sh", "-c", "echo $((6 * 7)) $(uname -s)"], check=True)
        answers[guest.name] = said.stdout

    async with open_host(cpus=2) as host:
        guests = [await host.start(linux(f"g{number}")) for number in range(8)]
        async with trio.open_nursery() as nursery:
            for guest in guests:
                nursery.start_soon(ask, guest)
    assert answers == {f"g{number}": b"42 Linux\n" for number in range(8)}
