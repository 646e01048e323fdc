"""What a snapshot keeps of a thermometer besides its registers."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
from attrs.validators import and_, ge, lt

from asyncvmm.plugin import DeviceState


@attrs.frozen
class ThermometerState(DeviceState):
    """Whether the alarm is to ring yet, and how often it has. Version 1 did not count."""

    version: ClassVar[int] = 2

    armed: bool
    count: int = attrs.field(validator=and_(ge(0), lt(1 << 32)))

    @classmethod
    def upgrade(cls, saved: dict[str, Any], version: int) -> dict[str, Any]:
        """Version 1 had no count."""
        return {**saved, "count": 0} if version == 1 else super().upgrade(saved, version)
