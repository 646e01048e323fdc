"""DNS as a small server speaks it (RFC 1035): one question, addresses as answers."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import attrs

PORT: Final = 53
A: Final = 1
AAAA: Final = 28
ANY: Final = 255
INTERNET: Final = 1
NO_ERROR: Final = 0
SERVER_FAILURE: Final = 2
NO_NAME: Final = 3
NOT_IMPLEMENTED: Final = 4
TTL_S: Final = 60
MAX_NAME: Final = 253
MAX_LABEL: Final = 63
MAX_ANSWERS: Final = 16
MAX_QUERY: Final = 1024


@attrs.frozen
class DnsQuery:
    """One question. ``name`` is in lower case and without the last dot, for looking it up."""

    identity: int
    recursion: bool
    opcode: int
    question: bytes
    name: str
    kind: int


def parse_query(data: bytes) -> DnsQuery | None:
    """None unless it is a query with just one question about a name of letters that DNS allows."""
    if not 12 < len(data) <= MAX_QUERY:
        return None
    identity, flags, questions = struct.unpack(">HHH", data[:6])
    if flags & 0x8000 or questions != 1:
        return None
    labels: list[str] = []
    at = 12
    while at < len(data) and data[at] != 0:
        size = data[at]
        label = data[at + 1 : at + 1 + size]
        if size > MAX_LABEL or len(label) < size or not _is_plain(label):
            return None
        labels.append(label.decode("ascii").lower())
        at += 1 + size
    end = at + 5
    name = ".".join(labels)
    if end > len(data) or len(name) > MAX_NAME:
        return None
    kind, family = struct.unpack(">HH", data[at + 1 : end])
    if family != INTERNET:
        return None
    return DnsQuery(identity, bool(flags & 0x100), flags >> 11 & 15, data[12:end], name, kind)


def _is_plain(label: bytes) -> bool:
    return all(byte in b"-_" or bytes([byte]).isalnum() for byte in label)


def build_answer(query: DnsQuery, code: int, addresses: Sequence[bytes] = ()) -> bytes:
    """The reply, with an A record for each address."""
    answers = addresses[:MAX_ANSWERS]
    flags = 0x8080 | query.opcode << 11 | (0x100 if query.recursion else 0) | code
    head = struct.pack(">HHHHHH", query.identity, flags, 1, len(answers), 0, 0)
    records = b"".join(
        struct.pack(">HHHIH", 0xC00C, A, INTERNET, TTL_S, 4) + address for address in answers
    )
    return head + query.question + records
