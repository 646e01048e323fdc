"""A machine's logs: ``vm.log``, a JSON object a line, and ``console.log``, what the console said.

Both are bounded: a file that is full becomes ``vm.log.1``, that one ``vm.log.2``, and the oldest goes. A
log that cannot be written never stops the machine: ``lost`` counts what is missing.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from datetime import UTC, datetime
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.texts import printable
from asyncvmm.runtime.folder.settings import LogLimits
from asyncvmm.storage.bounded import own_file

MAX_LINE_BYTES: Final = 64 << 10
MAX_TEXT: Final = 2000
DEVICE_LINES_PER_S: Final = 50
CHUNK_BYTES: Final = 64 << 10
POLL_S: Final = 0.2
MAX_ROTATIONS: Final = 1000
MAX_VIRTUAL_NS: Final = 1 << 63
STANDARD: Final = ("wall", "virtual_ns", "event")


class LogError(ConfigError):
    """A line of a log is damaged; the text names file and line."""


@attrs.frozen
class LogEntry:
    """One line of vm.log. ``virtual_ns`` is None for what happened while the machine did not run."""

    wall: str
    virtual_ns: int | None
    event: str
    fields: dict[str, Any] = attrs.field(factory=dict, hash=False)

    def format(self) -> str:
        """For people, a line."""
        virtual = "-" if self.virtual_ns is None else f"{self.virtual_ns / 1e9:.6f}"
        rest = " ".join(f"{key}={value}" for key, value in self.fields.items())
        return printable(f"{self.wall}  {virtual:>14}  {self.event}  {rest}".rstrip())


class _Rotated(RotatingFileHandler):
    """Bytes, as Latin-1 has them, in files that take turns."""

    terminator = ""

    def __init__(self, path: Path, size_bytes: int, keep: int) -> None:
        super().__init__(path, "a", size_bytes, keep, "latin-1", delay=True)
        self.lost = 0

    def _open(self) -> TextIOWrapper:
        """See FileHandler. What a guest says goes to no file outside, whoever made the folder."""
        return open(self.baseFilename, "a", encoding=self.encoding, opener=own_file)

    def write(self, data: bytes) -> None:
        """All of it, in one of the files."""
        text = data.decode("latin-1")
        self.handle(logging.LogRecord("", logging.INFO, "", 0, text, None, None))

    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk is no reason to stop a machine."""
        self.lost += 1


class VmLog:
    """``vm.log``. ``virtual_ns`` tells the machine's time; threads may share the log."""

    def __init__(self, path: Path, limits: LogLimits) -> None:
        self._file = _Rotated(path, limits.vm_bytes, limits.keep)
        self.virtual_ns: Callable[[], int | None] = lambda: None
        self._second = 0
        self._in_second = 0

    def add(self, event: str, **fields: Any) -> None:
        """A line, at once."""
        wall = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"wall": wall, "virtual_ns": self.virtual_ns(), "event": event}
        cut = {k: v[:MAX_TEXT] if isinstance(v, str) else v for k, v in fields.items()}
        self._file.write(json.dumps({**line, **cut}).encode() + b"\n")

    def device_said(self, source: str, text: str) -> None:
        """What a device or the host says of the guest: at most 50 lines a second, so that a guest that
        provokes them cannot push everything else out of the log.
        """
        second = int(time.monotonic())
        if second != self._second:
            if self._in_second > DEVICE_LINES_PER_S:
                self.add("suppressed", lines=self._in_second - DEVICE_LINES_PER_S)
            self._second, self._in_second = second, 0
        self._in_second += 1
        if self._in_second <= DEVICE_LINES_PER_S:
            self.add("device", source=source, text=text)

    @property
    def lost(self) -> int:
        """Lines that could not be written."""
        return self._file.lost

    def close(self) -> None:
        """No more lines."""
        self._file.close()


class ConsoleLog:
    """``console.log``: the bytes as they came."""

    def __init__(self, path: Path, limits: LogLimits) -> None:
        self._file = _Rotated(path, limits.console_bytes, limits.keep)
        self._piece_bytes = min(CHUNK_BYTES, limits.console_bytes // 2)

    def write(self, data: bytes) -> None:
        """A tap of the console."""
        for at in range(0, len(data), self._piece_bytes):
            self._file.write(data[at : at + self._piece_bytes])

    @property
    def lost(self) -> int:
        """Pieces that could not be written."""
        return self._file.lost

    def close(self) -> None:
        """No more output."""
        self._file.close()


def parse_entry(line: bytes, place: str) -> LogEntry:
    """A line of vm.log; LogError names ``place``."""
    if len(line) > MAX_LINE_BYTES:
        raise LogError(f"{place}: is longer than {MAX_LINE_BYTES} bytes")
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise LogError(f"{place}: is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise LogError(f"{place}: is not an object")
    wall, virtual, event = (values.pop(key, None) for key in STANDARD)
    if not isinstance(wall, str) or not isinstance(event, str):
        raise LogError(f"{place}: has no wall time or no event")
    if virtual is not None and (type(virtual) is not int or not 0 <= virtual < MAX_VIRTUAL_NS):
        raise LogError(f"{place}: virtual_ns is {str(virtual)[:40]!r}")
    return LogEntry(wall, virtual, event, values)


def log_files(path: Path) -> list[Path]:
    """The files of a log, oldest first."""
    found = []
    for number in range(MAX_ROTATIONS, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        if older.is_file():
            found.append(older)
    return [*found, path] if path.is_file() else found


def read_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """(place, line without its end) of a log, oldest first, in bounded memory."""
    for file in log_files(path):
        with file.open("rb") as stream:
            number = 0
            while line := stream.readline(MAX_LINE_BYTES + 2):
                number += 1
                yield f"{file}, line {number}", line.rstrip(b"\n")


def read_entries(path: Path) -> Iterator[LogEntry | LogError]:
    """The entries of vm.log, oldest first; damaged lines as their errors. The last line may be half
    written: a kill cut it short.
    """
    for place, line in read_lines(path):
        try:
            yield parse_entry(line, place)
        except LogError as error:
            yield error


def tail(path: Path, lines: int) -> list[bytes]:
    """The last lines of a log with their ends, also from older files."""
    found: deque[bytes] = deque(maxlen=max(lines, 0))
    for file in log_files(path):
        with file.open("rb") as stream:
            while line := stream.readline(MAX_LINE_BYTES):
                found.append(line)
    return list(found)


async def follow(
    path: Path, poll_s: float = POLL_S, begin: Callable[[], list[bytes]] = list
) -> AsyncGenerator[bytes, None]:
    """What ``begin`` gives, and what is added to a log from then on, across rotations; never ends."""
    stream = None
    try:
        if path.is_file():
            stream = path.open("rb")
            stream.seek(0, os.SEEK_END)
        before = begin()
        if before:
            yield b"".join(before)
            if stream is not None:  # what was added meanwhile was given already
                stream.seek(0, os.SEEK_END)
        while True:
            data = b"" if stream is None else stream.read(CHUNK_BYTES)
            if data:
                yield data
                continue
            if stream is None or _replaced(path, os.fstat(stream.fileno())):
                if stream is not None:
                    while data := stream.read(CHUNK_BYTES):  # what came between the two looks
                        yield data
                    identity = os.fstat(stream.fileno()).st_ino
                    stream.close()
                    stream = None
                    for older in _since(path, identity):
                        yield older.read_bytes()
                if path.is_file():
                    stream = path.open("rb")
                    continue
            await trio.sleep(poll_s)
    finally:
        if stream is not None:
            stream.close()


def _replaced(path: Path, ours: os.stat_result) -> bool:
    try:
        now = path.stat()
    except FileNotFoundError:
        return False  # in the middle of a rotation
    return (now.st_dev, now.st_ino) != (ours.st_dev, ours.st_ino)


def _since(path: Path, inode: int) -> list[Path]:
    """Whole files that came and went between two looks: those after ``inode``, without the newest."""
    older = [file for file in log_files(path) if file != path]
    names = [file.stat().st_ino for file in older]
    return older[names.index(inode) + 1 :] if inode in names else []
