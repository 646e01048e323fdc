"""What a snapshot keeps of a virtio-blk; the disk's contents are the storage's to keep."""

from __future__ import annotations

from typing import ClassVar

import attrs
from attrs.validators import ge

from asyncvmm.plugin import DeviceState


@attrs.frozen
class VirtioBlkState(DeviceState):
    """The cache mode that the driver chose, and the capacity, which must be the same again."""

    version: ClassVar[int] = 1

    writeback: bool
    capacity_sectors: int = attrs.field(validator=ge(0))
