"""Ranges of a disk as one image has them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

UNALLOCATED: Final = "unallocated"
ZERO: Final = "zero"
DATA: Final = "data"
COMPRESSED: Final = "compressed"


class Extent(NamedTuple):
    """A range of the disk that is in one piece in the file. ``offset`` is of data's or zeros' place in
    the file, 0 without one, and the L2 entry of a compressed cluster.
    """

    kind: str
    start: int
    length: int
    offset: int


def merged(pieces: Iterator[Extent]) -> Iterator[Extent]:
    """Adjacent pieces that are one in the file as one."""
    last: Extent | None = None
    for extent in pieces:
        if last is not None and _adjacent(last, extent):
            last = last._replace(length=last.length + extent.length)
            continue
        if last is not None:
            yield last
        last = extent
    if last is not None:
        yield last


def _adjacent(first: Extent, second: Extent) -> bool:
    if first.kind != second.kind or first.kind == COMPRESSED:
        return False
    if first.offset == 0 or second.offset == 0:
        return first.offset == second.offset
    return first.offset + first.length == second.offset
