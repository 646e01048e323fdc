"""Guest images as plugins see them: what an image is, where it is kept, how progress is shown.

An image plugin implements the hook ``asyncvmm_images`` and returns `ImageType` objects. Pulling may take
minutes and talks to the world (network, compilers); everything else here is quick. All of it is
blocking: the command line calls it as it is, an async caller runs it in a thread.

Reading order: `BootFiles`, `ImageType`, `ImageCache`, then the errors.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, Literal, Protocol

from attrs import field, frozen

from asyncvmm.base.errors import BackendError
from asyncvmm.base.units import MIB

RunProtocol = Literal["shell-console", "agent", "none"]

MANIFEST: Final = "manifest.json"
MANIFEST_FORMAT: Final = 1


class ImageError(BackendError):
    """An image cannot be had; the text says why and what to do about it."""


class NoNetworkError(ImageError):
    """The package archive cannot be reached."""


class NoAptError(ImageError):
    """This machine has no apt, or none of its sources is a Debian archive."""


class NoSpaceError(ImageError):
    """The file system of the cache is too full."""


class ChecksumError(ImageError):
    """A file is not what it should be."""


class MissingToolError(ImageError):
    """A program that is needed to build the image is not installed."""


class BuildError(ImageError):
    """A step of a build failed."""


@frozen
class DiskFile:
    """A disk image that a guest is given: a raw file."""

    path: Path
    readonly: bool = False
    serial: str = ""


@frozen
class BootFiles:
    """What a machine is started with. Paths are absolute; ``None`` means that there is none.

    ``append`` is the kernel's command line, ``memory`` a size like ``"128M"``. With ``run_protocol``
    ``"agent"`` the guest speaks specs/run-protocol.md (add ``asyncvmm.run=1`` to the command line for a
    guest that does nothing else); with ``"shell-console"`` commands can only be typed after ``prompt`` has
    been seen on the console.
    """

    kernel: Path | None = None
    initrd: Path | None = None
    firmware: Path | None = None
    elf: Path | None = None
    disks: tuple[DiskFile, ...] = ()
    append: str = ""
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


@frozen
class ManifestFile:
    """One file of an image as it was built."""

    name: str
    size_bytes: int
    sha256: str


@frozen
class Manifest:
    """What an image's directory holds and what it was made from; written last, so that it proves a
    finished build."""

    image: str
    files: tuple[ManifestFile, ...]
    sources: tuple[str, ...] = field(default=())
    recipe: str = ""


class ImageCache:
    """The directory of images: ``$ASYNCVMM_CACHE``, else ``$XDG_CACHE_HOME/asyncvmm``, else
    ``~/.cache/asyncvmm``.

    ``root/NAME/`` is a finished image with its manifest, ``root/apt/`` is a private apt directory,
    ``root/work/`` holds builds in progress. A crash at any instant leaves the old image or the new one.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root if root is not None else default_cache_root()

    def directory(self, name: str) -> Path:
        """Where image ``name`` is, or would be."""
        return self.root / name

    def manifest(self, name: str) -> Manifest | None:
        """The manifest of image ``name`` if it is complete: readable, and each file of its size."""
        directory = self.directory(name)
        try:
            raw = json.loads((directory / MANIFEST).read_text("utf-8"))
            if raw["format"] != MANIFEST_FORMAT or raw["image"] != name:
                return None
            files = tuple(
                ManifestFile(str(f["name"]), int(f["size_bytes"]), str(f["sha256"]))
                for f in raw["files"]
            )
            sources = tuple(str(source) for source in raw["sources"])
            for entry in files:
                if (directory / entry.name).stat().st_size != entry.size_bytes:
                    return None
            return Manifest(name, files, sources, str(raw["recipe"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Held by one process at a time for each ``name``; others wait. The kernel frees it on death."""
        self._make(self.root)
        with (self.root / f".{name}.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    @contextmanager
    def build(
        self, name: str, *, recipe: str = "", sources: tuple[str, ...] | list[str] = ()
    ) -> Iterator[Path]:
        """An empty directory to build image ``name`` in; it takes the image's place when the body ends.

        ``sources`` may be a list that the body fills. If the body raises, the directory is removed
        and the image is what it was.
        """
        work = self.work_directory()
        staging = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=work))
        try:
            yield staging
            _write_manifest(staging, name, recipe, tuple(sources))
            target = self.directory(name)
            old = Path(tempfile.mkdtemp(prefix=f"{name}-old-", dir=work))
            with contextlib.suppress(FileNotFoundError):
                target.rename(old / name)
            staging.rename(target)
            _sync_directory(self.root)
            shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            raise _os_error(error, self.root) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def work_directory(self) -> Path:
        """A directory for builds in progress, on the cache's file system."""
        return self._make(self.root / "work")

    def remove(self, name: str) -> bool:
        """Deletes image ``name``; whether there was one."""
        target = self.directory(name)
        if not target.exists():
            return False
        with self.lock(name):
            old = Path(tempfile.mkdtemp(prefix=f"{name}-old-", dir=self.work_directory()))
            with contextlib.suppress(FileNotFoundError):
                target.rename(old / name)
            shutil.rmtree(old, ignore_errors=True)
        return True

    def require_space(self, size_bytes: int, purpose: str) -> None:
        """Raises `NoSpaceError` unless ``size_bytes`` are free where the cache is."""
        self._make(self.root)
        free = shutil.disk_usage(self.root).free
        if free < size_bytes:
            raise NoSpaceError(
                f"{purpose} needs {_mib(size_bytes)} in {self.root}, but only {_mib(free)} are free: "
                "make room there, or set ASYNCVMM_CACHE to a directory on a larger file system"
            )

    def _make(self, directory: Path) -> Path:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ImageError(
                f"the image cache {directory} cannot be created ({error.strerror}): "
                "set ASYNCVMM_CACHE to a directory that you can write to"
            ) from error
        return directory


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


def default_cache_root() -> Path:
    """The cache directory that the environment asks for."""
    own = os.environ.get("ASYNCVMM_CACHE")
    if own:
        return Path(own).absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).absolute() if base else Path.home() / ".cache") / "asyncvmm"


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes in hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _write_manifest(staging: Path, name: str, recipe: str, sources: tuple[str, ...]) -> None:
    files = []
    for path in sorted(staging.iterdir()):
        files.append(
            {"name": path.name, "size_bytes": path.stat().st_size, "sha256": sha256_of(path)}
        )
        with path.open("rb") as handle:
            os.fsync(handle.fileno())
    manifest = {
        "format": MANIFEST_FORMAT,
        "image": name,
        "recipe": recipe,
        "sources": list(sources),
        "files": files,
    }
    with (staging / MANIFEST).open("w", encoding="utf-8") as out:
        json.dump(manifest, out, indent=1)
        out.flush()
        os.fsync(out.fileno())
    _sync_directory(staging)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _os_error(error: OSError, root: Path) -> ImageError:
    if error.errno in (28, 122):  # ENOSPC, EDQUOT
        return NoSpaceError(
            f"{root} is full: make room there, or set ASYNCVMM_CACHE to a directory on a larger "
            "file system"
        )
    return ImageError(f"the image cache {root} cannot be written: {error}")


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / MIB:.0f} MiB"
