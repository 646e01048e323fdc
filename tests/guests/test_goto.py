"""Linux goes back: in the middle of its boot, and before a command that it wishes it had not run."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from asyncvmm.api.images import find_image, image_config
from asyncvmm.machine import GuestConfig
from asyncvmm.plugin.images import ImageCache
from asyncvmm.runtime.host import open_host
from asyncvmm.runtime.ports import GuestEndedError
from tests.guests.conftest import require

MS = 1_000_000


def linux(**options: object) -> GuestConfig:
    require("linux")
    return image_config(find_image("linux"), ImageCache(), commands=True, name="base", **options)


@pytest.mark.parametrize("harts", [1, 2])
async def test_its_boot_again(harts: int) -> None:
    noted = {}
    async with open_host(paused=True) as host:
        guest = await host.start(linux(harts=harts))
        guest.keep_history()
        for instant in (21_234_567, 40 * MS, 57_000_001, 75 * MS):
            await host.run_until(instant)
            noted[instant] = guest.machine.digest()
        for instant, digest in noted.items():
            with await guest.at(instant) as there:
                copy = await host.start(there, name="copy")
                assert copy.machine.digest() == digest
                await copy.aclose()
        await guest.goto(33_333_333)  # nobody had looked there
        for instant, digest in noted.items():
            if instant > 33_333_333:
                await host.run_until(guest.since_ns + instant)
                assert guest.machine.digest() == digest


async def test_a_command_undone() -> None:
    async with open_host() as host:
        guest = await host.start(linux())
        guest.keep_history()
        await guest.run(["sh", "-c", "echo kept > /tmp/x"], check=True)
        before = guest.now_ns
        await guest.run(["rm", "/tmp/x"], check=True)
        assert (await guest.run(["cat", "/tmp/x"])).status == 1
        ended = []

        async def sleep() -> None:
            try:
                await guest.run(["sleep", "1000"])
            except GuestEndedError as error:
                ended.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleep)
            await trio.testing.wait_all_tasks_blocked()
            await guest.goto(before)
        assert len(ended) == 1
        assert (await guest.run(["cat", "/tmp/x"])).stdout == b"kept\n"
        with await guest.at(before) as there:
            fork = await host.start(there, name="fork")
        assert (await fork.run(["cat", "/tmp/x"])).stdout == b"kept\n"


async def test_the_balloon_is_an_input() -> None:
    """What was asked of it comes again at its instant."""
    async with open_host(paused=True) as host:
        guest = await host.start(linux(devices=("virtio-balloon",)))
        guest.keep_history()
        await host.run_until(100 * MS)
        await guest.balloon.set("8M")
        noted = {}
        for instant in (110 * MS, 130 * MS):
            await host.run_until(instant)
            noted[instant] = guest.machine.digest()
        assert guest.balloon.actual_bytes == 8 << 20
        for instant, digest in noted.items():
            await guest.goto(instant)
            assert guest.machine.digest() == digest
        await guest.goto(100 * MS)
        assert guest.balloon.actual_bytes == 0
