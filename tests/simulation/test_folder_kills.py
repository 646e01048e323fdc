"""A small sample of ``tools.kill_campaign``: kill -9 during each way to use a machine's folder.

And that it would see what it is there to see: each store of ``tools.kill_campaign.broken`` is found.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncvmm.base.errors import AsyncvmmError
from tools.kill_campaign import WORKS, run
from tools.kill_campaign.broken import BROKEN

SEED = 20261124
KILLS = 20  # most stores are found by the first two or three


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCVMM_STATE", str(tmp_path / "state"))


def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    killed = run(len(WORKS), SEED, tmp_path)
    assert {what.split(":")[0] for what in killed} == set(WORKS)


def test_every_work_has_a_store_that_it_finds() -> None:
    assert {broken.work for broken in BROKEN.values()} == set(WORKS)


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_a_broken_store_is_found(tmp_path: Path, name: str) -> None:
    said: list[str] = []
    with pytest.raises((AssertionError, AsyncvmmError)):
        run(KILLS, SEED, tmp_path, said.append, (BROKEN[name].work,), name)
    assert f"({BROKEN[name].work}) of seed {SEED}" in said[-1]
