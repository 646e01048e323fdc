"""A small round of the soak on real images: modules, and a compiler in the guest."""

from __future__ import annotations

import pytest

pytest.importorskip("llvmlite")

from asyncvmm.engine.jit.regions import RegionStore
from tests.guests.conftest import require
from tools.soak.linux import COMPILER_IMAGE, MODULES_IMAGE, LinuxWorks
from tools.soak.rounds import Trial, compare
from tools.soak.work import Work

pytestmark = pytest.mark.guest

ARENA_BYTES = 12 << 20
SEED = 20_261


def check(work: Work, harts: int) -> None:
    """Equal on both engines, in an arena that is too small."""
    result = compare(Trial(work, SEED, harts, ARENA_BYTES, False, 16), RegionStore(None))
    assert result.failure == ""
    assert result.counters["resets"] > 0


def test_modules_are_loaded_used_and_unloaded() -> None:
    require(MODULES_IMAGE)
    check(LinuxWorks().modules(SEED, 2), 1)


def test_a_guest_that_compiles() -> None:
    """Two harts, and what they do at the same time; FENCE.I of both by the kernel."""
    require(COMPILER_IMAGE)
    check(LinuxWorks().compiler(SEED, 20, 500, harts=2), 2)
