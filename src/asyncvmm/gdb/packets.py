"""Packets of the remote serial protocol: ``$payload#checksum``, and what stands between them."""

from __future__ import annotations

from typing import Final

MAX_PAYLOAD: Final = 0x4000  # bytes of a packet, in either direction, before escaping

_ESCAPE: Final = 0x7D
_SPECIAL: Final = b"#$}*"
_HEX: Final = b"0123456789abcdefABCDEF"

# What stands between packets.
ACK: Final = "ack"
NACK: Final = "nack"
INTERRUPT: Final = "interrupt"  # 0x03
BAD: Final = "bad"  # a packet with a wrong checksum, or a longer one than ours may be

Event = bytes | str


def frame(payload: bytes) -> bytes:
    """The packet with ``payload``, which may hold any bytes."""
    body = bytearray()
    for byte in payload:
        if byte in _SPECIAL:
            body += bytes((_ESCAPE, byte ^ 0x20))
        else:
            body.append(byte)
    return b"$" + bytes(body) + b"#%02x" % (sum(body) & 0xFF)


def unescape(body: bytes) -> bytes:
    """The payload of a packet's body; an escape at its end stands for nothing."""
    if _ESCAPE not in body:
        return body
    out = bytearray()
    escaped = False
    for byte in body:
        if escaped:
            out.append(byte ^ 0x20)
            escaped = False
        elif byte == _ESCAPE:
            escaped = True
        else:
            out.append(byte)
    return bytes(out)


class PacketReader:
    """Takes bytes as they come and gives events: payloads (bytes), or one of the words above.

    It never keeps more than one packet of twice MAX_PAYLOAD (all of it may be escaped).
    """

    def __init__(self) -> None:
        self._body: bytearray | None = None  # None: between packets
        self._tail = b""  # what of the checksum is here; only after "#"
        self._ended = False
        self._too_long = False

    def feed(self, data: bytes) -> list[Event]:
        """What ``data`` completes, in order. Whatever is no packet is passed over."""
        events: list[Event] = []
        for byte in data:
            event = self._take(byte)
            if event is not None:
                events.append(event)
        return events

    def _take(self, byte: int) -> Event | None:
        if self._body is None:
            return self._between(byte)
        if self._ended:
            self._tail += bytes((byte,))
            return self._finish() if len(self._tail) == 2 else None
        if byte == 0x23:  # "#"
            self._ended = True
        elif byte == 0x24:  # "$": the one before was cut off
            self._begin()
        elif len(self._body) < 2 * MAX_PAYLOAD:
            self._body.append(byte)
        else:
            self._too_long = True
        return None

    def _between(self, byte: int) -> Event | None:
        if byte == 0x24:
            self._begin()
        elif byte == 0x2B:
            return ACK
        elif byte == 0x2D:
            return NACK
        elif byte == 0x03:
            return INTERRUPT
        return None

    def _begin(self) -> None:
        self._body = bytearray()
        self._tail = b""
        self._ended = self._too_long = False

    def _finish(self) -> Event:
        body, tail = bytes(self._body or b""), self._tail
        self._body = None
        if self._too_long or any(digit not in _HEX for digit in tail):
            return BAD
        if int(tail, 16) != sum(body) & 0xFF:
            return BAD
        payload = unescape(body)
        return payload if len(payload) <= MAX_PAYLOAD else BAD
