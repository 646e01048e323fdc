"""A small sample of ``tools.kill_campaign``: kill -9 during each way to use a machine's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.kill_campaign import WORKS, run


def test_nothing_acknowledged_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASYNCVMM_STATE", str(tmp_path / "state"))
    killed = run(len(WORKS), 20261124, tmp_path)
    assert {what.split(":")[0] for what in killed} == set(WORKS)
