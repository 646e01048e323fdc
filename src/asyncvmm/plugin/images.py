"""Guest images as plugins see them: what an image is, where it is kept, how progress is shown.

An image plugin implements the hook ``asyncvmm_images`` and returns `ImageType` objects. Pulling may take
minutes and talks to the world (network, compilers); everything else here is quick. All of it is
blocking: the command line calls it as it is, an async caller runs it in a thread.

Reading order: `BootFiles`, `ImageType`, then `ImageCache` and the errors, which have files of their own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal, Protocol

from attrs import frozen

from asyncvmm.plugin.image_cache import (
    ImageCache,
    Manifest,
    ManifestFile,
    default_cache_root,
    sha256_of,
)
from asyncvmm.plugin.image_errors import (
    BuildError,
    ChecksumError,
    ImageError,
    MissingToolError,
    NoAptError,
    NoNetworkError,
    NoSpaceError,
)

__all__ = [
    "BootFiles",
    "BuildError",
    "ChecksumError",
    "DiskFile",
    "ImageCache",
    "ImageError",
    "ImageType",
    "Manifest",
    "ManifestFile",
    "MissingToolError",
    "NoAptError",
    "NoNetworkError",
    "NoSpaceError",
    "Progress",
    "ProgressTask",
    "SilentProgress",
    "default_cache_root",
    "sha256_of",
]

RunProtocol = Literal["shell-console", "agent", "none"]


@frozen
class DiskFile:
    """A disk image that a guest is given: a raw file."""

    path: Path
    readonly: bool = False
    serial: str = ""


@frozen
class BootFiles:
    """What a machine is started with. Paths are absolute; ``None`` means that there is none.

    ``append`` is the kernel's command line (``append_kept`` that of a guest whose disks are its own and
    written to, when it is another one), ``memory`` a size like ``"128M"``. With ``run_protocol``
    ``"agent"`` the guest speaks specs/run-protocol.md (add ``asyncvmm.run=1`` to the command line for a
    guest that does nothing else); with ``"shell-console"`` commands can only be typed after ``prompt`` has
    been seen on the console. ``flash`` are what the flash parts hold; the image's own files are not
    changed: what a guest writes to one that is not ``readonly`` is thrown away.
    """

    kernel: Path | None = None
    initrd: Path | None = None
    firmware: Path | None = None
    elf: Path | None = None
    flash: tuple[DiskFile, ...] = ()
    disks: tuple[DiskFile, ...] = ()
    append: str = ""
    append_kept: str | None = None
    memory: str = "128M"
    harts: int = 1
    run_protocol: RunProtocol = "none"
    prompt: str = "# "


class ProgressTask(Protocol):
    """One bar."""

    def advance(self, amount: int) -> None:
        """``amount`` more (bytes, or steps) are done."""


class Progress(Protocol):
    """Where a pull reports what it is doing."""

    def task(self, label: str, total: int | None) -> AbstractContextManager[ProgressTask]:
        """A new bar of ``total`` bytes or steps (``None``: unknown), open while the context is."""

    def note(self, text: str) -> None:
        """One line that the user should read: which suite was used, that a pin has vanished."""


class SilentProgress:
    """A `Progress` that shows nothing and remembers the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    @contextmanager
    def task(self, label: str, total: int | None) -> Iterator[ProgressTask]:
        """A bar that nobody sees."""
        yield _SilentTask()

    def note(self, text: str) -> None:
        """Keeps ``text`` in ``notes``."""
        self.notes.append(text)


class _SilentTask:
    def advance(self, amount: int) -> None:
        pass


class ImageType(ABC):
    """A guest system that can be had by name. Subclasses are stateless."""

    name: str
    """What the user types: lower case, digits and dashes."""

    summary: str
    """One line for ``asyncvmm image list``."""

    size_bytes_estimate: int
    """How much a pull downloads and keeps, roughly, for the user to know beforehand."""

    @abstractmethod
    def pull(self, cache: ImageCache, progress: Progress) -> None:
        """Gets or builds the image, whether or not it is there. Raises `ImageError` subclasses."""

    @abstractmethod
    def boot_files(self, cache: ImageCache) -> BootFiles:
        """What to start it with. Raises `ImageError` if it is not present."""

    def is_present(self, cache: ImageCache) -> bool:
        """Whether it can be booted without a pull."""
        return cache.manifest(self.name) is not None

    def remove(self, cache: ImageCache) -> None:
        """Deletes it from the cache; nothing happens if it is not there."""
        cache.remove(self.name)

    def require_present(self, cache: ImageCache) -> Path:
        """Its directory. Raises `ImageError` if it is not present."""
        if not self.is_present(cache):
            raise ImageError(
                f"image {self.name!r} is not in {cache.root}: run `asyncvmm image pull {self.name}`"
            )
        return cache.directory(self.name)
