"""What an image says about itself, without looking at its data."""

from __future__ import annotations

from pathlib import Path

import attrs

from asyncvmm.storage.chain import backing_path, opened
from asyncvmm.storage.header import feature_list
from asyncvmm.storage.hostfile import HostFile
from asyncvmm.storage.layout import LAZY_REFCOUNTS
from asyncvmm.storage.qcow2 import Qcow2Image
from asyncvmm.storage.snapshots import Snapshot


@attrs.frozen
class ImageInfo:
    """Sizes in bytes. What only qcow2 has is None, empty or False for raw images."""

    path: Path
    format: str
    size_bytes: int
    allocated_bytes: int
    file_bytes: int
    version: int | None = None
    cluster_bytes: int | None = None
    refcount_bits: int | None = None
    lazy_refcounts: bool = False
    compression: str | None = None
    incompatible: list[str] = attrs.field(factory=list)
    compatible: list[str] = attrs.field(factory=list)
    autoclear: list[str] = attrs.field(factory=list)
    backing_file: str | None = None
    backing_path: Path | None = None
    backing_format: str | None = None
    snapshots: list[Snapshot] = attrs.field(factory=list)


def image_info(path: Path | str, format: str | None = None) -> ImageInfo:
    """The facts of one image; its backing file is named and not opened."""
    path = Path(path)
    with opened(path, format, read_only=True, backing=False) as image:
        return _describe(image.file, image if isinstance(image, Qcow2Image) else None)


def _describe(file: HostFile, image: Qcow2Image | None) -> ImageInfo:
    if image is None:
        return ImageInfo(file.path, "raw", file.size_bytes, file.allocated_bytes, file.size_bytes)
    header = image.header
    return ImageInfo(
        path=file.path,
        format="qcow2",
        size_bytes=header.size_bytes,
        allocated_bytes=file.allocated_bytes,
        file_bytes=file.size_bytes,
        version=header.version,
        cluster_bytes=header.geometry.cluster_bytes,
        refcount_bits=1 << header.refcount_order,
        lazy_refcounts=bool(header.compatible & LAZY_REFCOUNTS),
        compression=("zlib", "zstd")[header.compression],
        incompatible=feature_list(header, 0, header.incompatible),
        compatible=feature_list(header, 1, header.compatible),
        autoclear=feature_list(header, 2, header.autoclear),
        backing_file=header.backing_file,
        backing_path=backing_path(file.path, header),
        backing_format=header.backing_format,
        snapshots=image.snapshots,
    )
