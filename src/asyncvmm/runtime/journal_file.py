"""The file of a journal: records that are only ever appended, each bounded and checksummed.

    magic (16 bytes)
    record: length u32 | check u32 | kind u8 | turn u16 | time_ns u64 | names u16 | names, JSON | data

Numbers are little-endian. ``check`` is the CRC-32 of what follows it, begun with the check of the record
before, so that no record can be missing, doubled or exchanged. The first record is the header. What a
crash cut off is the end of the file: the reader leaves it out and says so; anything else that is wrong
is a JournalError with the file and the place.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import attrs

from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.storage.bounded import read_bounded

MAGIC: Final = b"asyncvmm-journal"
FORMAT: Final = 2
DEFAULT_LIMIT_BYTES: Final = 256 << 20
MAX_RECORD_BYTES: Final = 4 << 20
MAX_NAMES_BYTES: Final = 0xFFFF
MAX_TURN: Final = 0xFFFF
MAX_TIME_NS: Final = 1 << 62
RESERVE_BYTES: Final = 1 << 16  # kept free below the limit, for the last records

# Kinds. What entered, in the words of the entrance that it came through:
HEADER: Final = 0
START: Final = 1  # a guest was started
CLOSE: Final = 2  # the program ended a guest
INPUT: Final = 3  # bytes for a port
TAKE: Final = 4  # so many bytes were taken from a port, which gives it room
RESIZE: Final = 5  # a port's window
POLICY: Final = 6  # knobs were changed
SHAPE: Final = 7  # a cable was changed
SNAPSHOT: Final = 8  # a guest was made a value, for a later START
CONNECT: Final = 9  # a program connected to a guest
SEND: Final = 10
RECEIVE: Final = 11
FINISH: Final = 12
HANG_UP: Final = 13
ABORT: Final = 14
OPENED: Final = 15  # the outside took a guest's connection, or not
RESOLVED: Final = 16  # the outside's answer about a name
DATAGRAM: Final = 17
CUT: Final = 18  # time stood still here, where it need not have
VSOCK: Final = 19  # a program connects to a guest's vsock, listens there, accepts, or ends that
BALLOON: Final = 20  # a guest is asked for memory, or for its statistics
OUTLET: Final = 21  # the outside gave a network backend something
ANSWER: Final = 22  # a stretch that was to go to ``until_ns`` ended where all slept
GIVEN: Final = 23  # the outside gave a live device something
TAKEN: Final = 24  # the task of a live device took a request, which gives it room
HISTORY: Final = 25  # a guest's past is kept from here on
GOTO: Final = 26  # a guest went back, or forth, in its past
# What is not an input: for whoever replays it, or reads it.
DIGESTS: Final = 32  # what the guests were at this instant
GONE: Final = 33  # a guest ended by itself
LOST: Final = 34  # something entered that cannot be repeated, or did not fit: it ends here
END: Final = 35
KINDS: Final = frozenset((*range(HEADER, GOTO + 1), *range(DIGESTS, END + 1)))
NAMES: Final = {
    value: name
    for name, value in list(globals().items())
    if name.isupper() and type(value) is int and value in KINDS
}

_FRAME: Final = struct.Struct("<II")
_HEAD: Final = struct.Struct("<BHQH")


class JournalError(ConfigError):
    """A journal is damaged, of another format, or of another run; the text names file and place."""


@attrs.frozen
class Record:
    """Something at an instant: ``turn`` counts the stretches that ended at ``time_ns`` before it."""

    kind: int
    time_ns: int
    turn: int
    names: Mapping[str, Any] = attrs.field(factory=dict)
    data: bytes = attrs.field(default=b"", repr=lambda data: f"{len(data)} bytes")


@attrs.frozen
class Recorded:
    """What a journal holds. ``complete`` is whether the run came to its end in good order;
    ``cut_bytes`` is how much a crash left of a record that is not whole.
    """

    path: Path
    header: Mapping[str, Any]
    records: tuple[Record, ...]
    complete: bool
    cut_bytes: int


class JournalFile:
    """Appends records to a new file. BackendError when the disk does not take them."""

    def __init__(self, path: Path | str, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        """ConfigError when there is such a file already, or it cannot be made."""
        self.path: Final = Path(path)
        self.limit_bytes: Final = limit_bytes
        self.size_bytes = len(MAGIC)
        self._check = 0
        try:
            self._file: BinaryIO = open(self.path, "xb")  # noqa: SIM115
        except FileExistsError as error:
            raise ConfigError(f"{self.path}: there is a file already: name another") from error
        except OSError as error:
            raise ConfigError(f"{self.path}: {error.strerror}") from error
        self._write(MAGIC)

    @property
    def folder(self) -> Path:
        """Where the snapshots are that the run began from."""
        return beside(self.path, "snapshots")

    @property
    def disks(self) -> Path:
        """Where it is kept what disks held when their guests were started."""
        return beside(self.path, "disks")

    def name_of(self, folder: Path) -> str:
        """How the journal names a snapshot: one that is kept beside it moves with it."""
        folder = folder.absolute()
        if folder.is_relative_to(self.folder):
            folder = folder.relative_to(self.folder.parent)
        return str(folder)

    def append(self, record: Record, *, last: bool = False) -> bool:
        """Write one record; False, with nothing written, when it would pass the limit.

        ``last`` ones may use what is kept free for them.
        """
        body = encode(record)
        limit = self.limit_bytes - (0 if last else RESERVE_BYTES)
        if len(body) > MAX_RECORD_BYTES or self.size_bytes + _FRAME.size + len(body) > limit:
            return False
        self._check = zlib.crc32(body, self._check)
        self._write(_FRAME.pack(len(body), self._check) + body)
        self.size_bytes += _FRAME.size + len(body)
        return True

    def flush(self) -> None:
        """What was written survives the end of this process."""
        try:
            self._file.flush()
        except OSError as error:
            raise BackendError(f"{self.path}: cannot be written: {error.strerror}") from error

    def sync(self) -> None:
        """What was written survives a power cut."""
        self.flush()
        try:
            os.fdatasync(self._file.fileno())
        except OSError as error:
            raise BackendError(f"{self.path}: cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """No more comes."""
        self.sync()
        self._file.close()

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise BackendError(f"{self.path}: cannot be written: {error.strerror}") from error


def beside(journal: Path, what: str) -> Path:
    """The folder of a journal's snapshots or disks."""
    return journal.absolute().with_name(f"{journal.name}.{what}")


def encode(record: Record) -> bytes:
    """A record's body."""
    names = json.dumps(record.names, sort_keys=True, separators=(",", ":")).encode()
    if record.kind == HEADER:  # its names are as many as a run has: they are its data
        return _HEAD.pack(HEADER, 0, 0, 0) + names
    if len(names) > MAX_NAMES_BYTES:
        # A configuration may be long: what does not fit as names is the data, marked by their absence.
        return _HEAD.pack(record.kind, record.turn, record.time_ns, 0) + names
    head = _HEAD.pack(record.kind, min(record.turn, MAX_TURN), record.time_ns, len(names))
    return head + names + record.data


def decode(body: bytes) -> Record:
    """``encode`` undone; ValueError says what is wrong."""
    if len(body) < _HEAD.size:
        raise ValueError("the record is too short")
    kind, turn, time_ns, length = _HEAD.unpack_from(body)
    if kind not in KINDS:
        raise ValueError(f"a record of the unknown kind {kind}")
    if time_ns >= MAX_TIME_NS:
        raise ValueError(f"an instant of {time_ns} ns")
    data = body[_HEAD.size + length :]
    if length == 0:
        names, data = _mapping(data), b""
    else:
        if _HEAD.size + length > len(body):
            raise ValueError("the names do not fit in the record")
        names = _mapping(body[_HEAD.size : _HEAD.size + length])
    return Record(kind, time_ns, turn, names, data)


def _mapping(text: bytes) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"names that are no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError("names that are no mapping")
    return found


def read_journal(path: Path | str, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> Recorded:
    """All records of a journal, checked. JournalError names the file and the byte at which it is wrong."""
    file = Path(path)
    try:
        content = read_bounded(file, limit_bytes, JournalError)
    except OSError as error:
        raise JournalError(f"{file}: {error.strerror}") from error
    if content[: len(MAGIC)] != MAGIC[: len(content)]:
        raise JournalError(f"{file}: is no journal of asyncvmm")
    records: list[Record] = []
    end = len(MAGIC)
    for start, after, record in _records(file, content):
        if (record.kind == HEADER) != (not records):
            raise JournalError(f"{file}: byte {start}: the header is not the first record")
        if records and record.time_ns < records[-1].time_ns:
            raise JournalError(f"{file}: byte {start}: goes back in time")
        if records and records[-1].kind == END:
            raise JournalError(f"{file}: byte {start}: something follows the end")
        records.append(record)
        end = after
    if not records:
        place = f"{file}: byte {min(end, len(content))}"
        raise JournalError(f"{place}: has no header: the recording was cut off before it began")
    header = records[0].names
    if header.get("format") != FORMAT:
        raise JournalError(f"{file}: of format {header.get('format')!r}, this reads {FORMAT}")
    complete = records[-1].kind == END
    return Recorded(file, header, tuple(records[1:]), complete, len(content) - end)


def _records(file: Path, content: bytes) -> Iterator[tuple[int, int, Record]]:
    """Every whole record with where it begins and ends, without what the file's end cuts off."""
    at, check = len(MAGIC), 0
    while at + _FRAME.size <= len(content):
        length, wanted = _FRAME.unpack_from(content, at)
        start = at + _FRAME.size
        if length == 0 and not any(content[at:]):
            return  # a file system may leave zeros where a crash came before the data
        if length > MAX_RECORD_BYTES:
            raise JournalError(f"{file}: byte {at}: a record of {length} bytes")
        body = content[start : start + length]
        if len(body) < length:
            return
        if zlib.crc32(body, check) != wanted:
            if start + length == len(content):
                return
            raise JournalError(f"{file}: byte {at}: the checksum is wrong")
        check = wanted
        try:
            record = decode(body)
        except ValueError as error:
            raise JournalError(f"{file}: byte {at}: {error}") from error
        yield at, start + length, record
        at = start + length
