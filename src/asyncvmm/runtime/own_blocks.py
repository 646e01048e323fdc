"""What a disk that keeps writes has itself, and what is below it and does not change."""

from __future__ import annotations

from collections.abc import Iterator

from asyncvmm.device import Blob
from asyncvmm.runtime.snapshot_files import Zeros
from asyncvmm.storage import Qcow2Image, RawImage, open_image
from asyncvmm.storage.chain import backing_format, backing_path
from asyncvmm.storage.extents import UNALLOCATED, ZERO


def base_of(image: Blob) -> tuple[Blob, str]:
    """A second handle on what is below a disk, and its name as ``split_disk`` reads it."""
    below = image.backing if isinstance(image, Qcow2Image) else None
    if isinstance(image, Qcow2Image) and below is not None and below.size_bytes == image.size_bytes:
        path = backing_path(image.path, image.header)
        assert path is not None
        form = backing_format(image.path, image.header)
        real = path.resolve()
        return open_image(real, form, read_only=True), f"{real},format={form}"
    return Zeros(image.size_bytes), str(getattr(image, "path", ""))


def own_extents(image: Blob, whole: bool) -> Iterator[tuple[int, int, bool]]:
    """(start, length, reads as zeros) of what a disk has itself, or of all that is not zeros."""
    if isinstance(image, RawImage):
        for start, end, data in image.file.data_extents(0, image.size_bytes):
            if data:
                yield start, end - start, False
    elif isinstance(image, Qcow2Image):
        for extent in image.extents(0, image.size_bytes):
            if extent.kind == UNALLOCATED and not (whole and image.backing is not None):
                continue
            if extent.kind == ZERO and whole:
                continue
            yield extent.start, extent.length, extent.kind == ZERO
    else:
        yield 0, image.size_bytes, False
