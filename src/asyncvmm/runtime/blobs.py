"""Disk contents in host files: raw images."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.device import Blob
from asyncvmm.plugin import BlobSpec

SECTOR = 512


class FileBlob(Blob):
    """A raw image file. ``flush`` is fdatasync: what was acknowledged by it survives a crash."""

    def __init__(self, path: Path, read_only: bool) -> None:
        try:
            self._fd = os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
            size = os.lseek(self._fd, 0, os.SEEK_END)
        except OSError as error:
            raise ConfigError(f"disk {path}: {error.strerror}") from error
        if size == 0 or size % SECTOR:
            os.close(self._fd)
            raise ConfigError(
                f"disk {path}: its size is {size} bytes, not a positive multiple of {SECTOR}"
            )
        self._path = path
        super().__init__(size, read_only)

    def pread(self, offset: int, length: int) -> bytes:
        """See Blob."""
        try:
            data = os.pread(self._fd, length, offset)
        except OSError as error:
            raise self._failure("read", error) from error
        if len(data) != length:
            raise BackendError(f"disk {self._path}: it became shorter than {offset + length} bytes")
        return data

    def pwrite(self, offset: int, data: bytes) -> None:
        """See Blob."""
        view = memoryview(data)
        try:
            while view:
                count = os.pwrite(self._fd, view, offset)
                view = view[count:]
                offset += count
        except OSError as error:
            raise self._failure("write", error) from error

    def flush(self) -> None:
        """See Blob."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise self._failure("flush", error) from error

    def discard(self, offset: int, length: int) -> None:
        """See Blob: a raw file keeps its bytes."""

    def close(self) -> None:
        """See Blob."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _failure(self, what: str, error: OSError) -> BackendError:
        reason = "the host's disk is full" if error.errno == errno.ENOSPC else error.strerror
        return BackendError(f"disk {self._path}: cannot {what}: {reason}")


def open_file_blob(spec: BlobSpec) -> Blob:
    """The blob that a device asks for; ConfigError names the file and the cause."""
    return FileBlob(spec.path, spec.read_only)
