"""What of a disk is where: extents through a whole chain, as `qemu-img map` tells them."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from asyncvmm.device import Blob
from asyncvmm.storage.extents import COMPRESSED, DATA, UNALLOCATED, ZERO
from asyncvmm.storage.qcow2 import Qcow2Image
from asyncvmm.storage.raw import RawImage


@attrs.frozen
class MapEntry:
    """A range of the disk. ``depth`` counts the images from the top, ``present`` is False where none
    has it, ``zero`` says that it reads as zeros, ``offset`` is its place in the image's file.
    """

    start: int
    length: int
    depth: int
    present: bool
    zero: bool
    data: bool
    compressed: bool
    offset: int | None


def map_image(image: Blob) -> Iterator[MapEntry]:
    """The whole disk, in order, without gaps; adjacent ranges that say the same are one."""
    last: MapEntry | None = None
    for entry in _walk(image, 0, image.size_bytes, 0):
        if last is not None and _follows(last, entry):
            last = attrs.evolve(last, length=last.length + entry.length)
            continue
        if last is not None:
            yield last
        last = entry
    if last is not None:
        yield last


def _follows(first: MapEntry, second: MapEntry) -> bool:
    if attrs.evolve(first, start=0, length=0, offset=None) != attrs.evolve(
        second, start=0, length=0, offset=None
    ):
        return False
    if first.offset is None or second.offset is None:
        return first.offset is second.offset
    return first.offset + first.length == second.offset


def _walk(image: Blob, offset: int, length: int, depth: int) -> Iterator[MapEntry]:
    if isinstance(image, RawImage):
        for start, end, data in image.file.data_extents(offset, offset + length):
            yield MapEntry(start, end - start, depth, True, not data, data, False, start)
        return
    assert isinstance(image, Qcow2Image)
    for extent in image.extents(offset, length):
        kind, start, count = extent.kind, extent.start, extent.length
        if kind == DATA:
            move = extent.offset - start
            for low, high, data in image.file.data_extents(extent.offset, extent.offset + count):
                # A hole of the host inside of an allocated cluster reads as zeros.
                yield MapEntry(low - move, high - low, depth, True, not data, True, False, low)
        elif kind == COMPRESSED:
            yield MapEntry(start, count, depth, True, False, True, True, None)
        elif kind == ZERO:
            yield MapEntry(start, count, depth, True, True, False, False, extent.offset or None)
        elif kind == UNALLOCATED:
            yield from _below(image, start, count, depth)


def _below(image: Qcow2Image, start: int, count: int, depth: int) -> Iterator[MapEntry]:
    below = image.backing
    inside = 0 if below is None else max(0, min(count, below.size_bytes - start))
    if below is not None and inside:
        yield from _walk(below, start, inside, depth + 1)
    if inside < count:
        yield MapEntry(start + inside, count - inside, depth, False, True, False, False, None)
