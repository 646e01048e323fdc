"""Journals: damaged ones, and records that were made on purpose, with checksums that fit."""

from __future__ import annotations

import struct
from typing import Final

from asyncvmm.runtime.journal_file import (
    CUT,
    DIGESTS,
    END,
    FORMAT,
    HEADER,
    INPUT,
    MAGIC,
    START,
    Record,
    encode,
    read_journal,
)
from tools.fuzz.files import crc, read_or_refused, scratch

_FRAME: Final = struct.Struct("<II")
_HEADER: Final = encode(Record(HEADER, 0, 0, {"format": FORMAT, "host": {"mips": 100}}))
_RECORDS: Final = (
    Record(START, 0, 0, {"guest": "a", "config": {"memory": 1 << 20}, "disks": []}),
    Record(INPUT, 5, 1, {"guest": "a", "port": ""}, b"keys\r"),
    Record(DIGESTS, 1 << 40, 0, {"guests": {"a": "00" * 32}}),
    Record(CUT, 1 << 40, 0, {}),
    Record(END, 1 << 41, 3, {}),
)


def framed(bodies: list[bytes]) -> bytes:
    """A journal of these records, with checksums that fit."""
    check, out = 0, bytearray(MAGIC)
    for body in bodies:
        check = crc(body, check)
        out += _FRAME.pack(len(body), check) + body
    return bytes(out)


def _split(data: bytes) -> list[bytes]:
    """Pieces, each with its length (two bytes) before it."""
    pieces, at = [], 0
    while at + 2 <= len(data):
        length = int.from_bytes(data[at : at + 2], "little")
        pieces.append(data[at + 2 : at + 2 + length])
        at += 2 + length
    return pieces


def _joined(pieces: list[bytes]) -> bytes:
    return b"".join([len(piece).to_bytes(2, "little") + piece for piece in pieces])


_BODIES: Final = [_HEADER, *map(encode, _RECORDS)]
SEEDS: Final = {
    "file": (framed(_BODIES), framed(_BODIES[:3]), framed([_HEADER])),
    "records": (_joined(_BODIES[1:]), _joined(_BODIES[1:3]), _joined([*_BODIES[1:4], _BODIES[5]])),
    "header": (_HEADER,),
}


def fuzz_file(data: bytes) -> None:
    """As it is."""
    _read(data)


def fuzz_records(data: bytes) -> None:
    """After a good header, with checksums that fit."""
    _read(framed([_HEADER, *_split(data)]))


def fuzz_header(data: bytes) -> None:
    """Alone, with a checksum that fits."""
    _read(framed([data]))


def _read(data: bytes) -> None:
    path = scratch() / "fuzzed.journal"
    path.write_bytes(data)
    found = read_or_refused(lambda: read_journal(path), path)
    if found is None:
        return
    again = framed([encode(Record(HEADER, 0, 0, found.header))])
    assert again[: len(MAGIC)] == data[: len(MAGIC)]
    assert 0 <= found.cut_bytes < len(data)
    times = [record.time_ns for record in found.records]
    assert times == sorted(times)
    assert all(record.kind != HEADER for record in found.records)
