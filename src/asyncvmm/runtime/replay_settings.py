"""The settings of a recorded host, as its journal's header has them: who wrote that is not trusted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from asyncvmm.base.texts import shown
from asyncvmm.runtime.journal_file import JournalError, Recorded


def _is_int(value: object) -> bool:
    return type(value) is int


def _is_int_or_none(value: object) -> bool:
    return value is None or type(value) is int


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_mappings(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(one, dict) for one in value.values())


def _is_seed(value: object) -> bool:
    return type(value) in (int, bool)


def _is_date(value: object) -> bool:
    return type(value) in (int, str)


KNOWN: Final[Mapping[str, Callable[[object], bool]]] = {
    "cpus": _is_int,
    "mips": _is_int,
    "memory": _is_int,
    "overcommit": _is_bool,
    "policy": _is_text,
    "quantum_us": _is_int_or_none,
    "seed": _is_int,
    "networks": _is_mappings,
    "snapshot": _is_text,
    "reseed": _is_seed,
    "clock": _is_date,
}
OF_SNAPSHOT: Final = ("snapshot", "reseed", "clock")


def read_settings(recorded: Recorded) -> dict[str, Any]:
    """What ``open_host`` is to be given for the replay; with ``snapshot``, a folder, only what goes with it.

    JournalError names the setting that is none.
    """
    settings = recorded.header.get("host")
    if not isinstance(settings, dict):
        raise JournalError(f"{recorded.path}: the header has no host")
    for key, value in settings.items():
        if key not in KNOWN:
            raise JournalError(
                f"{recorded.path}: the header's host has an unknown setting {shown(key)}"
            )
        if not KNOWN[key](value):
            raise JournalError(
                f"{recorded.path}: the header's host: {key} cannot be {shown(value)}"
            )
    if settings.get("snapshot") is None:
        wrong = [key for key in OF_SNAPSHOT if key in settings]
        if wrong:
            raise JournalError(f"{recorded.path}: the header's host has {wrong[0]} and no snapshot")
        return dict(settings)
    return {key: settings[key] for key in OF_SNAPSHOT if key in settings}
