"""Is a scenario repeatable? Run it twice in different ways that no guest may notice, and compare."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import attrs
import trio

from asyncvmm.api.scenarios import Probe, ScenarioResult, run_scenario, scenario_configs
from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.machine.config import split_disk
from asyncvmm.plugin import PluginManager, create_plugin_manager, split_options
from asyncvmm.plugin.images import ImageCache
from asyncvmm.runtime.scenario import Scenario

SAMPLES: Final = 16  # how finely a rerun looks at the interval that the last one left
PAUSE_QUANTA: Final = 7


@attrs.frozen
class Verdict:
    """Two runs of a scenario. ``differing`` are the guests whose digests are not the same.

    ``interval_ns`` is then where it begins: everything was equal at its first instant, and not at
    its second one; it is a quantum long, or what is left before the end.
    """

    first: ScenarioResult
    second: ScenarioResult
    differing: list[str]
    interval_ns: tuple[int, int] | None

    @property
    def equal(self) -> bool:
        """Both runs came to the same end."""
        return self.interval_ns is None


def two_ways(quantum_ns: int) -> tuple[Probe, Probe]:
    """How the runs differ: their engines, where there are two, threads, and the host's pauses.

    "auto" is the fast engine, or the interpreter again (with a warning) where that cannot be had.
    """
    return (
        Probe(engine="interpreter", workers=1),
        Probe(engine="auto", pause_ns=PAUSE_QUANTA * quantum_ns),
    )


async def verify_scenario(
    scenario: Scenario,
    *,
    plugins: PluginManager | None = None,
    cache: ImageCache | None = None,
    ways: Callable[[int], tuple[Probe, Probe]] = two_ways,
    timeout_s: float | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> Verdict:
    """Run a scenario twice; when the digests differ, run it again to find out where that begins.

    ``note`` is told what is being done. ConfigError for a guest that writes to a file, BackendError
    when a run is not over after ``timeout_s`` of wall time.
    """
    manager = plugins if plugins is not None else create_plugin_manager()
    configs = scenario_configs(scenario, manager, cache)
    _refuse_writable(scenario, configs)
    _refuse_live(scenario, configs, manager)

    async def run(probe: Probe) -> ScenarioResult:
        with trio.move_on_after(math.inf if timeout_s is None else timeout_s):
            return await run_scenario(scenario, plugins=manager, cache=cache, probe=probe)
        raise BackendError(f"{scenario.path}: a run was not over after {timeout_s:g} s")

    note("first run")
    first = await run(ways(0)[0])
    quantum_ns = first.quantum_ns
    note("second run")
    second = await run(ways(quantum_ns)[1])
    if first.end_ns == second.end_ns and first.digests == second.digests:
        return Verdict(first, second, [], None)
    low, high = 0, min(first.end_ns, second.end_ns)
    while high - low > quantum_ns:
        note(f"they differ: looking between {low / 1e9:.6f} s and {high / 1e9:.6f} s")
        instants = _instants(low, high, quantum_ns)
        both: list[ScenarioResult] = []
        for way in ways(quantum_ns):
            both.append(await run(attrs.evolve(way, instants=instants, stop_ns=instants[-1])))
        found = next(
            (at for at in instants if both[0].samples.get(at) != both[1].samples.get(at)), None
        )
        if found is None:
            low = instants[-1]
            if high - low <= quantum_ns or instants[-1] + quantum_ns >= high:
                break
        else:
            low = max([at for at in instants if at < found], default=low)
            high = found
    return Verdict(first, second, _differing(first, second), (low, high))


def _instants(low: int, high: int, quantum_ns: int) -> list[int]:
    """At most ``SAMPLES`` multiples of the quantum between two instants, evenly spread."""
    begin, end = low // quantum_ns + 1, (high - 1) // quantum_ns
    count = min(SAMPLES, end - begin + 1)
    if count <= 1:
        return [begin * quantum_ns]
    return sorted({(begin + (end - begin) * i // (count - 1)) * quantum_ns for i in range(count)})


def _differing(first: ScenarioResult, second: ScenarioResult) -> list[str]:
    names = {**first.digests, **second.digests}
    return [name for name in names if first.digests.get(name) != second.digests.get(name)]


def _refuse_writable(scenario: Scenario, configs: dict[str, Any]) -> None:
    for name, config in configs.items():
        for disk in (*config.flash, *config.disks):
            options = split_disk(disk)
            if options.keeps_writes:
                raise ConfigError(
                    f"{scenario.path}: guests.{name}: the second run would find what the first one "
                    f"wrote to {options.path}: add ',snapshot' or ',readonly' to it"
                )


def _refuse_live(scenario: Scenario, configs: dict[str, Any], manager: PluginManager) -> None:
    for name, network in scenario.networks.items():
        for backend, text in network.backends.items():
            if manager.network_backend(split_options(text)[0]).live:
                raise ConfigError(
                    f"{scenario.path}: networks.{name}: backend {backend!r} lives with the world "
                    "outside: its runs cannot be repeated"
                )
    for name, config in configs.items():
        for text in config.devices:
            kind = manager.device_type(split_options(text)[0])
            if kind.live:
                raise ConfigError(
                    f"{scenario.path}: guests.{name}: device {kind.name!r} lives with the world "
                    "outside: its runs cannot be repeated"
                )
