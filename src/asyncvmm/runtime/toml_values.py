"""Tables of TOML that people write, checked value by value: no unknown key, no wrong type.

A check is a function of what ``tomllib`` gave: it returns the value as it is wanted, or raises ConfigError
with what would be right. ``Table`` and ``checked`` put the place in front of that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.units import MS, SECOND, US
from asyncvmm.plugin.options import nearest

Check = Callable[[Any], Any]

UNITS: Final = {"s": SECOND, "ms": MS, "us": US, "ns": 1}
_TIME: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(s|ms|us|ns)")


class Table:
    """A TOML table of which every key is known and has the right type."""

    def __init__(self, where: str, values: Mapping[str, Any], known: Sequence[str]) -> None:
        self.where = where
        self.values = values
        for key in values:
            if key not in known:
                raise ConfigError(f"{where}: no key {key!r}: {nearest(key, known)}")

    def take(self, key: str, check: Check, default: Any = None) -> Any:
        """The value of ``key`` as ``check`` makes it."""
        if key not in self.values:
            return default
        return checked(f"{self.where}: {key}", check, self.values[key])


def checked(where: str, check: Check, value: Any) -> Any:
    """``value`` as ``check`` makes it; ConfigError begins with ``where``."""
    try:
        return check(value)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def of(kind: type, name: str) -> Check:
    """A check for one type, which people know by ``name``."""

    def check(value: Any) -> Any:
        if not isinstance(value, kind) or (kind is not bool and isinstance(value, bool)):
            raise ConfigError(f"{name} is expected, not {value!r}")
        return value

    return check


mapping: Final = of(dict, "a table")
list_of_tables: Final = of(list, "a list of tables")
text: Final = of(str, "a string")
number: Final = of(int, "a whole number")
boolean: Final = of(bool, "true or false")


def parse_time_ns(text: str) -> int:
    """Virtual time such as ``"1.5s"`` or ``"20 ms"`` in ns; ConfigError otherwise."""
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"{text!r} is not a time: write for example 1.5s, 20ms, 300us or 7ns")
    ns = Decimal(found[1]) * UNITS[found[2]]
    if ns != int(ns) or ns >= 2**62:
        raise ConfigError(f"{text!r} is not a whole number of nanoseconds below 2**62")
    return int(ns)


def time_ns(value: Any) -> int:
    """See parse_time_ns."""
    return parse_time_ns(text(value))


def size(value: Any) -> int | str:
    """Bytes, or a text such as ``64M``, which ``parse_size`` reads."""
    if isinstance(value, (int, str)) and not isinstance(value, bool):
        return value
    raise ConfigError(f'a size such as "64M" is expected, not {value!r}')


def words(value: Any) -> tuple[str, ...]:
    """A list of strings."""
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ConfigError(f"a list of strings is expected, not {value!r}")
    return tuple(value)


def command(value: Any) -> tuple[str, ...]:
    """A program and its arguments."""
    found = words(value)
    if not found:
        raise ConfigError("a command has at least one word")
    return found


def some_text(value: Any) -> str:
    """A string that is not empty."""
    if not text(value):
        raise ConfigError("a text that is not empty is expected")
    return str(value)


def chance(value: Any) -> float:
    """A probability."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"a probability from 0 to 1 is expected, not {value!r}")
    return value


def numbers(value: Any) -> list[int]:
    """A list of whole numbers."""
    if not isinstance(value, list) or not all(type(number) is int for number in value):
        raise ConfigError(f"a list of whole numbers is expected, not {value!r}")
    return value
