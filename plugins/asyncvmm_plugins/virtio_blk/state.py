"""What a snapshot keeps of a virtio-blk; the disk's contents are the storage's to keep."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
from attrs.validators import ge

from asyncvmm.plugin import DeviceState


def _times(_state: Any, _attribute: Any, value: Any) -> None:
    if any(type(time) is not int or time < 0 for time in value) or list(value) != sorted(value):
        raise ValueError(f"waiting is {value!r}: rising times are expected")


@attrs.frozen
class VirtioBlkState(DeviceState):
    """The cache mode that the driver chose; the capacity, which must be the same again; when the
    requests in flight are due, and until when earlier work counts (virtual ns).
    """

    version: ClassVar[int] = 1

    writeback: bool
    capacity_sectors: int = attrs.field(validator=ge(0))
    waiting: tuple[int, ...] = attrs.field(validator=_times)
    work_ns: int = attrs.field(validator=ge(0))
