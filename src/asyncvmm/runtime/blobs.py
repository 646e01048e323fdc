"""Disk contents for the guests of a host."""

from __future__ import annotations

from asyncvmm.device import Blob
from asyncvmm.plugin import BlobSpec
from asyncvmm.storage import ImageError, OverlayBlob, open_image


def open_file_blob(spec: BlobSpec) -> Blob:
    """The blob that a device asks for; ConfigError names the file and the cause."""
    image = open_image(spec.path, spec.format, spec.read_only or spec.snapshot)
    if image.size_bytes == 0:
        image.close()
        raise ImageError(f"disk image {spec.path}: has no bytes")
    return OverlayBlob(image) if spec.snapshot and not spec.read_only else image
