"""Disk contents for the guests of a host."""

from __future__ import annotations

from asyncvmm.device import Blob
from asyncvmm.plugin import BlobSpec
from asyncvmm.storage import RawImage


def open_file_blob(spec: BlobSpec) -> Blob:
    """The blob that a device asks for; ConfigError names the file and the cause."""
    return RawImage(spec.path, spec.read_only)
