"""A real guest and the network backend of the tutorial (``specs/devices.md``)."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from asyncvmm.api.scenarios import run_scenario
from asyncvmm.api.verify import verify_scenario
from asyncvmm.base.errors import ConfigError
from asyncvmm.plugin import PluginManager, create_plugin_manager
from asyncvmm.runtime.scenario import load_scenario, parse_scenario
from asyncvmm_plugins.debian_images import root_disk
from tests.guests.conftest import require, require_recipe
from tests.unit.plugin.test_tutorial import network_plugins

pytestmark = pytest.mark.guest

SCENARIO = """
[networks.lan]
latency = "2ms"
backends.peer = "peer,address=10.0.2.200"
links.peer = {latency = "20ms"}

[guests.a]
image = "linux"
net = ["lan"]

[[steps]]
guest = "a"
run = ["ping", "-c", "3", "10.0.2.200"]
contains = "3 packets received"
"""


def plugins() -> PluginManager:
    """Those that are installed, and the tutorial's."""
    return network_plugins("peer", "tunnel", manager=create_plugin_manager())


async def test_linux_pings_the_backend_as_far_as_its_cable_is() -> None:
    require("linux")
    result = await run_scenario(parse_scenario(SCENARIO, Path("s.toml")), plugins=plugins())
    assert result.ok, result.failed
    _, *times = [float(part.split()[0]) for part in result.steps[0].output.split("time=")[1:]]
    assert len(times) == 2 and all(22 < one < 23 for one in times), (
        "the virtual time of both cables"
    )


async def test_two_runs_are_equal_and_a_live_backend_is_refused() -> None:
    require("linux")
    verdict = await verify_scenario(parse_scenario(SCENARIO, Path("s.toml")), plugins=plugins())
    assert verdict.equal
    live = SCENARIO.replace(
        "backends.peer", 'backends.out = "udp-tunnel,port=1,peer=2"\nbackends.peer'
    )
    with pytest.raises(ConfigError, match="backend 'out' lives with the world outside"):
        await verify_scenario(parse_scenario(live, Path("s.toml")), plugins=plugins())


CLOCK = Path(__file__).parents[2] / "plugins" / "example_timeserver" / "clock.toml"


async def test_a_guest_of_debian_asks_the_example_for_the_time() -> None:
    require_recipe("debian-root", root_disk.RECIPE)
    manager = create_plugin_manager()
    if "example-timeserver" not in manager.network_backends:  # unless it is installed
        hooks = import_module("asyncvmm_example_timeserver.hooks")
        manager.register(hooks, "example-timeserver")
    result = await run_scenario(load_scenario(CLOCK), plugins=manager)
    assert result.ok, result.failed
    said = result.steps[0].output
    assert re.search(r"8 answers, the last after 2\.[0-3] ms", said), said
    assert "runs 1.050 times as fast as ours" in said
