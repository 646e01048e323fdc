"""Option strings to attrs configs: ``virtio-blk,path=disk.img,readonly``."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from asyncvmm.base.errors import ConfigError, InternalError

_SUFFIXES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_TRUE = ("yes", "on", "true", "1")
_FALSE = ("no", "off", "false", "0")


def nearest(word: str, known: Iterable[str]) -> str:
    """A sentence that helps with a misspelt ``word``: the nearest known one, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known are: {', '.join(names)}" if names else "there are none"


def split_options(text: str) -> tuple[str, dict[str, str | None]]:
    """``name,key=value,flag`` as (name, options). A comma inside a value is written twice."""
    parts = [part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")]
    name = parts[0].strip()
    if not name:
        raise ConfigError(f"{text!r}: a device name is expected before the first comma")
    options: dict[str, str | None] = {}
    for part in parts[1:]:
        key, equals, value = part.partition("=")
        key = key.strip()
        if not key:
            raise ConfigError(f"{text!r}: an option is missing between two commas or before '='")
        if key in options:
            raise ConfigError(f"{text!r}: option {key!r} is given twice")
        options[key] = value if equals else None
    return name, options


def parse_options(name: str, config: type[Any], options: Mapping[str, str | None]) -> Any:
    """An instance of the attrs class ``config`` from its options; ConfigError says what is wrong.

    An option is a field's name with hyphens for underscores. Field types: bool (``readonly``,
    ``readonly=no``), int (``64M``, ``0x10``), str, Path, an optional of these, or ``tuple[str,
    ...]`` (values joined with ``+``).
    """
    fields = {field.name.replace("_", "-"): field for field in _fields(config) if field.init}
    values: dict[str, Any] = {}
    for key, text in options.items():
        field = fields.get(key.replace("_", "-"))
        if field is None:
            raise ConfigError(f"{name}: no option {key!r}: {nearest(key, fields)}")
        values[_argument(field)] = _convert(name, key, field.type, text)
    missing = [
        key
        for key, field in fields.items()
        if field.default is attrs.NOTHING and _argument(field) not in values
    ]
    if missing:
        raise ConfigError(f"{name}: option {missing[0]!r} is required ({name},{missing[0]}=...)")
    try:
        return config(**values)
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}: {error.args[0] if error.args else error}") from error


def check_config_class(name: str, config: type[Any]) -> None:
    """InternalError unless ``config`` is an attrs class whose fields can be parsed from options."""
    if not attrs.has(config):
        raise InternalError(f"device type {name}: its config {config!r} is not an attrs class")
    for field in _fields(config):
        if field.init and plain_type(field.type) not in (bool, int, str, Path, tuple):
            raise InternalError(f"device type {name}: option {field.name} has type {field.type!r}")


def describe_options(config: type[Any]) -> list[dict[str, Any]]:
    """The options of the attrs class ``config``: name, type, whether it is required, default (as plain
    data; None also for one that is computed).
    """
    described = []
    for field in _fields(config):
        if not field.init:
            continue
        required = field.default is attrs.NOTHING
        plain = isinstance(field.default, (bool, int, str, list, tuple))
        described.append(
            {
                "name": field.name.replace("_", "-"),
                "type": _type_name(field.type),
                "required": required,
                "default": field.default if plain and not required else None,
            }
        )
    return described


def _type_name(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return "|".join(str(choice) for choice in typing.get_args(annotation))
    names = {bool: "yes|no", int: "NUMBER", str: "TEXT", Path: "PATH", tuple: "TEXT+TEXT..."}
    return names.get(plain_type(annotation), "TEXT")


def _fields(config: type[Any]) -> tuple[Any, ...]:
    return tuple(attrs.fields(attrs.resolve_types(config)))


def _argument(field: Any) -> str:
    return str(field.alias or field.name)


def plain_type(annotation: Any) -> Any:
    """``int`` for ``int | None``, ``tuple`` for ``tuple[str, ...]``, otherwise the type itself."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        some = [arg for arg in typing.get_args(annotation) if arg is not type(None)]
        return plain_type(some[0]) if len(some) == 1 else annotation
    if typing.get_origin(annotation) is tuple and typing.get_args(annotation) == (str, ...):
        return tuple
    if typing.get_origin(annotation) is typing.Literal:
        return str
    return annotation


def _convert(name: str, key: str, annotation: Any, text: str | None) -> Any:
    kind = plain_type(annotation)
    if kind is bool:
        return text is None or _boolean(name, key, text)
    if text is None or text == "":
        raise ConfigError(f"{name}: option {key!r} needs a value ({key}=...)")
    if kind is int:
        return _integer(name, key, text)
    if kind is tuple:
        return tuple(text.split("+"))
    if kind is Path:
        return Path(text)
    if typing.get_origin(annotation) is typing.Literal and text not in typing.get_args(annotation):
        raise ConfigError(f"{name}: {key}={text}: {nearest(text, typing.get_args(annotation))}")
    return text


def _boolean(name: str, key: str, text: str) -> bool:
    word = text.lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ConfigError(f"{name}: {key}={text}: yes or no is expected")


def _integer(name: str, key: str, text: str) -> int:
    word = text.strip().lower()
    try:
        return int(word, 0)
    except ValueError:
        pass
    word = word.removesuffix("ib")
    suffix = word[-1:] if word[-1:] in _SUFFIXES else ""
    try:
        return int(word.removesuffix(suffix), 10) * _SUFFIXES[suffix]
    except ValueError:
        raise ConfigError(
            f"{name}: {key}={text}: a number such as 512, 0x200 or 64M is expected"
        ) from None
