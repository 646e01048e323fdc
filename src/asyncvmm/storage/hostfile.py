"""A file of the host that holds an image: exact reads, whole writes, locks and holes."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import stat
import sys
from pathlib import Path
from typing import Final

from asyncvmm.base.errors import BackendError
from asyncvmm.storage.errors import ImageError

_KEEP_SIZE: Final = 0x01
_PUNCH_HOLE: Final = 0x02
MAX_READ_BYTES: Final = 1 << 30


class HostFile:
    """``path``, open and locked: one writer, or many readers.

    ImageError when it cannot be opened; BackendError when the host fails later on, and for good once
    a ``sync`` has failed, because nobody knows then what is on the disk. Block devices only where
    ``devices`` allows them. ``size_bytes`` follows what is written.
    """

    def __init__(
        self, path: Path, read_only: bool = False, *, devices: bool = True, create: bool = False
    ) -> None:
        self.path = path
        self.read_only = read_only
        self._failed = ""
        # Without O_NONBLOCK, opening a pipe waits for its other end.
        flags = (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC | os.O_NONBLOCK
        if create:
            flags |= os.O_CREAT | os.O_EXCL
        try:
            self._fd = os.open(path, flags, 0o666)
        except (OSError, ValueError) as error:
            hint = " (try readonly)" if isinstance(error, PermissionError) and not read_only else ""
            said = error.strerror if isinstance(error, OSError) else error
            raise ImageError(f"disk image {path}: {said}{hint}") from error
        try:
            self._check(devices)
        except BaseException:
            os.close(self._fd)
            self._fd = -1
            raise

    def _check(self, devices: bool) -> None:
        status = os.fstat(self._fd)
        if not (stat.S_ISREG(status.st_mode) or (devices and stat.S_ISBLK(status.st_mode))):
            raise ImageError(f"disk image {self.path}: not a file")
        self.regular = stat.S_ISREG(status.st_mode)
        self.identity = (status.st_dev, status.st_ino)
        self.size_bytes = os.lseek(self._fd, 0, os.SEEK_END)
        try:
            kind = fcntl.LOCK_SH if self.read_only else fcntl.LOCK_EX
            fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ImageError(f"disk image {self.path}: another guest has it open") from None
        except OSError:
            pass  # a file system without locks

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes; BackendError when the file ends before."""
        data = self.read_some(offset, length)
        if len(data) < length:
            raise BackendError(f"disk image {self.path} was cut short while in use")
        return data

    def read_padded(self, offset: int, length: int) -> bytes:
        """These bytes, with zeros for what lies behind the end of the file."""
        return self.read_some(offset, length).ljust(length, b"\0")

    def read_some(self, offset: int, length: int) -> bytes:
        """These bytes as far as the file has them."""
        if offset < 0 or not 0 <= length <= MAX_READ_BYTES:
            raise BackendError(f"disk image {self.path}: no {length} bytes at {offset}")
        try:
            data = os.pread(self._fd, length, offset)
            while len(data) < length:
                more = os.pread(self._fd, length - len(data), offset + len(data))
                if not more:
                    break
                data += more
        except OSError as error:
            raise BackendError(f"disk image {self.path}: read: {error.strerror}") from error
        return data

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of it; the file grows where it must."""
        self._writable()
        view = memoryview(data)
        done = 0
        try:
            while done < len(view):
                done += os.pwrite(self._fd, view[done:], offset + done)
        except OSError as error:
            raise BackendError(f"disk image {self.path}: write: {error.strerror}") from error
        self.size_bytes = max(self.size_bytes, offset + len(view))

    def sync(self) -> None:
        """Return when everything written before is durable."""
        self._writable()
        try:
            (os.fdatasync if hasattr(os, "fdatasync") else os.fsync)(self._fd)
        except OSError as error:
            self._failed = f"flush: {error.strerror}"
            raise BackendError(f"disk image {self.path}: {self._failed}") from error

    def truncate(self, size_bytes: int) -> None:
        """Set the size; what is new reads as zeros."""
        self._writable()
        try:
            os.ftruncate(self._fd, size_bytes)
        except OSError as error:
            raise BackendError(f"disk image {self.path}: resize: {error.strerror}") from error
        self.size_bytes = size_bytes

    def punch(self, offset: int, length: int) -> bool:
        """Make a hole that reads as zeros; False where the system or the file system cannot."""
        self._writable()
        if length <= 0:
            return True
        if offset < 0 or _fallocate is None:
            return False
        return bool(_fallocate(self._fd, _KEEP_SIZE | _PUNCH_HOLE, offset, length) == 0)

    def data_extents(self, offset: int, end: int) -> list[tuple[int, int, bool]]:
        """``(start, end, has data)`` from offset to end; holes are what the host knows as such."""
        extents: list[tuple[int, int, bool]] = []
        at = offset
        while at < end:
            data, hole = self._seek(at, end, os.SEEK_DATA), end
            if data > at:
                extents.append((at, data, False))
            if data < end:
                hole = self._seek(data, end, os.SEEK_HOLE)
                extents.append((data, hole, True))
            at = hole
        return extents

    def _seek(self, offset: int, end: int, how: int) -> int:
        try:
            return min(end, os.lseek(self._fd, offset, how))
        except OSError:  # no more data
            return end

    @property
    def allocated_bytes(self) -> int:
        """What it takes on the host."""
        return os.fstat(self._fd).st_blocks * 512

    def _writable(self) -> None:
        if self._failed:
            raise BackendError(f"disk image {self.path}: unusable since an earlier {self._failed}")

    def close(self) -> None:
        """May be called again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable: what was renamed there stays renamed after a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_directory(path: Path) -> None:
    """As ``sync_folder``, where the system can."""
    with contextlib.suppress(OSError):
        sync_folder(path)


def _find_fallocate() -> ctypes._NamedFuncPointer | None:
    """Linux's fallocate, which Python's os module lacks."""
    if not sys.platform.startswith("linux"):
        return None
    function = getattr(ctypes.CDLL(None, use_errno=True), "fallocate64", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        function.restype = ctypes.c_int
    return function


_fallocate = _find_fallocate()
