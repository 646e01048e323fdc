"""Disk contents and folders for the guests of a host."""

from __future__ import annotations

from asyncvmm.device import Blob, Folder
from asyncvmm.machine.config import NVRAM
from asyncvmm.plugin import BlobSpec, FolderSpec
from asyncvmm.storage import ImageError, OverlayBlob, open_image
from asyncvmm.storage.folders import HostFolder
from asyncvmm.storage.nvram_flash import NvramFlash
from asyncvmm.storage.views import ViewBlob, ViewedBlob


def open_file_blob(spec: BlobSpec) -> Blob:
    """The blob that a device asks for; ConfigError names the file and the cause."""
    image: Blob
    if spec.format == NVRAM:
        image = NvramFlash(spec.path, spec.read_only or spec.snapshot)
    else:
        image = open_image(spec.path, spec.format, spec.read_only or spec.snapshot)
    if image.size_bytes == 0:
        image.close()
        raise ImageError(f"disk image {spec.path}: has no bytes")
    if spec.read_only:
        return image
    return OverlayBlob(image) if spec.snapshot else ViewedBlob(image)


def open_host_folder(spec: FolderSpec) -> Folder:
    """The folder that a device asks for, captured now; ConfigError names the file and the cause."""
    return HostFolder(spec.path, spec.limit_bytes)


def freeze_blob(blob: Blob, reopen: BlobSpec) -> Blob:
    """What ``blob`` holds now, to be given to ``thaw_blob`` any number of times and closed then."""
    if isinstance(blob, OverlayBlob):
        return blob.fork()
    if isinstance(blob, ViewedBlob):
        return blob.view()
    return open_file_blob(reopen)


def thaw_blob(frozen: Blob, spec: BlobSpec) -> Blob:
    """A disk of its own that begins with what ``freeze_blob`` kept; what is written goes with it."""
    if isinstance(frozen, OverlayBlob):
        return frozen.fork()
    if isinstance(frozen, ViewBlob):
        return OverlayBlob(Entered(frozen))
    return open_file_blob(spec)


class Entered(Blob):
    """A view that others read too: each may close it, and the last one to do so lets it go."""

    def __init__(self, view: ViewBlob) -> None:
        super().__init__(view.size_bytes, True)
        self._view = view
        view.enter()

    def pread(self, offset: int, length: int) -> bytes:
        """See Blob."""
        return self._view.pread(offset, length)

    def close(self) -> None:
        """See Blob."""
        self._view.leave()
