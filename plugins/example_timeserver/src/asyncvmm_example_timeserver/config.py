"""Options of the time server."""

from __future__ import annotations

import ipaddress
from typing import Any

import attrs
from attrs.validators import and_, ge, le

GUESTS_EPOCH = 1_767_225_600  # 1 January 2026, the date that guests have at virtual time 0


def _ipv4(_instance: object, _attribute: Any, value: str) -> None:
    ipaddress.IPv4Address(value)  # its ValueError says what is wrong


@attrs.frozen
class TimeServerConfig:
    """See the README. Its own clock is ``epoch`` and virtual time, which runs ``drift_ppm`` too fast."""

    address: str = attrs.field(validator=_ipv4)
    epoch: int = attrs.field(default=GUESTS_EPOCH, validator=and_(ge(0), le(0xFFFF_FFFF)))
    drift_ppm: int = attrs.field(default=0, validator=and_(ge(-500_000), le(1_000_000)))
    jitter_us: int = attrs.field(default=0, validator=and_(ge(0), le(1_000_000)))
