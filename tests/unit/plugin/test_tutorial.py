"""``specs/devices.md``: its code is run as it stands there, and is as short as it says."""

from __future__ import annotations

import json
import re
import socket
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio
import trio.testing

from asyncvmm.plugin import DeviceType, PluginManager
from asyncvmm.runtime.host import open_host
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
    io = BenchBackendIo(bench.io, device)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(device.run, io)
        while not io.entered:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert device.read(0, 4) == 31500


def network_plugins(*names: str, manager: PluginManager | None = None) -> PluginManager:
    """A manager, or this one, with the network backends of these blocks."""
    manager = manager or PluginManager()
    for name in names:
        hook = staticmethod(run(name)["asyncvmm_network_backends"])
        manager.register(type("Hooks", (), {"asyncvmm_network_backends": hook}), name)
    assert {"peer", "udp-tunnel"} <= set(manager.network_backends) and manager.problems == []
    return manager


def test_the_peers_own_test_passes() -> None:
    run("peer", "peer-test")["test_ping"]()


def free_port() -> int:
    """One of this machine's for UDP, for as long as nobody else takes it."""
    with socket.socket(type=socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


async def test_the_peer_answers_through_the_tunnel() -> None:
    ours = b"\x02\0\0\0\0\x11"
    ends = bytes([10, 0, 2, 17, 10, 0, 2, 200])
    who_has = b"\xff" * 6 + ours + bytes.fromhex("08060001080006040001") + ours + ends[:4]
    ip = bytes.fromhex("4500001c000000004001624d") + ends
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as outside:
        await outside.bind(("127.0.0.1", 0))
        port = free_port()
        backends = {
            "tunnel": f"udp-tunnel,port={port},peer={outside.getsockname()[1]}",
            "peer": "peer,address=10.0.2.200",
        }
        networks = {"lan": {"backends": backends}}
        plugins = network_plugins("peer", "tunnel")
        async with open_host(plugins=plugins, networks=networks, paused=True) as host:
            await host.run_until(1_000_000)
            await trio.testing.wait_all_tasks_blocked()  # it listens
            host.resume()
            await outside.sendto(who_has + bytes(6) + ends[4:], ("127.0.0.1", port))
            heard = await outside.recv(0xFFFF)
            peer = host.networks["lan"].outlets["peer"]
            assert heard[:12] == ours + peer.io.net.mac and heard[20:22] == b"\0\2"
            ping = bytes.fromhex("0800f7fd00010001")
            frame = peer.io.net.mac + ours + b"\x08\0" + ip + ping
            await outside.sendto(frame, ("127.0.0.1", port))
            heard = await outside.recv(0xFFFF)
            assert heard[12:14] == b"\x08\0" and heard[26:34] == ends[4:] + ends[:4]
            assert heard[34:] == bytes.fromhex("0000fffd00010001")
            assert peer.end.save() == {"version": 1, "pings": 1}
