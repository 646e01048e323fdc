"""A small sample of ``tools.kill_campaign``: kill -9 during edits, snapshots, disk writes and commits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.kill_campaign import run


def test_nothing_acknowledged_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCVMM_STATE", str(tmp_path / "state"))
    assert sum(run(6, 20261124, tmp_path).values()) == 6
