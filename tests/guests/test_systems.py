"""Different operating systems side by side on one host."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncvmm.api import run_scenario
from tests.guests.conftest import require

SCENARIO = Path(__file__).parents[2] / "specs" / "scenarios" / "three-systems.toml"
pytestmark = pytest.mark.guest


async def test_debian_a_small_linux_and_a_bare_metal_program_answer() -> None:
    require("debian", "linux", "demo")
    result = await run_scenario(SCENARIO)
    assert result.ok, result.failed
    outputs = {step.step.number: step.output for step in result.steps}
    small, debian = outputs[2].split(), outputs[3].split()
    assert small[0] == debian[0] == "Linux" and small[1] != debian[1]
    assert "Debian" in outputs[3] and "Debian" not in outputs[2]
    assert outputs[1].endswith("demo> ") and "ok" in outputs[4] and "42" in outputs[5]
    # The bare-metal guest answered while Debian was still booting.
    assert result.steps[0].ended_ns < result.steps[1].ended_ns < result.steps[2].ended_ns
    assert all(guest.exit is None for guest in result.guests.values())
