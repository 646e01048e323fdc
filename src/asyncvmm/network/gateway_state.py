"""What a snapshot keeps of a gateway, and what becomes in a copy of the connections to outside."""

from __future__ import annotations

from typing import Any, Final

import attrs

from asyncvmm.network.inet import TcpSegment
from asyncvmm.network.saved import Saved, packed
from asyncvmm.network.tcp import TcpConnection

MAX_ARMED: Final = 1 << 14


def save_segment(segment: TcpSegment) -> list[Any]:
    """A segment as plain data."""
    values = list(attrs.astuple(segment))
    values[6] = segment.payload.hex()
    return [-1 if value is None else value for value in values]


def load_segment(saved: Saved, key: str, row: object) -> TcpSegment:
    """What ``save_segment`` gave."""
    if not isinstance(row, list) or len(row) != 9 or type(row[6]) is not str:
        raise saved.wrong(key, "holds a segment that cannot be")
    numbers = [*row[:6], *row[7:]]
    try:
        payload = bytes.fromhex(row[6])
    except ValueError:
        payload = None
    if (
        payload is None
        or len(payload) > 0xFFFF
        or any(type(n) is not int or not -1 <= n <= 0xFFFFFFFF for n in numbers)
    ):
        raise saved.wrong(key, "holds a segment that cannot be")
    source, target, sequence, acknowledged, flags, window = row[:6]
    mss, scale = (None if n < 0 else n for n in row[7:])
    return TcpSegment(source, target, sequence, acknowledged, flags, window, payload, mss, scale)


def save_key(key: tuple[bytes, int, bytes, int] | bytes) -> list[Any]:
    """A connection's key, or the address of a neighbour, as plain data."""
    if isinstance(key, bytes):
        return ["", 0, key.hex(), 0]
    return [key[0].hex(), key[1], key[2].hex(), key[3]]


def save_frames(frames: list[tuple[int, Any]]) -> list[list[Any]]:
    """Frames with their times as plain data."""
    return [[time_ns, packed(packet)] for time_ns, packet in frames]


def load_connections(saved: Saved, most: int) -> dict[tuple[bytes, int, bytes, int], TcpConnection]:
    """The connections by their keys."""
    found = {}
    for *key, values in saved.rows("connections", "bnbna", most):
        source, source_port, target, target_port = key
        connection = TcpConnection.from_saved(Saved(values, f"{saved.where}: connection"))
        if (connection.source_port, connection.target_port) != (source_port, target_port):
            raise saved.wrong("connections", "have other ports than their keys")
        found[source, source_port, target, target_port] = connection
    return found
