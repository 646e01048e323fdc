"""What a snapshot keeps: an attrs class with a version, checked before it is believed."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.texts import shortened, shown


@attrs.frozen
class VersionedState:
    """The base class of saved states.

    A subclass is an attrs class with a ``version``; its fields have validators, because saved state
    is untrusted data. ``save`` gives JSON-ready data (bytes as hexadecimal text), ``load`` takes it
    back, through ``upgrade`` when an older version wrote it. Fields may be states and tuples.
    """

    version: ClassVar[int] = 1

    def save(self) -> dict[str, Any]:
        """Plain data: the fields and ``version``."""
        saved: dict[str, Any] = {"version": self.version}
        for field in attrs.fields(type(self)):
            saved[field.name] = _plain(getattr(self, field.name))
        return saved

    @classmethod
    def upgrade(cls, saved: dict[str, Any], version: int) -> dict[str, Any]:
        """The fields of a state that ``version`` wrote, as this version wants them."""
        raise ConfigError(f"{cls.__name__}: version {version} is not known (this is {cls.version})")

    @classmethod
    def load(cls, saved: Mapping[str, Any]) -> Self:
        """The state that ``save`` wrote; ConfigError when anything about it is wrong."""
        if not isinstance(saved, Mapping):
            raise ConfigError(f"{cls.__name__}: a saved state is expected, not {shown(saved)}")
        fields = {str(key): value for key, value in saved.items()}
        version = fields.pop("version", None)
        if type(version) is not int:
            raise ConfigError(f"{cls.__name__}: the saved state has no version")
        if version != cls.version:
            fields = cls.upgrade(fields, version)
        declared = {field.name: field for field in attrs.fields(attrs.resolve_types(cls))}
        if set(fields) != set(declared):
            wrong = sorted(set(fields) ^ set(declared))
            raise ConfigError(f"{cls.__name__}: {shortened(f'saved fields differ: {wrong}')}")
        values: dict[str, Any] = {}
        try:
            for name, field in declared.items():
                values[field.alias or name] = _typed(field.type, fields[name])
            return cls(**values)
        except (TypeError, ValueError) as error:
            text = error.args[0] if error.args else error
            raise ConfigError(f"{cls.__name__}: bad saved state: {shortened(str(text))}") from error


@attrs.frozen
class DeviceState(VersionedState):
    """The base class of device states."""


def _plain(value: Any) -> Any:
    if isinstance(value, VersionedState):
        return value.save()
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).hex()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _typed(annotation: Any, value: Any) -> Any:
    """``value`` as its field's type wants it; TypeError or ValueError when it cannot be."""
    if annotation is bytes:
        if not isinstance(value, str):
            raise TypeError(f"hexadecimal text is expected, not {shown(value)}")
        return bytes.fromhex(value)
    if annotation in (int, bool, str):
        if type(value) is not annotation:
            raise TypeError(f"{annotation.__name__} is expected, not {shown(value)}")
        return value
    if isinstance(annotation, type) and issubclass(annotation, VersionedState):
        if not isinstance(value, Mapping):
            raise TypeError(f"a saved {annotation.__name__} is expected, not {shown(value)}")
        return annotation.load(value)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
        return _typed(kinds[0], value) if value is not None and len(kinds) == 1 else value
    if isinstance(value, list):
        kinds = list(typing.get_args(annotation))
        if kinds[:1] == [Any]:
            return tuple(value)
        if typing.get_origin(annotation) is tuple and kinds[1:] == [...]:
            return tuple(_typed(kinds[0], item) for item in value)
        if typing.get_origin(annotation) is tuple:
            return tuple(_typed(kind, item) for kind, item in zip(kinds, value, strict=True))
        return tuple(value)
    if typing.get_origin(annotation) is tuple:
        raise TypeError(f"a list is expected, not {shown(value)}")
    return value
