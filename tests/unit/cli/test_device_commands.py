"""``asyncvmm devices`` and ``asyncvmm new-device``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from asyncvmm.cli import devices
from asyncvmm.cli.main import main
from asyncvmm.plugin import create_plugin_manager
from tests.unit.plugin.test_tutorial import network_plugins


def test_devices_lists_types_with_options_and_origin(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "goldfish-rtc", "virtio-blk"]) == 0
    text = capsys.readouterr().out
    assert "goldfish-rtc (mmio): real-time clock with an alarm" in text
    assert "    from plugin goldfish-rtc of asyncvmm\n" in text
    assert "    path=PATH, required\n" in text
    assert "    readonly=yes|no, default False\n" in text


def test_devices_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    types = {kind["name"]: kind for kind in listed["types"]}
    assert {"ns16550", "virtio-net", "virtio-rng"} <= set(types)
    assert listed["device_api"] == types["ns16550"]["api_version"] == 1
    assert types["ns16550"]["options"][0] == {
        "name": "clock-hz",
        "type": "NUMBER",
        "required": False,
        "default": 3_686_400,
    }


def test_devices_lists_network_backends(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = network_plugins("peer", "tunnel", manager=create_plugin_manager())
    monkeypatch.setattr(devices, "create_plugin_manager", lambda: manager)
    assert main(["devices", "udp-tunnel", "ns16550"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("ns16550 (mmio): ")
    assert "udp-tunnel (network backend, live): a cable to another process\n" in text
    assert "    from plugin tunnel of an unknown distribution\n    port=NUMBER, required\n" in text
    assert main(["devices", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["network_backends"]
    (peer, tunnel) = [one for one in listed if one["plugin"] in ("peer", "tunnel")]
    assert (peer["name"], peer["live"], peer["plugin"]) == ("peer", False, "peer")
    assert (tunnel["name"], tunnel["live"]) == ("udp-tunnel", True)


def test_an_unknown_device_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "ns16551"]) == 2
    assert "did you mean 'ns16550'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["Blinker", "a--b", "class", "asyncvmm", "x" * 41, "a/b", ""])
def test_names_that_no_project_can_have(name: str, tmp_path: Path) -> None:
    assert main(["new-device", name, "--directory", str(tmp_path / "new")]) == 2
    assert not (tmp_path / "new").exists()


def test_nothing_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("precious")
    assert main(["new-device", "blinker", "--directory", str(tmp_path)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_the_new_project_passes_its_own_tests(tmp_path: Path) -> None:
    project = tmp_path / "my-sensor"
    assert main(["new-device", "my-sensor", "--directory", str(project)]) == 0
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 passed" in done.stdout
