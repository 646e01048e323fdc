"""Running a scenario: its guests on one host from virtual time 0, its steps in order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from asyncvmm.api.images import find_image, image_config
from asyncvmm.base.errors import AsyncvmmError, ConfigError
from asyncvmm.hypervisor import LedgerEvent
from asyncvmm.machine import GuestConfig
from asyncvmm.plugin import PluginManager, create_plugin_manager
from asyncvmm.plugin.images import ImageCache
from asyncvmm.runtime.alarms import Alarms
from asyncvmm.runtime.guest import Guest, GuestExit, GuestStats
from asyncvmm.runtime.host import Host, open_host
from asyncvmm.runtime.scenario import GuestSpec, Scenario, Step, load_scenario
from asyncvmm.runtime.shares import GuestUsage


@attrs.frozen
class StepResult:
    """What became of a step: ``outcome`` is "ok", "failed" or "skipped", ``detail`` says why.

    Times are virtual; -1 for a step that never began or ended. ``output`` is what a command wrote
    or the console said up to the text that was expected.
    """

    step: Step
    outcome: str
    detail: str = ""
    began_ns: int = -1
    ended_ns: int = -1
    status: int | None = None
    output: str = ""


@attrs.frozen
class GuestResult:
    """A guest at the scenario's end. ``exit`` is None when it was still alive."""

    config: GuestConfig
    digest: str
    exit: GuestExit | None
    stats: GuestStats
    usage: GuestUsage


@attrs.frozen
class ScenarioResult:
    """What a scenario did. ``samples`` are digests at the instants that a probe asked for."""

    scenario: Scenario
    end_ns: int
    quantum_ns: int
    guests: dict[str, GuestResult]
    steps: list[StepResult]
    events: list[LedgerEvent]
    samples: dict[int, dict[str, str]]

    @property
    def digests(self) -> dict[str, str]:
        """Of every guest that was started."""
        return {name: guest.digest for name, guest in self.guests.items()}

    @property
    def failed(self) -> StepResult | None:
        """The step that did not hold."""
        return next((result for result in self.steps if result.outcome == "failed"), None)

    @property
    def ok(self) -> bool:
        """Every step held."""
        return all(result.outcome == "ok" for result in self.steps)


@attrs.frozen
class Probe:
    """How to look at a run without a guest's noticing: see ``asyncvmm.runtime.alarms``.

    The run ends at the first of ``instants`` that is not before ``stop_ns``. ``engine`` is for
    GuestConfig, where that has the choice; ``workers`` is for ``open_host``.
    """

    instants: Sequence[int] = ()
    stop_ns: int | None = None
    pause_ns: int = 0
    engine: str | None = None
    workers: int | None = None


class ScenarioObserver:
    """Told how a run goes on, between two stretches of virtual time; must not block."""

    def began(self, run: ScenarioRun) -> None:
        """The guests are there, at virtual time 0."""

    def step_began(self, step: Step) -> None:
        """Its time has come."""

    def step_ended(self, result: StepResult) -> None:
        """It held or failed."""


def scenario_configs(
    scenario: Scenario, plugins: PluginManager | None = None, cache: ImageCache | None = None
) -> dict[str, GuestConfig]:
    """The configuration of every guest. Images must be here; ConfigError names the wrong guest."""
    manager = plugins if plugins is not None else create_plugin_manager()
    kept = cache if cache is not None else ImageCache()
    configs = {}
    for name, spec in scenario.guests.items():
        try:
            configs[name] = _config(spec, manager, kept, scenario.runs_commands(name))
        except ConfigError as error:
            raise ConfigError(f"{scenario.path}: guests.{name}: {error}") from error
    return configs


def _config(
    spec: GuestSpec, plugins: PluginManager, cache: ImageCache, commands: bool
) -> GuestConfig:
    settings = {"name": spec.name, **spec.settings}
    if spec.image is not None:
        image = find_image(spec.image, plugins)
        return image_config(image, cache, commands=commands, **settings)
    return GuestConfig.from_mapping(settings)


async def run_scenario(
    scenario: Scenario | Path | str,
    observer: ScenarioObserver | None = None,
    *,
    plugins: PluginManager | None = None,
    cache: ImageCache | None = None,
    timeout_s: float | None = None,
    probe: Probe | None = None,
    journal: Path | str | None = None,
) -> ScenarioResult:
    """Run all steps, until one fails or ``timeout_s`` of wall time are over.

    ``journal`` is a new file for what enters the guests: see ``open_host``.

    A step that fails is part of the result; ConfigError is for what was wrong from the start.
    """
    asked = scenario if isinstance(scenario, Scenario) else load_scenario(scenario)
    manager = (
        plugins if plugins is not None else await trio.to_thread.run_sync(create_plugin_manager)
    )
    configs = scenario_configs(asked, manager, cache)
    if probe is not None and probe.engine is not None:
        engine: dict[str, Any] = {"engine": probe.engine}
        configs = {name: attrs.evolve(config, **engine) for name, config in configs.items()}
    probe = probe or Probe()
    watcher = observer or ScenarioObserver()
    opened = False
    try:
        async with open_host(
            paused=True,
            plugins=manager,
            workers=probe.workers,
            networks=asked.networks,
            journal=journal,
            **asked.host.settings,
        ) as host:
            opened = True
            return await ScenarioRun(asked, configs, host, watcher, probe).play(timeout_s)
    except ConfigError as error:
        if opened:
            raise
        raise ConfigError(f"{asked.path}: host: {error}") from error


class ScenarioRun:
    """One run under way."""

    def __init__(
        self,
        scenario: Scenario,
        configs: dict[str, GuestConfig],
        host: Host,
        observer: ScenarioObserver,
        probe: Probe,
    ) -> None:
        self.scenario: Final = scenario
        self.host: Final = host
        self.guests: dict[str, Guest] = {}  # every guest that was started, also when it has ended
        self._configs = configs
        self._observer = observer
        self._probe = probe
        self._results: dict[int, StepResult] = {}
        self._began_ns: dict[int, int] = {}
        self._samples: dict[int, dict[str, str]] = {}
        self._turns: dict[str, trio.Event] = {}  # the last step of each guest
        self._scope = trio.CancelScope()
        self._alarms = Alarms(
            host, instants=probe.instants, visit=self._sample, pause_ns=probe.pause_ns
        )

    async def play(self, timeout_s: float | None) -> ScenarioResult:
        """Start the guests, do the steps, and say what came of it."""
        for name in self.scenario.guests:
            if not self.scenario.starts_later(name):
                await self._start(name)
        self._observer.began(self)
        if timeout_s is not None:
            self._scope.deadline = trio.current_time() + timeout_s
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._alarms.task)
            with self._scope:
                await self._all_steps()
            await self._alarms.stand_still()  # where the last step ended
        late = f"stopped after {timeout_s:g} s of wall time" if timeout_s is not None else ""
        return ScenarioResult(
            self.scenario,
            self.host.now_ns,
            self.host.quantum_ns,
            {name: _result(guest) for name, guest in self.guests.items()},
            self._step_results(late),
            self.host.events,
            self._samples,
        )

    async def _all_steps(self) -> None:
        async with trio.open_nursery() as background:
            for step in self.scenario.steps:
                before: trio.Event | None = None
                done = trio.Event()
                if step.guest is not None:
                    before = self._turns.get(step.guest)
                    self._turns[step.guest] = done
                if step.background:
                    background.start_soon(self._take_turn, step, before, done)
                else:
                    await self._take_turn(step, before, done)

    async def _take_turn(self, step: Step, before: trio.Event | None, done: trio.Event) -> None:
        """Do a step when its guest's earlier steps are done and its time has come."""
        if before is not None:
            await before.wait()
        if step.at_ns is not None:
            await self._alarms.wait_until(step.at_ns)
        self._began_ns[step.number] = self.host.now_ns
        self._observer.step_began(step)
        status: int | None = None
        output = ""
        detail = ""
        try:
            status, output = await self._within(step)
        except (AsyncvmmError, trio.BrokenResourceError) as error:
            detail = str(error)
        if step.run is not None and not detail:
            detail = _command_fault(step, status, output)
        result = StepResult(
            step,
            "failed" if detail else "ok",
            detail,
            self._began_ns[step.number],
            self.host.now_ns,
            status,
            output,
        )
        self._results[step.number] = result
        self._observer.step_ended(result)
        if detail:
            self._scope.cancel()
        done.set()

    async def _within(self, step: Step) -> tuple[int | None, str]:
        """The action; AsyncvmmError when it takes more virtual time than the step may."""
        if step.until_ns is not None:
            await self._alarms.wait_until(step.until_ns)
            return None, ""
        done: list[tuple[int | None, str]] = []
        errors: list[Exception] = []
        limit_ns = self.host.now_ns + step.within_ns
        async with trio.open_nursery() as nursery:

            async def alarm() -> None:
                await self._alarms.wait_until(limit_ns)
                nursery.cancel_scope.cancel()

            async def act() -> None:
                # Errors are carried past the nursery by hand: it would wrap them in a group.
                try:
                    done.append(await self._act(step))
                except* (AsyncvmmError, trio.BrokenResourceError) as group:
                    errors.append(_first(group))
                nursery.cancel_scope.cancel()

            nursery.start_soon(alarm)
            nursery.start_soon(act)
        if errors:
            raise errors[0]
        if not done:
            raise AsyncvmmError(f"not done within {step.within_ns / 1e9:g} s of virtual time")
        return done[0]

    async def _act(self, step: Step) -> tuple[int | None, str]:
        """The command's status and what was said."""
        assert step.guest is not None
        if step.start:
            await self._start(step.guest)
            return None, ""
        guest = self.guests[step.guest]
        if step.stop:
            await guest.aclose()
        elif step.policy is not None:
            if guest.exit is not None:
                raise AsyncvmmError(f"the guest has ended ({guest.exit.reason})")
            guest.policy.update(**step.policy)
        elif step.link is not None:
            self.host.shape(step.network, step.guest, **step.link)
        elif step.run is not None:
            done = await guest.run(step.run)
            output = (done.stdout + done.stderr).decode(errors="replace")
            return done.status, output
        else:
            if step.send is not None:
                await guest.console.send_all(step.send.encode())
            if step.expect is not None:
                said = await guest.console.expect(step.expect)
                return None, said.decode(errors="replace")
        return None, ""

    async def _start(self, name: str) -> None:
        try:
            self.guests[name] = await self.host.start(self._configs[name])
        except ConfigError as error:
            raise ConfigError(f"{self.scenario.path}: guests.{name}: {error}") from error

    def _sample(self, time_ns: int) -> None:
        self._samples[time_ns] = {n: guest.machine.digest() for n, guest in self.guests.items()}
        if self._probe.stop_ns is not None and time_ns >= self._probe.stop_ns:
            self._scope.cancel()

    def _step_results(self, late: str) -> list[StepResult]:
        """A result for every step, also for those that something else cut off."""
        under_way = self._began_ns.keys() - self._results.keys()
        if any(result.outcome == "failed" for result in self._results.values()):
            late = ""
        results = []
        for step in self.scenario.steps:
            result = self._results.get(step.number)
            if result is None:
                began_ns = self._began_ns.get(step.number, -1)
                if late and (step.number in under_way or not under_way):
                    result = StepResult(step, "failed", late, began_ns)
                else:
                    cut = "cut off" if step.number in under_way else ""
                    result = StepResult(step, "skipped", cut, began_ns)
            results.append(result)
        return results


def _result(guest: Guest) -> GuestResult:
    return GuestResult(guest.config, guest.machine.digest(), guest.exit, guest.stats, guest.usage())


def _command_fault(step: Step, status: int | None, output: str) -> str:
    """What is wrong with how a command ended; empty when nothing is."""
    last = output.strip()[-300:]
    if status != step.status:
        return f"status {status} instead of {step.status}; it said: {last!r}"
    if step.contains is not None and step.contains not in output:
        return f"the output lacks {step.contains!r}; it was: {last!r}"
    return ""


def _first(group: BaseExceptionGroup[Any]) -> Exception:
    """The first error in a group of errors."""
    error: Any = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error
