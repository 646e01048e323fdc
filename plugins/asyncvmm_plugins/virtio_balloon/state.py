"""What a snapshot keeps of a virtio-balloon."""

from __future__ import annotations

from typing import Any, ClassVar, Final

import attrs
from attrs.validators import and_, ge, lt

from asyncvmm.plugin import DeviceState

# 5.5.6.4. Names for the host, without their prefix VIRTIO_BALLOON_S_.
STATISTICS: Final = (
    "swap_in",
    "swap_out",
    "major_faults",
    "minor_faults",
    "free_memory",
    "total_memory",
    "available_memory",
    "disk_caches",
    "hugetlb_allocations",
    "hugetlb_failures",
)


def _statistics(state: Any, attribute: Any, value: Any) -> None:
    last = -1
    for item in value:
        tag, number = item if isinstance(item, (list, tuple)) else ()
        if type(tag) is not int or not last < tag < len(STATISTICS):
            raise ValueError(f"statistics have {item!r}")
        if type(number) is not int or not 0 <= number < 1 << 64:
            raise ValueError(f"statistics have {item!r}")
        last = tag


@attrs.frozen
class VirtioBalloonState(DeviceState):
    """What the host wants and the driver says (pages of 4 KiB), what came back (bytes), the newest
    statistics by tag, whether the driver's buffer for them is here, and whether it is asked for.
    """

    version: ClassVar[int] = 1

    target_pages: int = attrs.field(validator=and_(ge(0), lt(1 << 32)))
    actual_pages: int = attrs.field(validator=and_(ge(0), lt(1 << 32)))
    returned_bytes: int = attrs.field(validator=ge(0))
    statistics: tuple[Any, ...] = attrs.field(validator=_statistics)
    kept: bool
    polled: bool
