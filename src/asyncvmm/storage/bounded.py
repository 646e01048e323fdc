"""Reading files that anybody may have put there: opening one never waits, and what is read is bounded.

A pipe would wait for its writer, a terminal for keys, and ``/dev/zero`` has no end.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from asyncvmm.base.errors import ConfigError


def can_be_path(text: str) -> bool:
    """Whether a file can be called so: no NUL is in it, and nothing that no name is encoded to."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can have
        return False


def check_regular(fd: int, path: Path | str) -> None:
    """OSError when the open ``fd`` is no file; ``path`` is for its text."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "is a directory", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "is not a file", str(path))


def open_regular(path: Path | str) -> BinaryIO:
    """A file to read; OSError when there is none, or something else."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, str(error), str(path)) from error
    try:
        check_regular(fd, path)
        return open(fd, "rb")
    except BaseException:
        os.close(fd)
        raise


def read_bounded(path: Path, max_bytes: int, error_type: type[ConfigError]) -> bytes:
    """All of a file; ``error_type``, which names it, when it is longer or cannot be read.

    FileNotFoundError is the caller's: what it means that there is no file differs.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > max_bytes:
                raise error_type(
                    f"{path}: its {size} bytes are more than such a file may have ({max_bytes})"
                )
            return file.read(size)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise error_type(f"{path}: cannot be read: {error.strerror}") from error


def own_file(path: str, flags: int) -> int:
    """An ``opener`` for a file of a folder that may be a stranger's: a link there is not followed, so
    that nothing outside is written to; OSError for links and for what is no file.
    """
    more = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(path, flags | more, 0o644)
    except OSError as error:
        if error.errno == errno.ELOOP:
            error.strerror = "is a symbolic link"
        raise
    try:
        check_regular(fd, path)
    except BaseException:
        os.close(fd)
        raise
    return fd
