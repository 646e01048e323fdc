"""The directory of guest images: finished ones with their manifests, and builds in progress."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from attrs import field, frozen

from asyncvmm.base.units import MIB
from asyncvmm.plugin.image_errors import ImageError, NoSpaceError
from asyncvmm.storage.hostfile import sync_folder

MANIFEST: Final = "manifest.json"
MANIFEST_FORMAT: Final = 1


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
    ``root/work/`` holds builds in progress. A crash at any instant leaves the old image, the new one or
    none, never parts of one that look like the whole.
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
        and the image is what it was. The caller holds `lock`; what a killed build left is cleared.
        """
        work = self.work_directory()
        for stale in work.glob(f"{name}.*"):
            shutil.rmtree(stale, ignore_errors=True)
        try:
            staging = Path(tempfile.mkdtemp(prefix=f"{name}.new-", dir=work))
        except OSError as error:
            raise _os_error(error, self.root) from error
        try:
            staging.chmod(0o755)
            yield staging
            _write_manifest(staging, name, recipe, tuple(sources))
            target = self.directory(name)
            old = Path(tempfile.mkdtemp(prefix=f"{name}.old-", dir=work))
            with contextlib.suppress(FileNotFoundError):
                target.rename(old / name)
            staging.rename(target)
            sync_folder(self.root)
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
            old = Path(tempfile.mkdtemp(prefix=f"{name}.old-", dir=self.work_directory()))
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
    sync_folder(staging)


def _os_error(error: OSError, root: Path) -> ImageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceError(
            f"{root} is full: make room there, or set ASYNCVMM_CACHE to a directory on a larger "
            "file system"
        )
    return ImageError(f"the image cache {root} cannot be written: {error}")


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / MIB:.0f} MiB"
