"""What a snapshot keeps of a Goldfish RTC."""

from __future__ import annotations

from typing import ClassVar

import attrs
from attrs.validators import and_, ge, lt

from asyncvmm.plugin import DeviceState

_U64 = and_(ge(0), lt(1 << 64))
_U32 = and_(ge(0), lt(1 << 32))


@attrs.frozen
class GoldfishRtcState(DeviceState):
    """``offset_ns`` (mod 2**64) is the date minus virtual time."""

    version: ClassVar[int] = 1

    offset_ns: int = attrs.field(validator=_U64)
    alarm_ns: int = attrs.field(validator=_U64)
    time_high: int = attrs.field(validator=_U32)
    alarm_high: int = attrs.field(validator=_U32)
    irq_enabled: bool
    irq_pending: bool
    alarm_armed: bool
