"""DHCP as a server speaks it (RFC 2131, RFC 2132)."""

from __future__ import annotations

import struct
from typing import Final

import attrs

SERVER_PORT: Final = 67
CLIENT_PORT: Final = 68
DISCOVER: Final = 1
OFFER: Final = 2
REQUEST: Final = 3
DECLINE: Final = 4
ACK: Final = 5
NAK: Final = 6
RELEASE: Final = 7
INFORM: Final = 8
LEASE_S: Final = 86_400
MAX_OPTIONS: Final = 1024

_MAGIC: Final = b"\x63\x82\x53\x63"
_FIXED: Final = 240
_BROADCAST: Final = 0x8000


@attrs.frozen
class DhcpRequest:
    """What a client asks."""

    kind: int
    transaction: bytes
    flags: int
    client: bytes  # its IPv4 address, zeros when it has none
    relay: bytes
    mac: bytes
    wanted: bytes | None
    server: bytes | None

    @property
    def wants_broadcast(self) -> bool:
        """Whether it cannot take unicast before it has an address."""
        return bool(self.flags & _BROADCAST)


@attrs.frozen
class DhcpSettings:
    """What a client is told."""

    server: bytes
    mask: bytes
    router: bytes | None
    resolver: bytes
    domain: str
    broadcast: bytes


def parse_request(data: bytes) -> DhcpRequest | None:
    """From a datagram's payload; None when it is not a client's message of DHCP over Ethernet."""
    if len(data) < _FIXED or data[:3] != b"\x01\x01\x06" or data[236:240] != _MAGIC:
        return None
    options = _options(data[_FIXED : _FIXED + MAX_OPTIONS])
    kind = options.get(53, b"")
    if len(kind) != 1:
        return None
    return DhcpRequest(
        kind[0],
        data[4:8],
        data[10] << 8 | data[11],
        data[12:16],
        data[24:28],
        data[28:34],
        _address(options.get(50)),
        _address(options.get(54)),
    )


def _address(value: bytes | None) -> bytes | None:
    return value if value is not None and len(value) == 4 else None


def _options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at < len(data) and data[at] != 255:
        if data[at] == 0:
            at += 1
            continue
        if at + 1 >= len(data):
            break
        end = at + 2 + data[at + 1]
        if end > len(data):
            break
        found.setdefault(data[at], data[at + 2 : end])
        at = end
    return found


def build_reply(
    request: DhcpRequest, kind: int, address: bytes, name: str, settings: DhcpSettings
) -> bytes:
    """The payload of an OFFER, ACK or NAK. ``name`` is the client's, empty for none."""
    given = address if kind != NAK and request.kind != INFORM else bytes(4)
    client = request.client if kind == ACK else bytes(4)
    fixed = struct.pack(">BBBB4sHH", 2, 1, 6, 0, request.transaction, 0, request.flags)
    fixed += client + given + settings.server + request.relay + request.mac + bytes(10 + 64 + 128)
    options = [(53, bytes([kind])), (54, settings.server)]
    if kind != NAK:
        if request.kind != INFORM:
            lease = LEASE_S.to_bytes(4, "big")
            half, most = (LEASE_S // 2).to_bytes(4, "big"), (LEASE_S * 7 // 8).to_bytes(4, "big")
            options += [(51, lease), (58, half), (59, most)]
        options += [(1, settings.mask), (28, settings.broadcast), (6, settings.resolver)]
        if settings.router is not None:
            options.append((3, settings.router))
        options.append((15, settings.domain.encode()))
        if name:
            options.append((12, name.encode()))
    body = b"".join(bytes((code, len(value))) + value for code, value in options) + b"\xff"
    return (fixed + _MAGIC + body).ljust(300, b"\0")
