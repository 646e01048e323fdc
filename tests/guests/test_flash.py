"""Linux's own driver for flash (cfi_cmdset_0001) finds ours, programs it, and the file has it."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncvmm.api import find_image, image_config, open_host
from asyncvmm.plugin.images import ImageCache
from asyncvmm_plugins.debian_images import small_linux
from tests.guests.conftest import require_recipe

pytestmark = pytest.mark.guest
TEXT = bytes(range(256)) * 20
AT = 3 * 4096 + 2


async def test_linux_programs_flash_and_reads_it_back(tmp_path: Path) -> None:
    require_recipe("linux", small_linux.RECIPE)
    file = tmp_path / "flash.bin"
    file.write_bytes(b"\xff" * (32 << 20))
    image = find_image("linux")
    config = image_config(image, ImageCache(), commands=True, flash=(str(file),))
    async with open_host() as host:
        guest = await host.start(config)
        found = await guest.run(["sh", "-c", "dmesg | grep devices; cat /proc/mtd"], check=True)
        put = f"dd of=/dev/mtd0 bs=1024 oflag=seek_bytes seek={AT}"
        write = f"cat > /tmp/text; ({put} || dd of=/dev/mtd0 bs=2 seek={AT // 2}) < /tmp/text"
        await guest.run(["sh", "-c", write], stdin=TEXT, check=True)
        read = await guest.run(
            ["sh", "-c", f"tail -c +{AT + 1} /dev/mtd0 | head -c {len(TEXT)}"], check=True
        )
    said = found.stdout.decode()
    assert "Found 2 x16 devices" in said and "Chip ID 0x000018" in said
    assert 'mtd0: 02000000 00040000 "20000000.flash"' in said
    assert read.stdout == TEXT
    with file.open("rb") as image_file:
        image_file.seek(AT)
        assert image_file.read(len(TEXT) + 1) == TEXT + b"\xff"
