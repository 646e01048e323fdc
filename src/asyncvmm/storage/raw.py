"""Raw disk images: a host file whose bytes are the disk's."""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
import sys
from pathlib import Path

from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.device import Blob

SECTOR_BYTES = 512

_KEEP_SIZE = 0x01
_PUNCH_HOLE = 0x02


class RawImage(Blob):
    """``path`` as a blob, locked against a second writer while it is open.

    ConfigError when the file cannot be a disk; BackendError when the host fails later on. What is
    written is durable after ``flush`` (fdatasync).
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path = path
        flags = os.O_RDONLY if read_only else os.O_RDWR
        try:
            self._fd = os.open(path, flags | os.O_CLOEXEC)
        except OSError as error:
            hint = " (try readonly)" if isinstance(error, PermissionError) and not read_only else ""
            raise ConfigError(f"disk image {path}: {error.strerror}{hint}") from error
        try:
            size = self._check(read_only)
        except ConfigError:
            os.close(self._fd)
            raise
        super().__init__(size, read_only)

    def _check(self, read_only: bool) -> int:
        status = os.fstat(self._fd)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
            raise ConfigError(f"disk image {self.path}: not a file")
        size = os.lseek(self._fd, 0, os.SEEK_END)
        if size == 0 or size % SECTOR_BYTES:
            raise ConfigError(
                f"disk image {self.path}: {size} bytes are not a whole number of "
                f"{SECTOR_BYTES}-byte sectors"
            )
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_SH if read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"disk image {self.path}: another guest has it open") from None
        except OSError:
            pass  # a file system without locks
        return size

    def pread(self, offset: int, length: int) -> bytes:
        """See Blob."""
        try:
            data = os.pread(self._fd, length, offset)
            while len(data) < length:
                more = os.pread(self._fd, length - len(data), offset + len(data))
                if not more:
                    raise BackendError(f"disk image {self.path} was cut short while in use")
                data += more
        except OSError as error:
            raise BackendError(f"disk image {self.path}: read: {error.strerror}") from error
        return data

    def pwrite(self, offset: int, data: bytes) -> None:
        """See Blob."""
        if offset < 0 or offset + len(data) > self.size_bytes:
            raise BackendError(f"disk image {self.path}: write beyond its end")
        try:
            done = os.pwrite(self._fd, data, offset)
            while done < len(data):
                done += os.pwrite(self._fd, data[done:], offset + done)
        except OSError as error:
            raise BackendError(f"disk image {self.path}: write: {error.strerror}") from error

    def flush(self) -> None:
        """See Blob."""
        try:
            (os.fdatasync if hasattr(os, "fdatasync") else os.fsync)(self._fd)
        except OSError as error:
            raise BackendError(f"disk image {self.path}: flush: {error.strerror}") from error

    def discard(self, offset: int, length: int) -> None:
        """Give the range's storage back to the host, where the host can."""
        self._punch(offset, length)

    def write_zeroes(self, offset: int, length: int, may_unmap: bool = True) -> None:
        """See Blob."""
        if not (may_unmap and self._punch(offset, length)):
            super().write_zeroes(offset, length, may_unmap)

    def _punch(self, offset: int, length: int) -> bool:
        """Make a hole; False where the system or the file system cannot."""
        if length == 0:
            return True
        if self.read_only or offset < 0 or offset + length > self.size_bytes or _fallocate is None:
            return False
        return bool(_fallocate(self._fd, _KEEP_SIZE | _PUNCH_HOLE, offset, length) == 0)

    def close(self) -> None:
        """See Blob; may be called again."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


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
