"""What a snapshot keeps of a virtio-vsock. The host's ends of its connections are not in it."""

from __future__ import annotations

from typing import Any, ClassVar, Final

import attrs
from attrs.validators import and_, ge, le, max_len

from asyncvmm.plugin import DeviceState, VersionedState

MAX_CONNECTIONS: Final = 1024
MAX_RESETS: Final = 256
_word: Final = and_(ge(0), le((1 << 32) - 1))


@attrs.frozen
class ConnectionState(VersionedState):
    """One connection as the guest knows it. It is reset when the guest goes on from the snapshot."""

    guest_port: int = attrs.field(validator=_word)
    host_port: int = attrs.field(validator=_word)
    requested: bool
    is_open: bool
    sent: int = attrs.field(validator=_word)
    received: int = attrs.field(validator=_word)
    consumed: int = attrs.field(validator=_word)
    told: int = attrs.field(validator=_word)
    peer_room: int = attrs.field(validator=_word)
    peer_consumed: int = attrs.field(validator=_word)
    said: int = attrs.field(validator=and_(ge(0), le(3)))


def _resets(state: Any, attribute: Any, value: Any) -> None:
    for item in value:
        numbers = list(item) if isinstance(item, (list, tuple)) else []
        if [type(number) for number in numbers] != [int] * 4:
            raise ValueError(f"resets have {item!r}")
        if not all(0 <= number < 1 << 64 for number in numbers) or max(numbers[2:]) >= 1 << 32:
            raise ValueError(f"resets have {item!r}")


@attrs.frozen
class VirtioVsockState(DeviceState):
    """``resets`` are answers to packets of no connection: (source cid, kind, source port, target port)."""

    version: ClassVar[int] = 1

    next_port: int = attrs.field(validator=_word)
    connections: tuple[ConnectionState, ...] = attrs.field(validator=max_len(MAX_CONNECTIONS))
    resets: tuple[Any, ...] = attrs.field(validator=and_(_resets, max_len(MAX_RESETS)))
