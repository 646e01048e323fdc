"""vm.toml: what a machine is, as its owner writes it; checked key by key against ``GuestConfig``.

    memory = "256M"
    kernel = "image/kernel"
    disks = ["disks/root.qcow2"]
    net = ["lan"]
    publish = ["8080:80"]
    policy = {"cpu.weight" = 200}

Keys are the fields of ``GuestConfig`` (``net`` for its ``nets``), and those of ``VmSettings``. Paths are
relative to the folder. An error names the file, the line and the key, and the nearest right spelling.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.texts import shortened, shown
from asyncvmm.machine import GuestConfig, parse_size
from asyncvmm.machine.config import share_options, split_disk
from asyncvmm.machine.devices import wanted_devices
from asyncvmm.network import NetworkConfig
from asyncvmm.plugin import DeviceType
from asyncvmm.plugin.options import nearest, plain_type
from asyncvmm.runtime.commands import RUN_PORT
from asyncvmm.runtime.edge import Forward
from asyncvmm.runtime.folder.toml_bounds import check_text, check_value
from asyncvmm.runtime.folder.toml_places import line_of
from asyncvmm.runtime.shares import split_knobs
from asyncvmm.storage.bounded import read_bounded

MAX_BYTES: Final = 64 << 10
FORMAT: Final = 1
PATHS: Final = ("kernel", "initrd", "firmware", "elf", "dtb")
MIN_LOG_BYTES: Final = 4 << 10
MAX_LOG_BYTES: Final = 1 << 30
MAX_LOG_FILES: Final = 100


class VmTomlError(ConfigError):
    """vm.toml is wrong: the text names the file, the line and the key."""


@attrs.frozen
class LogLimits:
    """``[logs]``: how large a file may grow before the next one begins, and how many are kept besides."""

    vm_bytes: int = 4 << 20
    console_bytes: int = 16 << 20
    keep: int = 3


@attrs.frozen
class VmSettings:
    """A checked vm.toml. ``given`` are its keys as they are; ``guest`` has absolute paths.

    ``image`` says where the machine's files came from, ``publish`` are ports as ``run -p`` has them,
    ``allow`` is what the guest may reach outside. ``clock_given`` and ``epoch_given`` tell whether the
    file decides, or the command that runs the machine.
    """

    given: Mapping[str, Any] = attrs.field(hash=False)
    guest: GuestConfig
    image: str = ""
    publish: tuple[Forward, ...] = ()
    allow: tuple[str, ...] = ()
    logs: LogLimits = LogLimits()

    @property
    def runs_commands(self) -> bool:
        """Whether it has the port through which its agent runs commands."""
        return any(RUN_PORT in device for device in self.guest.devices)

    @property
    def networks(self) -> dict[str, NetworkConfig]:
        """For ``open_host``."""
        return {"lan": NetworkConfig.from_mapping({"allow": list(self.allow)})}


def read_text(path: Path) -> str:
    """The file; VmTomlError when it cannot be, or is too long."""
    try:
        data = read_bounded(path, MAX_BYTES, VmTomlError)
    except OSError as error:
        raise VmTomlError(f"{path}: {error.strerror}") from error
    try:
        text = data.decode()
        check_text(text)
    except UnicodeDecodeError as error:
        raise VmTomlError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except ConfigError as error:
        raise VmTomlError(f"{path}, {error}") from error
    return text


def load_settings(
    path: Path, types: Mapping[str, DeviceType] | None = None, name: str = "guest"
) -> VmSettings:
    """The settings in the file at ``path``; with ``types`` devices and their options are checked too."""
    return parse_settings(read_text(path), path, types, name)


def parse_settings(
    text: str,
    path: Path,
    types: Mapping[str, DeviceType] | None = None,
    name: str = "guest",
) -> VmSettings:
    """The settings in a text; ``path`` is for messages and for where the machine's files are."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise VmTomlError(f"{path}: {shortened(str(error) or 'is nested too deeply')}") from error
    return _Checker(text, path, types).check(document, name)


class _Checker:
    def __init__(self, text: str, path: Path, types: Mapping[str, DeviceType] | None) -> None:
        self._text = text
        self._path = path
        self._types = types

    def _wrong(self, where: tuple[str, ...], error: ConfigError | str) -> VmTomlError:
        line = line_of(self._text, where)
        place = f"{self._path}, line {line}" if line else str(self._path)
        key = ".".join(where)
        return VmTomlError(f"{place}: {shortened(key)}: {shortened(str(error))}")

    def check(self, document: dict[str, Any], name: str) -> VmSettings:
        """Key by key, then all of them together."""
        for key in document:
            if key not in KEYS:
                raise self._wrong((key,), f"no such key: {nearest(key, KEYS)}")
        taken = {key: self._take(key, value) for key, value in document.items()}
        if taken.pop("version", FORMAT) != FORMAT:
            raise self._wrong(("version",), f"this asyncvmm knows version {FORMAT}")
        own: dict[str, Any] = {
            key: taken.pop(key) for key in ("image", "publish", "allow", "logs") if key in taken
        }
        settings = self._guest_settings(taken)
        try:
            guest = GuestConfig.from_mapping({"name": name, **settings})
        except ConfigError as error:
            raise VmTomlError(f"{self._path}: {shortened(str(error))}") from error
        if not (guest.kernel or guest.firmware or guest.elf or guest.flash):
            raise VmTomlError(f"{self._path}: nothing to boot: give kernel, firmware, elf or flash")
        return VmSettings(document, guest, **own)

    def _take(self, key: str, value: Any) -> Any:
        try:
            check_value(value)
            return KEYS[key](value)
        except _Inner as inner:
            raise self._wrong((key, inner.key), inner.text) from inner
        except ConfigError as error:
            raise self._wrong((key,), error) from error

    def _guest_settings(self, taken: dict[str, Any]) -> dict[str, Any]:
        """The keywords of GuestConfig; each one alone is right."""
        folder = self._path.parent
        settings = {}
        for key, value in taken.items():
            field = "nets" if key == "net" else key
            try:
                if key in PATHS:
                    settings[field] = folder / value
                elif key in ("disks", "flash"):
                    for text in value:
                        split_disk(text)
                    # Joining leaves what follows the path (",readonly") where it is.
                    settings[field] = tuple(str(folder / text) for text in value)
                elif key == "shares":
                    share_options(value)
                    settings[field] = tuple(str(folder / text) for text in value)
                else:
                    settings[field] = value
                    GuestConfig.from_mapping({field: value})
                if self._types is not None and field in (
                    "nets",
                    "devices",
                    "disks",
                    "flash",
                    "shares",
                ):
                    alone = GuestConfig.from_mapping({field: settings[field]})
                    wanted_devices(alone, self._types)
            except ConfigError as error:
                raise self._wrong((key,), str(error).removeprefix("guest: ")) from error
        return settings


class _Inner(ConfigError):
    """A key of a table is wrong."""

    def __init__(self, key: str, text: str) -> None:
        super().__init__(text)
        self.key = key
        self.text = text


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"a string is expected, not {shown(value)}")
    return _sound(value)


def _sound(text: str) -> str:
    """No name of a file can have a NUL, nor can a command line: the world would refuse it much later."""
    if "\0" in text:
        raise ConfigError(f"there is a NUL in {shown(text)}")
    return text


def _number(value: Any) -> int:
    if type(value) is not int:
        raise ConfigError(f"a whole number is expected, not {shown(value)}")
    return value


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ConfigError(f"true or false is expected, not {shown(value)}")
    return value


def _size(value: Any) -> int:
    if type(value) is not int and not isinstance(value, str):
        raise ConfigError(f'a size such as "64M" is expected, not {shown(value)}')
    return parse_size(value)


def _words(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ConfigError(f"a list of strings is expected, not {shown(value)}")
    return tuple([_sound(word) for word in value])


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"a table is expected, not {shown(value)}")
    return value


def _policy(value: Any) -> dict[str, Any]:
    knobs = _table(value)
    for key, knob in knobs.items():
        if not isinstance(knob, (int, str)) or isinstance(knob, bool):
            raise _Inner(key, f"a number or a string is expected, not {shown(knob)}")
        try:
            split_knobs({key: knob})
        except ConfigError as error:
            raise _Inner(key, str(error)) from error
    split_knobs(dict(knobs))
    return dict(knobs)


def _publish(value: Any) -> tuple[Forward, ...]:
    return tuple(Forward.parse(text) for text in _words(value))


def _allow(value: Any) -> tuple[str, ...]:
    words = _words(value)
    NetworkConfig.from_mapping({"allow": list(words)})
    return words


def _logs(value: Any) -> LogLimits:
    limits = {}
    bounds = {
        "vm_bytes": (MIN_LOG_BYTES, MAX_LOG_BYTES),
        "console_bytes": (MIN_LOG_BYTES, MAX_LOG_BYTES),
        "keep": (1, MAX_LOG_FILES),
    }
    for key, given in _table(value).items():
        if key not in bounds:
            raise _Inner(key, f"no such key: {nearest(key, bounds)}")
        low, high = bounds[key]
        try:
            limits[key] = _number(given) if key == "keep" else _size(given)
        except ConfigError as error:
            raise _Inner(key, str(error)) from error
        if not low <= limits[key] <= high:
            raise _Inner(key, f"must be {low} to {high}, not {limits[key]}")
    return LogLimits(**limits)


def _guest_keys() -> dict[str, Callable[[Any], Any]]:
    """How the value of each field of GuestConfig is checked, by the field's type."""
    by_type: dict[Any, Callable[[Any], Any]] = {
        int: _number,
        str: _text,
        bool: _flag,
        Path: _text,
        tuple: _words,
    }
    special = {"memory": _size, "policy": _policy}
    return {
        "net" if field.name == "nets" else field.name: special.get(field.name)
        or by_type[plain_type(field.type)]
        for field in attrs.fields(attrs.resolve_types(GuestConfig))
    }


KEYS: Final[dict[str, Callable[[Any], Any]]] = {
    "version": _number,
    "image": _text,
    **_guest_keys(),
    "publish": _publish,
    "allow": _allow,
    "logs": _logs,
}
