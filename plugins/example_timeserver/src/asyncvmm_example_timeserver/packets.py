"""ARP, IPv4, UDP and SNTP, as much as a time server needs of them. What is anything else is None."""

from __future__ import annotations

import struct
from typing import Final

import attrs

ARP: Final = b"\x08\x06"
IPV4: Final = b"\x08\x00"
WHO_HAS: Final = bytes.fromhex("00010800060400" + "01")
IS_AT: Final = bytes.fromhex("00010800060400" + "02")
UDP: Final = 17
NTP_PORT: Final = 123
NTP_BYTES: Final = 48
CLIENT: Final = 3
SERVER: Final = 4
NTP_EPOCH: Final = 2_208_988_800  # seconds from 1900, where NTP's time begins, to Unix time
SECOND: Final = 1_000_000_000


@attrs.frozen
class Question:
    """A client's request; ``stamp`` is the client's own time, which comes back to it."""

    mac: bytes
    address: bytes
    port: int
    version: int
    poll: int
    stamp: bytes


def arp_answer(frame: bytes, mac: bytes, address: bytes) -> bytes | None:
    """RFC 826: what ``address`` at ``mac`` says to the question who it is."""
    if frame[12:14] != ARP or frame[14:22] != WHO_HAS or frame[38:42] != address:
        return None
    asker = frame[22:32]
    return asker[:6] + mac + ARP + IS_AT + mac + address + asker


def question(frame: bytes, address: bytes) -> Question | None:
    """RFC 4330, section 5: a client's request in UDP over IPv4 without options or fragments."""
    if len(frame) < 42 + NTP_BYTES or frame[12:15] != IPV4 + b"\x45" or frame[23] != UDP:
        return None
    fragment, target = frame[20:22], frame[30:34]
    source_port, target_port, size = struct.unpack(">HHH", frame[34:40])
    if fragment not in (b"\0\0", b"\x40\0") or target != address or target_port != NTP_PORT:
        return None
    if not 8 + NTP_BYTES <= size <= len(frame) - 34 or frame[42] & 7 != CLIENT:
        return None
    version, poll = frame[42] >> 3 & 7, frame[44]
    return Question(frame[6:12], frame[26:30], source_port, version, poll, frame[82:90])


def timestamp(unix_ns: int) -> bytes:
    """RFC 4330, section 3: 32 bits of seconds and 32 of a fraction, which begin again in 2036."""
    seconds, rest = divmod(unix_ns, SECOND)
    return struct.pack(">II", (seconds + NTP_EPOCH) & 0xFFFF_FFFF, (rest << 32) // SECOND)


def answer(asked: Question, mac: bytes, address: bytes, received_ns: int, leaves_ns: int) -> bytes:
    """The frame that answers ``asked``; the times are the server's, in Unix nanoseconds."""
    received, leaves = timestamp(received_ns), timestamp(leaves_ns)
    head = struct.pack(">BBbb", asked.version << 3 | SERVER, 1, asked.poll & 0x7F, -30)
    body = head + bytes(8) + b"VIRT" + received + asked.stamp + received + leaves
    # A UDP checksum of 0 is none (RFC 768).
    udp = struct.pack(">HHHH", NTP_PORT, asked.port, 8 + len(body), 0) + body
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0x4000, 64, UDP, 0)
    ip += address + asked.address
    ip = ip[:10] + _checksum(ip) + ip[12:]
    return asked.mac + mac + IPV4 + ip + udp


def _checksum(header: bytes) -> bytes:
    """RFC 791, of an even number of bytes whose own checksum is 0."""
    total = sum(struct.unpack(f">{len(header) // 2}H", header)) % 0xFFFF
    return struct.pack(">H", 0xFFFF - total)
