"""One user of a folder at a time: a lock that the kernel frees, and that says who has it."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import attrs

from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.base.texts import printable
from asyncvmm.runtime.folder.small_json import read_json
from asyncvmm.storage.bounded import own_file

MAX_LOCK_BYTES: Final = 64 << 10
TRIES: Final = 20  # somebody who only looks has it for microseconds
TRY_S: Final = 0.01
MAX_PID: Final = 1 << 31


class FolderBusyError(BackendError):
    """Somebody else uses the folder; ``holder`` says who."""

    def __init__(self, root: Path, holder: Holder) -> None:
        remedy = f"`asyncvmm stop {root}` ends it" if holder.serves else "it ends by itself"
        super().__init__(f"{root}: is in use by {holder.describe()}; {remedy}")
        self.holder = holder


class LockFileError(ConfigError):
    """What the lock file says of its holder cannot be read; the text names file and place."""


@attrs.frozen
class Holder:
    """Who has a folder. ``since_s`` is Unix time; ``serves`` whether the holder listens to commands."""

    pid: int = 0
    host: str = ""
    command: str = ""
    since_s: float = 0.0
    serves: bool = False

    def describe(self) -> str:
        """For people: ``pid 71 (asyncvmm start web.vm) since 2026-11-24 12:00:01``."""
        if not self.pid:
            return "a process that its lock file does not name"
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since_s))
        where = f" on {self.host}" if self.host != socket.gethostname() else ""
        return printable(f"pid {self.pid}{where} ({self.command}) since {since}")


def this_process(command: Sequence[str] | None = None, *, serves: bool = False) -> Holder:
    """What the lock says of us."""
    words = [Path(sys.argv[0]).name or "python", *sys.argv[1:]] if command is None else command
    text = shlex.join(words)[:1000]
    return Holder(os.getpid(), socket.gethostname(), text, time.time(), serves)


class FolderLock:
    """Holds the lock file at ``path`` until ``release``, or until the process is gone.

    FolderBusyError when somebody else has it. What a holder that died wrote there is replaced: only the
    kernel's lock (flock) counts, never a number that another process may have by now.
    """

    def __init__(self, path: Path, holder: Holder | None = None) -> None:
        self.path: Final = path
        self.died: Holder | None = None  # the one before, when it did not let go by itself
        try:
            self._fd = own_file(str(path), os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise BackendError(f"{path}: cannot be opened: {error.strerror}") from error
        try:
            self._take(holder or this_process())
        except BaseException:
            os.close(self._fd)
            self._fd = -1
            raise

    def _take(self, mine: Holder) -> None:
        for attempt in range(TRIES):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == TRIES - 1:
                    raise FolderBusyError(self.path.parent, _read_or_unknown(self.path)) from None
                time.sleep(TRY_S)
            except OSError as error:
                raise BackendError(f"{self.path}: cannot be locked: {error.strerror}") from error
        if os.fstat(self._fd).st_size:
            self.died = _read_or_unknown(self.path)
        data = json.dumps(attrs.asdict(mine)).encode() + b"\n"
        try:
            os.pwrite(self._fd, data, 0)
            os.ftruncate(self._fd, len(data))
        except OSError as error:
            raise BackendError(f"{self.path}: cannot be written: {error.strerror}") from error

    @property
    def held(self) -> bool:
        """Whether it is held still."""
        return self._fd >= 0

    def release(self) -> None:
        """Let others have it; may be called again."""
        if self._fd >= 0:
            with suppress(OSError):  # what it says does not count without the kernel's lock
                os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


def holder_of(path: Path) -> Holder | None:
    """Who holds the lock file at ``path``, or None."""
    try:
        fd = own_file(str(path), os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BackendError(f"{path}: cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        return _read_or_unknown(path)
    except OSError as error:
        raise BackendError(f"{path}: cannot be locked: {error.strerror}") from error
    finally:
        os.close(fd)


def read_holder(path: Path) -> Holder:
    """What the lock file says, whether or not that is true still; LockFileError names the place."""
    try:
        values = read_json(path, MAX_LOCK_BYTES, LockFileError)
    except FileNotFoundError as error:
        raise LockFileError(f"{path}: cannot be read: {error.strerror}") from error
    return _checked(path, values)


def _checked(path: Path, values: Any) -> Holder:
    kinds = {"pid": int, "host": str, "command": str, "since_s": float, "serves": bool}
    if not isinstance(values, dict) or set(values) != set(kinds):
        raise LockFileError(f"{path}: does not name {', '.join(kinds)}")
    for key, kind in kinds.items():
        if type(values[key]) is not kind:
            raise LockFileError(f"{path}: {key} is {str(values[key])[:80]!r}")
    if not 0 < values["pid"] < MAX_PID or not 0 <= values["since_s"] < 1e11:
        raise LockFileError(f"{path}: pid or time cannot be")
    return Holder(**values)


def _read_or_unknown(path: Path) -> Holder:
    try:
        return read_holder(path)
    except LockFileError:
        return Holder()


@contextmanager
def short_lock(root: Path) -> Iterator[None]:
    """For an edit of a small file, also while the machine runs: others wait for its end."""
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
