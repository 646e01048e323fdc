"""``bench net`` and ``bench disk`` on real guests, once, without QEMU: every task ends and is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncvmm.api.images import find_image
from asyncvmm.testing import bench_disk, bench_net
from asyncvmm_plugins.debian_images import root_disk
from tests.guests.conftest import require_recipe

pytestmark = pytest.mark.guest


async def test_net() -> None:
    require_recipe("debian-root", root_disk.RECIPE)
    results = await bench_net.measure_net(find_image("debian-root"), runs=1, qemu=False)
    assert len(results.rows) == 7
    assert all(row.rate("asyncvmm") for row in results.rows.values())


async def test_disk(tmp_path: Path) -> None:
    require_recipe("debian-root", root_disk.RECIPE)
    results = await bench_disk.measure_disk(
        find_image("debian-root"), runs=1, qemu=False, folder=tmp_path
    )
    assert len(results.rows) == 6
    assert all(row.rate("asyncvmm") for row in results.rows.values())
    assert list(tmp_path.iterdir()) == []
