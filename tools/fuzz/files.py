"""Bytes as a file that is read by its path, and what an error about it must say."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from asyncvmm.base.errors import AsyncvmmError

T = TypeVar("T")


@functools.cache
def scratch() -> Path:
    """A folder of this process, in memory where the host has a file system there."""
    memory = Path("/dev/shm")
    folder = Path(
        tempfile.mkdtemp(prefix="asyncvmm-fuzz-", dir=memory if memory.is_dir() else None)
    )
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def read_or_refused(read: Callable[[], T], *names: Path | str) -> T | None:
    """What ``read`` gives; None when it raises a typed error, which must name one of ``names``."""
    try:
        return read()
    except AsyncvmmError as error:
        text = str(error)
        assert any(str(name) in text for name in names), f"does not name the file: {text}"
        assert len(text) < 4096, f"{len(text)} characters"
        text.encode()  # it can be printed
        return None


def resealed(data: bytes, start: int, length: int, digest: Callable[[bytes], bytes]) -> bytes:
    """``data`` with the checksum that fits it: what somebody writes who means harm."""
    found = digest(data)
    return data[:start] + found[:length] + data[start + length :]


def crc(data: bytes, before: int = 0) -> int:
    """CRC-32, begun with another one."""
    return zlib.crc32(data, before)
