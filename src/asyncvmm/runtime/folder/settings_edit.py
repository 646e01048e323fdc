"""Changing vm.toml: comments and order stay, and nothing that is wrong is written."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.texts import shortened
from asyncvmm.plugin import DeviceType
from asyncvmm.plugin.options import nearest
from asyncvmm.runtime.folder.lock import short_lock
from asyncvmm.runtime.folder.settings import (
    KEYS,
    VmSettings,
    VmTomlError,
    parse_settings,
    read_text,
)
from asyncvmm.storage.packs import write_durably

LISTS = ("flash", "disks", "shares", "net", "devices", "publish", "allow")
TABLES = ("policy", "logs")


def split_key(key: str) -> tuple[str, ...]:
    """``policy.cpu.weight`` is the key ``cpu.weight`` of the table ``policy``; ConfigError if unknown."""
    first, dot, rest = key.partition(".")
    if first not in KEYS:
        raise ConfigError(f"no key {first!r}: {nearest(first, KEYS)}")
    if not dot:
        return (first,)
    if first not in TABLES or not rest:
        raise ConfigError(f"{key}: {first} is no table; tables are {' and '.join(TABLES)}")
    return (first, rest)


def get_value(settings: VmSettings, key: str) -> Any:
    """What vm.toml says of ``key``, else what holds without it (None: nothing)."""
    where = split_key(key)
    at: Any = settings.given
    for part in where:
        if not isinstance(at, Mapping) or part not in at:
            return _without(settings, where)
        at = at[part]
    return at


def _without(settings: VmSettings, where: tuple[str, ...]) -> Any:
    first = "nets" if where[0] == "net" else where[0]
    if where[0] == "policy" and len(where) == 2:
        return None
    owner = settings if hasattr(settings, first) and first != "given" else settings.guest
    value = getattr(owner, first, None)
    return getattr(value, where[1], None) if len(where) == 2 else value


def set_value(
    path: Path, key: str, words: Sequence[str], types: Mapping[str, DeviceType] | None = None
) -> VmSettings:
    """Write ``key``; several words, or one for a key that is a list, are a list.

    ConfigError leaves the file as it was.
    """
    where = split_key(key)
    value = _value(where, words)

    def change(document: tomlkit.TOMLDocument) -> None:
        table: Any = document
        if len(where) == 2:
            if where[0] not in document:
                document[where[0]] = tomlkit.table()
            table = document[where[0]]
        if not hasattr(table, "keys"):
            raise VmTomlError(f"{path}: {where[0]} is not a table")
        table[where[-1]] = value

    return edit(path, change, types)


def unset_value(path: Path, key: str, types: Mapping[str, DeviceType] | None = None) -> VmSettings:
    """Take ``key`` out; ConfigError when it is not there or is needed."""
    where = split_key(key)

    def change(document: tomlkit.TOMLDocument) -> None:
        table: Any = document
        for part in where[:-1]:
            table = table.get(part, {})
        if where[-1] not in table:
            raise ConfigError(f"{path}: {key} is not set")
        del table[where[-1]]

    return edit(path, change, types)


def edit(
    path: Path,
    change: Callable[[tomlkit.TOMLDocument], None],
    types: Mapping[str, DeviceType] | None = None,
) -> VmSettings:
    """Change the file durably, if the result is right. One edit at a time."""
    with short_lock(path.parent):
        text = read_text(path)
        try:
            document = tomlkit.parse(text)
            change(document)
            edited = tomlkit.dumps(document)
        except (TOMLKitError, ValueError, RecursionError) as error:
            raise VmTomlError(f"{path}: {shortened(str(error))}") from error
        settings = parse_settings(edited, path, types)
        write_durably(path, edited.encode())
    return settings


def _value(where: tuple[str, ...], words: Sequence[str]) -> Any:
    """As TOML has it: numbers, booleans, tables and lists as such, all other words as strings."""
    if where[0] in LISTS:
        return list(words)
    if len(words) != 1:
        raise ConfigError(f"{where[0]} takes one value, not {len(words)}")
    try:
        value = tomllib.loads(f"value = {words[0]}")
    except (ValueError, RecursionError):
        return words[0]
    if len(value) != 1 or not isinstance(value["value"], (bool, int, str, list, dict)):
        return words[0]
    found = value["value"]
    needs_text = isinstance(found, (bool, int)) and _wants_text(where, words[0])
    return words[0] if needs_text else found


def _wants_text(where: tuple[str, ...], word: str) -> bool:
    """Whether a number would be refused and its text is right: ``name 7``."""
    if len(where) != 1:
        return False
    try:
        KEYS[where[0]](word)
    except ConfigError:
        return False
    try:
        KEYS[where[0]](int(word, 0))
    except (ConfigError, ValueError):
        return True
    return False
