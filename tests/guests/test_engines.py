"""Linux gives the same digest on both engines at every count of steps that is looked at."""

from __future__ import annotations

import pytest

pytest.importorskip("llvmlite")

from asyncvmm.engine.interpreter import Engine, Interpreter
from asyncvmm.engine.jit.build import Native
from asyncvmm.engine.jit.engine import TranslatingEngine
from asyncvmm.engine.jit.hot import HotPages
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
    eager = Native(hot=HotPages(interval_s=0.0003, samples=1))
    translated = digests(TranslatingEngine(eager, eager.enter), harts)
    assert translated == digests(Interpreter(), harts)
