"""What a scenario says: a host, its guests and the steps, read from TOML and strictly checked.

    [host]
    cpus = 1
    mips = 100

    [networks.lan]
    latency = "5ms"
    links.a = {loss = 0.01}

    [guests.a]
    image = "demo"
    net = ["lan"]
    policy = {"cpu.weight" = 200}

    [[steps]]
    guest = "a"
    send = "echo hello\\r"
    expect = "hello"

Files that guests name are looked for beside the scenario. Times are virtual: ``"1.5s"``, ``"20ms"``,
``"300us"``, ``"7ns"``, from the host's start.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from asyncvmm.base.errors import ConfigError
from asyncvmm.machine import parse_size
from asyncvmm.network import DEFAULT_NETWORK, LinkShape, NetworkConfig
from asyncvmm.plugin.options import nearest
from asyncvmm.runtime import toml_values as toml
from asyncvmm.runtime.scenario_specs import GuestSpec, HostSpec, Scenario, Step
from asyncvmm.runtime.shares import split_knobs
from asyncvmm.runtime.toml_values import parse_time_ns

__all__ = [
    "GuestSpec",
    "HostSpec",
    "Scenario",
    "Step",
    "load_scenario",
    "parse_scenario",
    "parse_time_ns",
]

BOOTS: Final = ("image", "kernel", "firmware", "elf")
ACTIONS: Final = ("run", "expect", "send", "start", "stop", "policy", "link", "until")
PATHS: Final = ("kernel", "initrd", "firmware", "elf")


def load_scenario(path: Path | str) -> Scenario:
    """The scenario in a file; ConfigError names the file, the place and what is wrong there."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: is not UTF-8 text") from error
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from error
    return parse_scenario(text, file)


def parse_scenario(text: str, path: Path | str = "scenario.toml") -> Scenario:
    """The scenario in a text; ``path`` is for messages and for where guests' files are."""
    file = Path(path)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: {error}") from error
    top = toml.Table(str(file), document, ("host", "networks", "guests", "steps"))
    host = toml.Table(f"{file}: host", top.take("host", toml.mapping, {}), tuple(_HOST_KEYS))
    settings = {key: host.take(key, _HOST_KEYS[key]) for key in host.values}
    networks = {
        name: _read_network(f"{file}: networks.{name}", name, values)
        for name, values in top.take("networks", toml.mapping, {}).items()
    }
    guests = {
        name: _read_guest(f"{file}: guests.{name}", name, values, file.parent)
        for name, values in top.take("guests", toml.mapping, {}).items()
    }
    if not guests:
        raise ConfigError(f"{file}: there is no guest: add a table [guests.NAME]")
    steps = [
        _read_step(f"{file}: step {number}", number, values, guests)
        for number, values in enumerate(top.take("steps", toml.list_of_tables, []), 1)
    ]
    scenario = Scenario(file, HostSpec(settings), guests, tuple(steps), networks)
    _check_starts(scenario)
    _check_networks(scenario)
    return scenario


def _read_guest(where: str, name: str, values: Any, directory: Path) -> GuestSpec:
    if re.fullmatch(r"[\w.-]{1,64}", name) is None:
        raise ConfigError(f"{where}: a guest's name is 1 to 64 letters, digits, '.', '-' or '_'")
    table = toml.Table(where, toml.checked(where, toml.mapping, values), tuple(_GUEST_KEYS))
    settings = {key: table.take(key, _GUEST_KEYS[key]) for key in table.values}
    image = settings.pop("image", None)
    boots = [key for key in BOOTS if key in table.values]
    if not boots:
        raise ConfigError(f"{where}: nothing to boot: give one of {', '.join(BOOTS)}")
    if image is not None and "elf" in settings:
        raise ConfigError(f"{where}: image and elf do not go together")
    for key in PATHS:
        if key in settings:
            settings[key] = directory / settings[key]
    if "net" in settings:
        settings["nets"] = settings.pop("net")
    for key in ("flash", "disks", "shares"):
        if key in settings:
            # Joining leaves what follows the path (",readonly") where it is.
            settings[key] = tuple(str(directory / file) for file in settings[key])
    return GuestSpec(name, image, settings)


def _read_network(where: str, name: str, values: Any) -> NetworkConfig:
    if re.fullmatch(r"[\w.-]{1,64}", name) is None:
        raise ConfigError(f"{where}: a network's name is 1 to 64 letters, digits, '.', '-' or '_'")
    given = link_settings(where, toml.checked(where, toml.mapping, values), _NETWORK_KEYS)
    given["links"] = {
        guest: link_settings(f"{where}: links.{guest}", link, _CABLE_KEYS)
        for guest, link in given.get("links", {}).items()
    }
    try:
        return NetworkConfig.from_mapping(given)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def link_settings(where: str, values: Any, keys: Mapping[str, toml.Check]) -> dict[str, Any]:
    """The keywords of NetworkConfig, CableConfig or LinkShape in a table with times as texts."""
    table = toml.Table(where, toml.checked(where, toml.mapping, values), tuple(keys))
    given = {key: table.take(key, keys[key]) for key in table.values}
    for key, name in (("latency", "latency_ns"), ("reorder_within", "reorder_ns")):
        if key in given:
            given[name] = given.pop(key)
    if "queue" in given:
        given["queue_bytes"] = parse_size(given.pop("queue"))
    return given


def _check_networks(scenario: Scenario) -> None:
    """Every network that a guest or a step names is there, and everybody whose link one names."""
    known = {DEFAULT_NETWORK, *scenario.networks}
    named = [
        (f"{scenario.path}: guests.{name}: net", text.partition(",")[0])
        for name, guest in scenario.guests.items()
        for text in guest.settings.get("nets", ())
    ]
    named += [
        (f"{scenario.path}: step {step.number}: network", step.network) for step in scenario.steps
    ]
    for where, network in named:
        if network not in known:
            raise ConfigError(f"{where}: no network {network!r}: {nearest(network, known)}")
    for place, config in scenario.networks.items():
        ends = {*scenario.guests, *config.backends}
        for name in config.cables:
            if name not in ends:
                raise ConfigError(
                    f"{scenario.path}: networks.{place}: links.{name}: no guest or backend has that "
                    f"name: {nearest(name, ends)}"
                )


def _read_step(where: str, number: int, values: Any, guests: Mapping[str, GuestSpec]) -> Step:
    table = toml.Table(where, toml.checked(where, toml.mapping, values), tuple(_STEP_KEYS))
    given = {key: table.take(key, _STEP_KEYS[key]) for key in table.values}
    actions = [key for key in ACTIONS if key in given]
    if not actions:
        raise ConfigError(f"{where}: it does nothing: give one of {', '.join(ACTIONS)}")
    if len(actions) > 1 and set(actions) != {"expect", "send"}:
        raise ConfigError(f"{where}: {actions[0]} and {actions[1]} do not go together")
    if "link" in given:
        given["link"] = link_settings(f"{where}: link", given["link"], _LINK_KEYS)
        try:
            LinkShape().change(**given["link"])
        except ConfigError as error:
            raise ConfigError(f"{where}: link: {error}") from error
    elif "network" in given:
        raise ConfigError(f"{where}: network goes with link")
    for key in ("status", "contains", "show"):
        if key in given and "run" not in given:
            raise ConfigError(f"{where}: {key} goes with run")
    for key in ("start", "stop"):
        named = given.get(key)
        if named is None:
            continue
        if given.setdefault("guest", named) != named:
            raise ConfigError(f"{where}: {key} names {named!r} and guest {given['guest']!r}")
        given[key] = True
    guest = given.get("guest")
    if guest is None and actions != ["until"]:
        raise ConfigError(f"{where}: guest is missing: say which one is to {actions[0]}")
    if guest is not None and guest not in guests:
        raise ConfigError(f"{where}: no guest {guest!r}: {nearest(guest, guests)}")
    for key in ("at", "until", "within"):
        if key in given:
            given[f"{key}_ns"] = given.pop(key)
    return Step(number, **given)


def _check_starts(scenario: Scenario) -> None:
    """Nothing is asked of a guest before the step that starts it, and nobody is started twice."""
    running = {name for name in scenario.guests if not scenario.starts_later(name)}
    for step in scenario.steps:
        where = f"{scenario.path}: step {step.number}"
        if step.guest is None:
            continue
        if step.start and step.guest in running:
            raise ConfigError(f"{where}: guest {step.guest!r} runs already")
        if not step.start and step.guest not in running:
            raise ConfigError(f"{where}: guest {step.guest!r} does not run: start it before")
        if step.start:
            running.add(step.guest)
        if step.stop:
            running.discard(step.guest)


def _policy(value: Any) -> dict[str, Any]:
    knobs: dict[str, Any] = toml.mapping(value)
    split_knobs(knobs)
    return knobs


_HOST_KEYS: Final[dict[str, toml.Check]] = {
    "cpus": toml.number,
    "mips": toml.number,
    "quantum_us": toml.number,
    "memory": toml.size,
    "policy": toml.text,
    "seed": toml.number,
    "overcommit": toml.boolean,
}
_LINK_KEYS: Final[dict[str, toml.Check]] = {
    "latency": toml.time_ns,
    "bandwidth": toml.size,
    "queue": toml.size,
    "loss": toml.chance,
    "duplicate": toml.chance,
    "reorder": toml.chance,
    "reorder_within": toml.time_ns,
    "up": toml.boolean,
}
_CABLE_KEYS: Final[dict[str, toml.Check]] = {
    **_LINK_KEYS,
    "vlan": toml.number,
    "trunk": toml.numbers,
    "rules": toml.words,
}
_NETWORK_KEYS: Final[dict[str, toml.Check]] = {
    **_LINK_KEYS,
    "subnet": toml.text,
    "gateway": toml.boolean,
    "allow": toml.words,
    "links": toml.mapping,
    "backends": toml.mapping,
}
_GUEST_KEYS: Final[dict[str, toml.Check]] = {
    "image": toml.text,
    "kernel": toml.text,
    "initrd": toml.text,
    "elf": toml.text,
    "firmware": toml.text,
    "append": toml.text,
    "memory": toml.size,
    "harts": toml.number,
    "seed": toml.number,
    "quantum": toml.number,
    "engine": toml.text,
    "flash": toml.words,
    "disks": toml.words,
    "net": toml.words,
    "shares": toml.words,
    "devices": toml.words,
    "trust_group": toml.text,
    "policy": _policy,
}
_STEP_KEYS: Final[dict[str, toml.Check]] = {
    "name": toml.some_text,
    "guest": toml.text,
    "at": toml.time_ns,
    "within": toml.time_ns,
    "background": toml.boolean,
    "run": toml.command,
    "status": toml.number,
    "contains": toml.text,
    "show": toml.boolean,
    "send": toml.some_text,
    "expect": toml.some_text,
    "start": toml.text,
    "stop": toml.text,
    "policy": _policy,
    "link": toml.mapping,
    "network": toml.text,
    "until": toml.time_ns,
}
