"""Options of the thermometer."""

from __future__ import annotations

import attrs
from attrs.validators import and_, ge, le


@attrs.frozen
class ThermometerConfig:
    """It is ``start`` degrees Celsius at first and ``rate`` millidegrees more each second."""

    start: int = attrs.field(default=20, validator=and_(ge(-40), le(125)))
    rate: int = attrs.field(default=1000, validator=and_(ge(1), le(1_000_000)))
