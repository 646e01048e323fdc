"""What a snapshot keeps of a generation identifier."""

from __future__ import annotations

from typing import ClassVar

import attrs

from asyncvmm.plugin import DeviceState

ID_BYTES = 16


def _sixteen(_instance: object, attribute: attrs.Attribute[bytes], value: bytes) -> None:
    if len(value) != ID_BYTES:
        raise ValueError(f"{attribute.name}: {len(value)} bytes, not {ID_BYTES}")


@attrs.frozen
class VmGenIdState(DeviceState):
    """``notified``: the guest has not looked since it changed."""

    version: ClassVar[int] = 1

    identity: bytes = attrs.field(validator=_sixteen)
    notified: bool
