"""Making disks larger, and smaller when nothing is lost or the user says so."""

from __future__ import annotations

from asyncvmm.storage import layout
from asyncvmm.storage.chain import Image
from asyncvmm.storage.create import check_size
from asyncvmm.storage.errors import ImageError
from asyncvmm.storage.mapping import map_image
from asyncvmm.storage.progress import PIECE_BYTES, is_zero
from asyncvmm.storage.qcow2 import Qcow2Image
from asyncvmm.storage.words import words_bytes


def resize_image(image: Image, size_bytes: int, *, shrink: bool = False) -> None:
    """Change the size of an image that is open for writing; what is new reads as zeros.

    ImageError when it would get smaller and lose data, unless ``shrink``, and when an internal snapshot
    stands in the way.
    """
    check_size(image.path, size_bytes)
    if size_bytes < image.size_bytes and not shrink:
        _refuse_loss(image, size_bytes)
    if isinstance(image, Qcow2Image):
        _resize_qcow2(image, size_bytes)
    else:
        image.resize(size_bytes)
    image.flush()


def _refuse_loss(image: Image, size_bytes: int) -> None:
    """ImageError when something else than zeros lies behind the new end."""
    for entry in map_image(image):
        end = entry.start + entry.length
        if entry.zero or end <= size_bytes:
            continue
        at = max(entry.start, size_bytes)
        while at < end:
            count = min(PIECE_BYTES, end - at)
            if not is_zero(image.pread(at, count)):
                raise ImageError(
                    f"disk image {image.path}: there is data between {size_bytes} and "
                    f"{image.size_bytes} bytes: it is lost with --shrink"
                )
            at += count


def _resize_qcow2(image: Qcow2Image, size_bytes: int) -> None:
    old = image.size_bytes
    for each in image.snapshots:
        if size_bytes < old or image.header.version < 3 or each.disk_bytes is None:
            raise ImageError(
                f"disk image {image.path}: has internal snapshots and cannot be resized like this"
            )
    if size_bytes < old:
        keep = image.geometry.clusters(size_bytes) * image.geometry.cluster_bytes
        if keep < old:
            image.forget(keep, old - keep)
            image.flush()
    elif size_bytes > old:
        _grow(image, old, size_bytes)
    image.flush()
    image.size_bytes = size_bytes
    image.header.size_bytes = size_bytes
    image.write_header()


def _grow(image: Qcow2Image, old: int, size_bytes: int) -> None:
    """Tables for the new part, and zeros wherever something would show in it."""
    geometry = image.geometry
    needed = geometry.l1_entries(size_bytes)
    if needed * 8 > layout.MAX_L1_BYTES:
        raise ImageError(f"disk image {image.path}: {size_bytes} bytes need larger clusters")
    if needed > len(image.tables.l1):
        _grow_l1(image, needed)
    # The rest of the last cluster, clusters behind it that somebody left, and the backing file.
    image.size_bytes = size_bytes
    try:
        tail = min(size_bytes, geometry.clusters(old) * geometry.cluster_bytes)
        shown = 0 if image.backing is None else min(size_bytes, image.backing.size_bytes)
        image.forget(tail, size_bytes - tail)
        end = max(tail, shown)
        if end > old:
            image.write_zeroes(old, end - old)
        image.flush()
    except BaseException:
        image.size_bytes = old
        raise


def _grow_l1(image: Qcow2Image, entries: int) -> None:
    """Move the L1 table to where more of it fits; the header names it when it is complete."""
    refcounts, header = image.refcounts, image.header
    assert refcounts is not None
    image.flush()
    cluster = image.geometry.cluster_bytes
    count = image.geometry.clusters(entries * 8)
    first = refcounts.allocate_run(count)
    refcounts.metadata.update(range(first, first + count))
    image.tables.l1.extend([0] * (entries - len(image.tables.l1)))
    data = words_bytes(image.tables.l1)
    image.file.write(first * cluster, data.ljust(count * cluster, b"\0"))
    refcounts.write()
    image.file.sync()
    refcounts.point()
    old_first, old_count = (
        header.l1_offset // cluster,
        image.geometry.clusters(header.l1_entries * 8),
    )
    header.l1_offset, header.l1_entries = first * cluster, entries
    image.write_header()
    for index in range(old_first, old_first + old_count):
        refcounts.release(index)
    refcounts.settle()
