"""Disks: images in files behind ``asyncvmm.device.Blob``, and what is done with images.

In reading order: ``hostfile`` (a locked file of the host), ``raw``, ``layout`` and ``header`` (the
qcow2 format), ``tables`` and ``refcounts`` (its two trees, and the order in which they are written),
``qcow2`` (the image itself), ``chain`` (backing files, and why formats are not guessed), ``overlay``
(throw-away disks), ``folders`` (a folder of the host, captured). Operations: ``create``, ``resize``,
``copying`` (convert, commit, rebase, compare), ``mapping``, ``census``, ``check`` and ``repair``, ``info``.
"""

from asyncvmm.storage.census import CheckReport
from asyncvmm.storage.chain import FORMATS, Image, chain, format_of, open_image, opened
from asyncvmm.storage.check import check_image
from asyncvmm.storage.copying import (
    Comparison,
    commit_image,
    compare_images,
    convert_image,
    rebase_image,
)
from asyncvmm.storage.create import create_image
from asyncvmm.storage.errors import DamagedImageError, ImageError
from asyncvmm.storage.info import ImageInfo, image_info
from asyncvmm.storage.mapping import MapEntry, map_image
from asyncvmm.storage.overlay import OverlayBlob
from asyncvmm.storage.progress import Progress
from asyncvmm.storage.qcow2 import Qcow2Image
from asyncvmm.storage.raw import RawImage
from asyncvmm.storage.resize import resize_image

__all__ = [
    "CheckReport",
    "Comparison",
    "DamagedImageError",
    "FORMATS",
    "Image",
    "ImageError",
    "ImageInfo",
    "MapEntry",
    "OverlayBlob",
    "Progress",
    "Qcow2Image",
    "RawImage",
    "chain",
    "check_image",
    "commit_image",
    "compare_images",
    "convert_image",
    "create_image",
    "format_of",
    "image_info",
    "map_image",
    "open_image",
    "opened",
    "rebase_image",
    "resize_image",
]
