"""Linux gives the same digest on both engines at every count of steps that is looked at."""

from __future__ import annotations

import pytest

pytest.importorskip("llvmlite")

from asyncvmm.engine.interpreter import Engine, Interpreter
from asyncvmm.engine.jit.build import Native
from asyncvmm.engine.jit.engine import TranslatingEngine
from asyncvmm.engine.jit.hot import HotPages
from asyncvmm.engine.jit.regions import RegionStore
from asyncvmm.machine import GuestConfig, Machine, read_boot_files
from asyncvmm.plugin.images import default_cache_root
from tests.unit.machine.guest_machines import device_types

LINUX = default_cache_root() / "linux"

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif(
        not (LINUX / "Image").exists(), reason="the image linux has not been pulled"
    ),
]

POINTS = (1_000, 100_000, 3_000_000, 5_541_000, 20_000_000, 35_000_001, 60_000_000, 90_000_000)


def digests(engine: Engine, harts: int) -> list[str]:
    """The machine's digest at every point."""
    config = GuestConfig(
        kernel=LINUX / "Image", initrd=LINUX / "initrd.cpio", append="console=ttyS0", harts=harts
    )
    machine = Machine(config, read_boot_files(config), device_types(), engine=engine)
    found, done = [], 0
    for point in POINTS:
        while done < point:
            before = sum(hart.steps for hart in machine.harts)
            machine.run(max_steps=point - done)
            done += sum(hart.steps for hart in machine.harts) - before
        found.append(machine.digest())
    return found


@pytest.mark.parametrize("harts", [1, 2])
def test_engines_agree_on_linux(harts: int) -> None:
    """Pages are optimised as soon as they are seen, then found in the store."""
    expected = digests(Interpreter(), harts)
    store = RegionStore(None)
    for _ in range(2):
        hot = HotPages(0.0003, 1, store)
        eager = Native(hot=hot)
        hot.waits = False  # for a look at a page, which may not come in time
        assert digests(TranslatingEngine(eager, eager.enter), harts) == expected
    assert eager.statistics()["cache_hits"] > 0


def test_a_boot_in_a_small_memory() -> None:
    """Code is thrown away dozens of times in a boot; the memory that it takes stays bounded."""
    size = 2 << 20
    native = Native(arena_bytes=size, hot=HotPages(0.0003, 1))
    assert digests(TranslatingEngine(native, native.enter), 1) == digests(Interpreter(), 1)
    counted = native.statistics()
    assert counted["resets"] > 5
    assert counted["evictions"] > 100
    assert counted["code_bytes_most"] <= size
