"""What a snapshot keeps of a virtio-rng."""

from __future__ import annotations

from typing import ClassVar

import attrs
from attrs.validators import ge

from asyncvmm.plugin import DeviceState


@attrs.frozen
class VirtioRngState(DeviceState):
    """How many bytes of the stream were given out."""

    version: ClassVar[int] = 1

    position: int = attrs.field(validator=ge(0))
