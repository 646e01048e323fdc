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
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.units import MS, SECOND, US
from asyncvmm.machine import parse_size
from asyncvmm.network import DEFAULT_NETWORK, LinkShape, NetworkConfig
from asyncvmm.plugin.options import nearest
from asyncvmm.runtime.shares import split_knobs

UNITS: Final = {"s": SECOND, "ms": MS, "us": US, "ns": 1}
BOOTS: Final = ("image", "kernel", "firmware", "elf")
ACTIONS: Final = ("run", "expect", "send", "start", "stop", "policy", "link", "until")
PATHS: Final = ("kernel", "initrd", "firmware", "elf")
STEP_LIMIT_NS: Final = 60 * SECOND
_TIME: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(s|ms|us|ns)")


@attrs.frozen
class HostSpec:
    """``[host]``: the keywords of ``open_host`` that were given."""

    settings: Mapping[str, Any] = attrs.field(factory=dict, hash=False)


@attrs.frozen
class GuestSpec:
    """``[guests.NAME]``: an image or the files to boot, and the other fields of GuestConfig."""

    name: str
    image: str | None
    settings: Mapping[str, Any] = attrs.field(hash=False)


@attrs.frozen
class Step:
    """``[[steps]]``: one action. ``number`` counts from 1.

    ``at_ns`` is the virtual time before which it does not begin, ``within_ns`` how long it may take.
    The sequence does not wait for a ``background`` step; the next step of its guest does. ``name`` is
    what people call it; what a command says is part of the report if ``show`` is set.
    """

    number: int
    name: str = ""
    guest: str | None = None
    at_ns: int | None = None
    within_ns: int = STEP_LIMIT_NS
    background: bool = False
    run: tuple[str, ...] | None = None
    status: int = 0
    contains: str | None = None
    show: bool = False
    send: str | None = None
    expect: str | None = None
    start: bool = False
    stop: bool = False
    policy: Mapping[str, Any] | None = attrs.field(default=None, hash=False)
    link: Mapping[str, Any] | None = attrs.field(default=None, hash=False)
    network: str = DEFAULT_NETWORK
    until_ns: int | None = None

    @property
    def title(self) -> str:
        """Its name, else what it does, in a few words."""
        who = f"{self.guest}: " if self.guest else ""
        if self.name:
            what = self.name
        elif self.run is not None:
            what = f"run {' '.join(self.run)}"
        elif self.start or self.stop:
            what = "start" if self.start else "stop"
        elif self.policy is not None:
            what = f"policy {', '.join(f'{key}={value}' for key, value in self.policy.items())}"
        elif self.link is not None:
            changes = ", ".join(f"{key}={value}" for key, value in self.link.items())
            what = f"{self.network} link {changes}"
        elif self.until_ns is not None:
            what = f"until {self.until_ns / SECOND:g} s"
        else:
            words = [
                f"{verb} {text!r}"
                for verb, text in (("send", self.send), ("expect", self.expect))
                if text is not None
            ]
            what = ", ".join(words)
        return who + what


@attrs.frozen
class Scenario:
    """A host with its guests and what is done to them. ``path`` is the file, for messages."""

    path: Path
    host: HostSpec
    guests: Mapping[str, GuestSpec] = attrs.field(hash=False)
    steps: Sequence[Step] = ()
    networks: Mapping[str, NetworkConfig] = attrs.field(factory=dict, hash=False)

    def starts_later(self, guest: str) -> bool:
        """Whether a step starts it, instead of the host's beginning."""
        return any(step.start and step.guest == guest for step in self.steps)

    def runs_commands(self, guest: str) -> bool:
        """Whether a step runs a command in it."""
        return any(step.run is not None and step.guest == guest for step in self.steps)


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
    top = _Table(str(file), document, ("host", "networks", "guests", "steps"))
    host = _Table(f"{file}: host", top.take("host", _mapping, {}), tuple(_HOST_KEYS))
    settings = {key: host.take(key, _HOST_KEYS[key]) for key in host.values}
    networks = {
        name: _read_network(f"{file}: networks.{name}", name, values)
        for name, values in top.take("networks", _mapping, {}).items()
    }
    guests = {
        name: _read_guest(f"{file}: guests.{name}", name, values, file.parent)
        for name, values in top.take("guests", _mapping, {}).items()
    }
    if not guests:
        raise ConfigError(f"{file}: there is no guest: add a table [guests.NAME]")
    steps = [
        _read_step(f"{file}: step {number}", number, values, guests)
        for number, values in enumerate(top.take("steps", _list, []), 1)
    ]
    scenario = Scenario(file, HostSpec(settings), guests, tuple(steps), networks)
    _check_starts(scenario)
    _check_networks(scenario)
    return scenario


def parse_time_ns(text: str) -> int:
    """Virtual time such as ``"1.5s"`` or ``"20 ms"`` in ns; ConfigError otherwise."""
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"{text!r} is not a time: write for example 1.5s, 20ms, 300us or 7ns")
    ns = Decimal(found[1]) * UNITS[found[2]]
    if ns != int(ns) or ns >= 2**62:
        raise ConfigError(f"{text!r} is not a whole number of nanoseconds below 2**62")
    return int(ns)


def _read_guest(where: str, name: str, values: Any, directory: Path) -> GuestSpec:
    if re.fullmatch(r"[\w.-]{1,64}", name) is None:
        raise ConfigError(f"{where}: a guest's name is 1 to 64 letters, digits, '.', '-' or '_'")
    table = _Table(where, _checked(where, _mapping, values), tuple(_GUEST_KEYS))
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
    given = link_settings(where, _checked(where, _mapping, values), _NETWORK_KEYS)
    given["links"] = {
        guest: link_settings(f"{where}: links.{guest}", link, _CABLE_KEYS)
        for guest, link in given.get("links", {}).items()
    }
    try:
        return NetworkConfig.from_mapping(given)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def link_settings(
    where: str, values: Any, keys: Mapping[str, Callable[[Any], Any]]
) -> dict[str, Any]:
    """The keywords of NetworkConfig, CableConfig or LinkShape in a table with times as texts."""
    table = _Table(where, _checked(where, _mapping, values), tuple(keys))
    given = {key: table.take(key, keys[key]) for key in table.values}
    for key, name in (("latency", "latency_ns"), ("reorder_within", "reorder_ns")):
        if key in given:
            given[name] = given.pop(key)
    if "queue" in given:
        given["queue_bytes"] = parse_size(given.pop("queue"))
    return given


def _check_networks(scenario: Scenario) -> None:
    """Every network that a guest or a step names is there."""
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


def _read_step(where: str, number: int, values: Any, guests: Mapping[str, GuestSpec]) -> Step:
    table = _Table(where, _checked(where, _mapping, values), tuple(_STEP_KEYS))
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


class _Table:
    """A TOML table of which every key is known and has the right type."""

    def __init__(self, where: str, values: Mapping[str, Any], known: Sequence[str]) -> None:
        self.where = where
        self.values = values
        for key in values:
            if key not in known:
                raise ConfigError(f"{where}: no key {key!r}: {nearest(key, known)}")

    def take(self, key: str, check: Callable[[Any], Any], default: Any = None) -> Any:
        """The value of ``key`` as ``check`` makes it."""
        if key not in self.values:
            return default
        return _checked(f"{self.where}: {key}", check, self.values[key])


def _checked(where: str, check: Callable[[Any], Any], value: Any) -> Any:
    try:
        return check(value)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _of(kind: type, name: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise ConfigError(f"{name} is expected, not {value!r}")
        return value

    return check


_mapping: Final = _of(dict, "a table")
_list: Final = _of(list, "a list of tables")
_text: Final = _of(str, "a string")
_number: Final = _of(int, "a whole number")
_boolean: Final = _of(bool, "true or false")


def _time(value: Any) -> int:
    return parse_time_ns(_text(value))


def _size(value: Any) -> int | str:
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        return value
    raise ConfigError(f'a size such as "64M" is expected, not {value!r}')


def _words(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ConfigError(f"a list of strings is expected, not {value!r}")
    return tuple(value)


def _command(value: Any) -> tuple[str, ...]:
    words = _words(value)
    if not words:
        raise ConfigError("a command has at least one word")
    return words


def _some_text(value: Any) -> str:
    if not _text(value):
        raise ConfigError("a text that is not empty is expected")
    return str(value)


def _policy(value: Any) -> dict[str, Any]:
    knobs: dict[str, Any] = _mapping(value)
    split_knobs(knobs)
    return knobs


_HOST_KEYS: Final[dict[str, Callable[[Any], Any]]] = {
    "cpus": _number,
    "mips": _number,
    "quantum_us": _number,
    "memory": _size,
    "policy": _text,
    "seed": _number,
    "overcommit": _boolean,
}


def _chance(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"a probability from 0 to 1 is expected, not {value!r}")
    return value


def _numbers(value: Any) -> list[int]:
    if not isinstance(value, list) or not all(type(number) is int for number in value):
        raise ConfigError(f"a list of whole numbers is expected, not {value!r}")
    return value


_LINK_KEYS: Final[dict[str, Callable[[Any], Any]]] = {
    "latency": _time,
    "bandwidth": _size,
    "queue": _size,
    "loss": _chance,
    "duplicate": _chance,
    "reorder": _chance,
    "reorder_within": _time,
    "up": _boolean,
}
_CABLE_KEYS: Final[dict[str, Callable[[Any], Any]]] = {
    **_LINK_KEYS,
    "vlan": _number,
    "trunk": _numbers,
    "rules": _words,
}
_NETWORK_KEYS: Final[dict[str, Callable[[Any], Any]]] = {
    **_LINK_KEYS,
    "subnet": _text,
    "gateway": _boolean,
    "allow": _words,
    "links": _mapping,
    "backends": _mapping,
}
_GUEST_KEYS: Final[dict[str, Callable[[Any], Any]]] = {
    "image": _text,
    "kernel": _text,
    "initrd": _text,
    "elf": _text,
    "firmware": _text,
    "append": _text,
    "memory": _size,
    "harts": _number,
    "seed": _number,
    "quantum": _number,
    "engine": _text,
    "flash": _words,
    "disks": _words,
    "net": _words,
    "shares": _words,
    "devices": _words,
    "trust_group": _text,
    "policy": _policy,
}
_STEP_KEYS: Final[dict[str, Callable[[Any], Any]]] = {
    "name": _some_text,
    "guest": _text,
    "at": _time,
    "within": _time,
    "background": _boolean,
    "run": _command,
    "status": _number,
    "contains": _text,
    "show": _boolean,
    "send": _some_text,
    "expect": _some_text,
    "start": _text,
    "stop": _text,
    "policy": _policy,
    "link": _mapping,
    "network": _text,
    "until": _time,
}
