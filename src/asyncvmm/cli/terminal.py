"""The user's terminal: raw mode that is always undone, window size, keys as they are typed."""

from __future__ import annotations

import os
import select
import shutil
import stat
import sys
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import trio

CHUNK = 65536


def is_terminal(fd: int) -> bool:
    """Whether a file descriptor is a terminal."""
    try:
        return os.isatty(fd)
    except OSError:
        return False


@contextmanager
def raw_mode(fd: int) -> Iterator[None]:
    """Keys come one by one and unechoed within this context, whatever ends it."""
    saved = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, saved)


def window_size() -> tuple[int, int]:
    """Columns and rows."""
    size = shutil.get_terminal_size()
    return size.columns, size.lines


async def read_fd(fd: int) -> AsyncIterator[bytes]:
    """What comes from a terminal, pipe or file, as it comes, until its end."""
    pollable = not stat.S_ISREG(os.fstat(fd).st_mode)
    while True:
        if pollable:
            try:
                await trio.lowlevel.wait_readable(fd)
            except PermissionError:  # epoll knows no such files: /dev/null and the like
                pollable = False
        else:
            await trio.lowlevel.checkpoint()
        data = os.read(fd, CHUNK)
        if not data:
            return
        yield data


def write_all(fd: int, data: bytes) -> None:
    """Write everything, also to a descriptor that somebody made non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select([], [fd], [])


def flush_standard() -> None:
    """Nothing that Python buffered comes after what is written to the descriptors directly."""
    sys.stdout.flush()
    sys.stderr.flush()
