"""Options of the Goldfish RTC."""

from __future__ import annotations

import attrs
from attrs.validators import and_, ge, lt, optional


@attrs.frozen
class GoldfishRtcConfig:
    """``epoch``: the date at virtual time 0, in Unix seconds; the host's choice when left out."""

    epoch: int | None = attrs.field(default=None, validator=optional(and_(ge(0), lt(1 << 33))))
