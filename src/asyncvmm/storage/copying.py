"""Copying what is on a disk: converting, committing, rebasing and comparing."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import attrs

from asyncvmm.device import Blob
from asyncvmm.storage import layout
from asyncvmm.storage.chain import (
    FORMATS,
    Image,
    backing_format,
    backing_path,
    format_of,
    opened,
)
from asyncvmm.storage.create import check_size, format_qcow2, new_file, new_header
from asyncvmm.storage.errors import ImageError
from asyncvmm.storage.extents import UNALLOCATED, ZERO
from asyncvmm.storage.hostfile import HostFile
from asyncvmm.storage.mapping import map_image
from asyncvmm.storage.progress import PIECE_BYTES, Progress, is_zero, silent
from asyncvmm.storage.qcow2 import Qcow2Image
from asyncvmm.storage.resize import resize_image


def _pieces(start: int, length: int, step: int = PIECE_BYTES) -> Iterator[tuple[int, int]]:
    """(offset, count) of a range cut at multiples of ``step``."""
    end = start + length
    while start < end:
        count = min(end - start, step - start % step)
        yield start, count
        start += count


def convert_image(
    source: Path | str,
    target: Path | str,
    *,
    source_format: str | None = None,
    format: str | None = None,
    cluster_bytes: int = layout.DEFAULT_CLUSTER_BYTES,
    force: bool = False,
    progress: Progress = silent,
) -> None:
    """Copy all that ``source`` and its backing files show into a new image of its own.

    Zeros take no place in it. The target appears under its name when it is complete.
    """
    target = Path(target)
    form = format or ("qcow2" if target.suffix.lower() == ".qcow2" else "raw")
    with opened(source, source_format, read_only=True) as image:
        check_size(image.path, image.size_bytes)
        with new_file(target, force) as partial:
            _format(partial, target, form, image.size_bytes, cluster_bytes)
            with opened(partial, form) as made:
                _copy(image, made, cluster_bytes if form == "qcow2" else 4096, progress)
                made.flush()


def _format(path: Path, name: Path, form: str, size_bytes: int, cluster_bytes: int) -> None:
    """A new empty image at ``path``; ``name`` is for messages."""
    form = format_of(path, form)
    file = HostFile(path, create=True)
    try:
        if form == "raw":
            file.truncate(size_bytes)
        else:
            format_qcow2(file, new_header(name, size_bytes, cluster_bytes, 16))
    finally:
        file.close()


def _copy(source: Blob, target: Blob, grain: int, progress: Progress) -> None:
    """Write what is not zero, in whole grains; ``target`` is all zeros."""
    total = source.size_bytes
    for entry in map_image(source):
        progress(entry.start, total)
        if entry.zero:
            continue
        for start, count in _pieces(entry.start, entry.length):
            data = memoryview(source.pread(start, count))
            run = -1
            for at, size in _pieces(start, count, grain):
                if is_zero(data[at - start : at - start + size]):
                    if run >= 0:
                        target.pwrite(run, bytes(data[run - start : at - start]))
                    run = -1
                elif run < 0:
                    run = at
            if run >= 0:
                target.pwrite(run, bytes(data[run - start :]))
            progress(start + count, total)
    progress(total, total)


def commit_image(
    path: Path | str,
    *,
    format: str | None = None,
    keep: bool = False,
    progress: Progress = silent,
) -> Path:
    """Write what an overlay has into its backing file, and empty the overlay unless ``keep``.

    At every instant the overlay reads as before: the backing file is durable before anything of the
    overlay goes. Other overlays of the same backing file see the change and are no good any more.
    Returns the backing file's path.
    """
    path = Path(path)
    with opened(path, format, backing=False) as top:
        below = backing_path(path, top.header) if isinstance(top, Qcow2Image) else None
        if below is None or not isinstance(top, Qcow2Image):
            raise ImageError(f"disk image {path}: has no backing file")
        if top.snapshots and not keep:
            raise ImageError(
                f"disk image {path}: has internal snapshots and cannot be emptied: use --keep"
            )
        with opened(below, backing_format(path, top.header)) as base:
            if base.size_bytes < top.size_bytes:
                resize_image(base, top.size_bytes)
            _commit(top, base, progress)
            base.flush()
        if not keep:
            for start, count in _pieces(0, top.size_bytes, top.geometry.l2_covers_bytes):
                top.forget(start, count)
            top.flush()
    return below


def _commit(top: Qcow2Image, base: Image, progress: Progress) -> None:
    total = top.size_bytes
    for extent in top.extents(0, total):
        progress(extent.start, total)
        if extent.kind == UNALLOCATED:
            continue
        for start, count in _pieces(extent.start, extent.length):
            if extent.kind == ZERO:
                base.write_zeroes(start, count)
            else:
                base.pwrite(start, top.pread(start, count))
            progress(start + count, total)
    progress(total, total)


def rebase_image(
    path: Path | str,
    backing: Path | str | None,
    *,
    format: str | None = None,
    backing_format: str | None = None,
    unsafe: bool = False,
    progress: Progress = silent,
) -> None:
    """Give an overlay another backing file (None: none) without changing what it shows.

    What the two backing files show differently is copied into the overlay first. ``unsafe`` only
    changes the name, which is right when the backing file was moved or has the same contents.
    """
    path = Path(path)
    with opened(path, format, backing=not unsafe) as top:
        if not isinstance(top, Qcow2Image):
            raise ImageError(f"disk image {path}: a raw image has no backing file")
        name = None if backing is None else os.fspath(backing)
        where = None if name is None else path.parent / name
        if where is not None:
            if not unsafe or where.exists():
                backing_format = format_of(where, backing_format)
            elif backing_format not in FORMATS:
                raise ImageError(f"disk image {where}: is not there: say its format")
        changed = copy.deepcopy(top.header)
        changed.set_backing(name, None if name is None else backing_format)
        changed.pack(path)  # it fits, before anything is copied
        if not unsafe:
            _copy_differences(top, where, backing_format, progress)
            top.flush()
        top.header.set_backing(name, None if name is None else backing_format)
        top.write_header()


def _copy_differences(
    top: Qcow2Image, where: Path | None, form: str | None, progress: Progress
) -> None:
    """Before: the overlay over its old backing file. After: over either, it shows the same."""
    with ExitStack() as stack:
        new: Image | None = None
        if where is not None:
            new = stack.enter_context(opened(where, form, read_only=True, above=top))
        total, cluster = top.size_bytes, top.geometry.cluster_bytes
        for hole in [each for each in top.extents(0, total) if each.kind == UNALLOCATED]:
            for start, count in _pieces(hole.start, hole.length):
                before = top.read_backing(start, count)
                after = _shown(new, start, count)
                if before != after:
                    for at, size in _pieces(start, count, cluster):
                        low = at - start
                        if before[low : low + size] != after[low : low + size]:
                            _keep(top, at, before[low : low + size])
                progress(start + count, total)
        progress(total, total)


def _keep(top: Qcow2Image, at: int, data: bytes) -> None:
    if top.header.version >= 3 and is_zero(data):
        top.hide(at >> top.header.cluster_bits)
    else:
        top.pwrite(at, data)


def _shown(image: Blob | None, start: int, count: int) -> bytes:
    inside = 0 if image is None else max(0, min(count, image.size_bytes - start))
    data = image.pread(start, inside) if image is not None and inside else b""
    return data.ljust(count, b"\0")


@attrs.frozen
class Comparison:
    """Whether two disks show the same; ``offset`` is the first byte where they do not."""

    equal: bool
    offset: int | None = None


def compare_images(
    first: Path | str,
    second: Path | str,
    *,
    first_format: str | None = None,
    second_format: str | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Compare what two images show; a longer one may only have zeros more."""
    with (
        opened(first, first_format, read_only=True) as one,
        opened(second, second_format, read_only=True) as two,
    ):
        total = max(one.size_bytes, two.size_bytes)
        for start, count in _pieces(0, total):
            a, b = _shown(one, start, count), _shown(two, start, count)
            if a != b:
                at = next(i for i in range(count) if a[i] != b[i])
                return Comparison(False, start + at)
            progress(start + count, total)
        return Comparison(True)
