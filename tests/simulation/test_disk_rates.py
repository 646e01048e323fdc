"""``io.max`` of a guest on a host: delays in virtual time, live changes, what is told of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncvmm.base.errors import ConfigError
from asyncvmm.machine import GuestConfig
from asyncvmm.plugin.images import ImageCache, SilentProgress
from asyncvmm.runtime.host import open_host
from asyncvmm_plugins.demo_image.image import DemoImage

MS = 1_000_000
SECOND = 1_000_000_000
PROMPT = "demo> "


async def test_reads_wait_for_io_max(tmp_path: Path) -> None:
    cache = ImageCache(tmp_path)
    DemoImage().pull(cache, SilentProgress())
    elf = DemoImage().boot_files(cache).elf
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(range(256)) * 64)
    async with open_host() as host:
        config = GuestConfig(name="demo", elf=elf, disks=(str(disk),), policy={"io.max": "riops=4"})
        guest = await host.start(config)
        await guest.console.expect(PROMPT)

        async def read_sectors(count: int) -> int:
            before = guest.now_ns
            for sector in range(count):
                await guest.console.send_all(f"block {sector}\r".encode())
                assert b"sector" in await guest.console.expect(PROMPT)
            return guest.now_ns - before

        # An operation is done when it is paid for: four a second, less what an idle bucket saves up.
        assert 2 * SECOND - 20 * MS <= await read_sectors(8) <= 2 * SECOND + 20 * MS
        (usage,) = guest.usage().disks
        assert usage.disk == "demo/virtio-blk0" and usage.delayed == 8
        assert usage.delayed_ns == pytest.approx(2 * SECOND, rel=0.02)
        delays = [event for event in host.events if event.kind == "delayed"]
        assert len(delays) == 2 and "demo/virtio-blk0 waits" in delays[0].cause
        guest.policy.update(io_max_0="rbps=512000")
        assert await read_sectors(8) < 20 * MS
        guest.policy.update(io_max="max", io_max_0="max")
        with pytest.raises(ConfigError, match=r"io\.max\.1: guest demo has 1 disks"):
            guest.policy.update(io_max_1="rbps=1M")
        (before,) = guest.usage().disks
        assert await read_sectors(8) < 20 * MS
        assert guest.usage().disks == (before,)
