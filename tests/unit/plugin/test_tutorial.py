"""``specs/devices.md``: its code is run as it stands there, and is as short as it says."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio

from asyncvmm.plugin import DeviceType, PluginManager
from asyncvmm.testing import CHECKS, DeviceBench, check_device
from asyncvmm.testing.device_backend_checks import BenchBackendIo
from asyncvmm.testing.device_specimen import Specimen

PAGE = Path(__file__).resolve().parents[3] / "specs" / "devices.md"
BLOCKS: dict[str, str] = {
    match[1]: match[2]
    for match in re.finditer(r"^```python (\S+)\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
}
PREVIOUS: dict[str, Any] = {"version": 1, "total": 7}


def run(*names: str) -> dict[str, Any]:
    """The names that the blocks define, run one after the other as one module."""
    module = ModuleType(f"tutorial_{names[0]}")
    sys.modules[module.__name__] = module  # as imported: attrs looks for annotations there
    for name in names:
        code = compile(BLOCKS[name], f"{PAGE.name}: {name}", "exec", dont_inherit=True)
        exec(code, vars(module))
    return vars(module)


def device_type(name: str) -> DeviceType:
    module = run(name)
    hooks = type(
        "Hooks", (), {"asyncvmm_device_types": staticmethod(module["asyncvmm_device_types"])}
    )
    manager = PluginManager()
    manager.register(hooks, name)
    assert manager.problems == []
    return manager.device_types[name]


@pytest.mark.parametrize(("name", "limit"), [("thermometer", 30), ("adder", 80)])
def test_it_is_as_short_as_it_says(name: str, limit: int) -> None:
    lines = [line for line in BLOCKS[name].splitlines() if line.strip()]
    assert len(lines) <= limit


@pytest.mark.parametrize("check", CHECKS)
def test_the_thermometer_passes_the_kit(check: str) -> None:
    check_device(device_type("thermometer"), {"start": "-3"}, checks=(check,))


@pytest.mark.parametrize("check", CHECKS)
def test_the_virtio_device_passes_the_kit(check: str) -> None:
    kind = device_type("adder")
    saved = _fresh_state(kind)
    saved["device"]["state"] = PREVIOUS
    check_device(kind, {"delay-us": "3"}, previous=(saved,), checks=(check,))


def _fresh_state(kind: DeviceType) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(Specimen(kind, kind.parse({})).snapshot())
    return state


def test_the_tutorials_own_tests_pass() -> None:
    module = run("thermometer", "thermometer-test")
    module["test_alarm"]()
    conformance = module["TestThermometer"]()
    checks = [name for name in dir(conformance) if name.startswith("test_")]
    assert len(checks) == len(CHECKS)
    for name in checks:
        getattr(conformance, name)()
    run("adder", "adder-test")["test_sums"]()


async def test_the_live_thermometer_shows_what_the_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = run("thermometer", "live")
    (tmp_path / "temp").write_text("31500\n")
    real = trio.Path
    monkeypatch.setattr(trio, "Path", lambda path: real(tmp_path / "temp"))
    bench = DeviceBench()
    device = module["Outdoors"](module["Config"](), bench.io)
    device.reset()
    io = BenchBackendIo(bench.io)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(device.run, io)
        while not io.entered:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert device.read(0, 4) == 31500
