"""The user's terminal and standard streams: raw mode that is always undone, bytes in and out."""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
import termios
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

import trio

from asyncvmm.base.errors import BackendError
from asyncvmm.base.texts import KEPT, printable

CHUNK = 65536
ESCAPE = 0x1D  # leaves a console
ESCAPE_NAME = "Ctrl-]"
_NAMES = {0: "standard input", 1: "standard output", 2: "standard error"}


def say(text: str) -> None:
    """A line for the user, on standard error."""
    print(f"asyncvmm: {printable(text, keep=KEPT)}", file=sys.stderr, flush=True)


def is_terminal(fd: int) -> bool:
    """Whether a file descriptor is a terminal."""
    try:
        return os.isatty(fd)
    except OSError:
        return False


def is_same_file(one: int, other: int) -> bool:
    """Whether two file descriptors lead to the same file, pipe or terminal."""
    try:
        return os.path.sameopenfile(one, other)
    except OSError:
        return False


def open_missing_streams() -> None:
    """Descriptors 0, 1 and 2 exist afterwards: one that was closed (``<&-``) is the null device.

    Otherwise the next file that is opened, a disk perhaps, would get the guest's console.
    """
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != fd:
                os.dup2(null, fd)
                os.close(null)
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115


@contextmanager
def raw_mode(fd: int) -> Iterator[None]:
    """Keys come one by one and unechoed within this context, whatever ends it."""
    saved = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSADRAIN)
        yield
    finally:
        with suppress(termios.error):  # a terminal that hung up has nothing to restore
            termios.tcsetattr(fd, termios.TCSADRAIN, saved)


def window_size(fd: int) -> tuple[int, int]:
    """Columns and rows of a terminal; 80 by 24 when it does not know."""
    try:
        columns, rows = os.get_terminal_size(fd)
    except OSError:
        return 80, 24
    return columns or 80, rows or 24


async def read_fd(fd: int) -> AsyncIterator[bytes]:
    """What comes from a terminal, pipe or file, as it comes, until its end.

    BackendError when it cannot be read.
    """
    pollable = not stat.S_ISREG(os.fstat(fd).st_mode)
    while True:
        if pollable:
            try:
                await trio.lowlevel.wait_readable(fd)
            except PermissionError:  # epoll knows no such files: /dev/null and the like
                pollable = False
        else:
            await trio.lowlevel.checkpoint()
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:  # somebody else read it first
            continue
        except OSError as error:
            if error.errno == errno.EIO:  # a terminal that hung up
                return
            raise BackendError(f"{_NAMES.get(fd, fd)}: {error.strerror}") from error
        if not data:
            return
        yield data


def write_all(fd: int, data: bytes) -> None:
    """Write everything, also to a descriptor that somebody made non-blocking.

    BrokenPipeError when the reader is gone, BackendError when it cannot be written.
    """
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select([], [fd], [])
        except BrokenPipeError:
            raise
        except OSError as error:
            raise BackendError(f"{_NAMES.get(fd, fd)}: {error.strerror}") from error


async def watch_reader(fd: int) -> None:
    """Raise BrokenPipeError once the reader of a pipe goes away, also while nothing is written."""
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        return
    while not _is_broken(fd):
        await trio.lowlevel.wait_readable(fd)  # epoll reports the error to whoever waits
        await trio.lowlevel.checkpoint()
    raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def flush_standard() -> None:
    """Nothing that Python buffered comes after what is written to the descriptors directly."""
    sys.stdout.flush()
    sys.stderr.flush()


def drop_standard() -> None:
    """The readers of our output are gone: Python must not complain about it at its exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    for fd in (1, 2):
        if _is_broken(fd):
            os.dup2(null, fd)
    os.close(null)


def _is_broken(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))
