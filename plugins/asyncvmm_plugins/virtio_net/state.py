"""What a snapshot keeps of a virtio-net."""

from __future__ import annotations

from typing import Any, ClassVar, Final

import attrs
from attrs.validators import and_, ge, le

from asyncvmm.plugin import DeviceState

MAX_TABLE: Final = 64


def _is_mac(state: Any, attribute: Any, value: bytes) -> None:
    if len(value) != 6:
        raise ValueError(f"{attribute.name} has {len(value)} bytes")


def _are_macs(state: Any, attribute: Any, value: tuple[Any, ...]) -> None:
    good = all(isinstance(item, str) and len(bytes.fromhex(item)) == 6 for item in value)
    if not good or len(value) > MAX_TABLE:
        raise ValueError(f"{attribute.name} is {value!r}")


@attrs.frozen
class VirtioNetState(DeviceState):
    """The card's address, the receive mode (bits by the number of their command, 5.1.6.5.1), the
    addresses that it listens to (hexadecimal), whether the tables overflowed, and the offloads that the
    driver has on."""

    version: ClassVar[int] = 1

    mac: bytes = attrs.field(validator=_is_mac)
    mode: int = attrs.field(validator=and_(ge(0), le(63)))
    unicast: tuple[Any, ...] = attrs.field(validator=_are_macs)
    multicast: tuple[Any, ...] = attrs.field(validator=_are_macs)
    overflow: int = attrs.field(validator=and_(ge(0), le(3)))
    offloads: int = attrs.field(validator=and_(ge(0), le((1 << 64) - 1)))
    announce: bool
