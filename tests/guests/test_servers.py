"""Debian's servers and their clients: the scenarios in specs/scenarios, one for each kind of server.

They need the image ``debian-root`` of this version, that of PostgreSQL ``debian-postgresql``. Where
``ASYNCVMM_TEST_PULL`` names an image, it is pulled; CI's names ``debian-root``, so PostgreSQL, the longest of
them, is not run there.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncvmm.api.scenarios import run_scenario
from asyncvmm.api.verify import verify_scenario
from asyncvmm.runtime.scenario import load_scenario
from asyncvmm_plugins.debian_images import root_disk
from tests.guests.conftest import require_recipe

pytestmark = pytest.mark.guest

SCENARIOS = Path(__file__).parents[2] / "specs" / "scenarios"

# What only the server's own work can have made it say.
SAID = {
    "database": ("errors: 0, replies: 1000", "sum 333833500", "visits 42", "wrench|14297500"),
    "file": ("Access denied", "alice 16000000", "whole"),
    "application": ("40 201", "40 answers from 2 workers"),
    "mail": ("refused: {}", "Invalid recipient", "alice: From curl", "bob: Guests"),
    "print": ("request id is paper-1", "Dear printer,"),
    "postgresql": (
        *("authentication failed", "wrench|1426425000", 'not present in table "item"'),
        *("automatic recovery in progress", "3000|4501500", "400|t"),
    ),
    "game": ("teeworlds 0.7", "0 of 8 clients", "1 of 8 clients"),
}


@pytest.mark.parametrize("kind", SAID)
async def test_server_and_client(kind: str) -> None:
    image = root_disk.DebianPostgresqlImage if kind == "postgresql" else root_disk.DebianRootImage
    require_recipe(image.name, image.recipe)
    result = await run_scenario(SCENARIOS / f"{kind}.toml")
    assert result.ok, result.failed
    said = "\n".join(step.output for step in result.steps)
    for words in SAID[kind]:
        assert words in said


async def test_a_server_and_its_client_are_the_same_in_every_run() -> None:
    require_recipe("debian-root", root_disk.RECIPE)
    verdict = await verify_scenario(load_scenario(SCENARIOS / "database.toml"))
    assert verdict.equal
