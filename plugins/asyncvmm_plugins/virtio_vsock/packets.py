"""The header of every packet (virtio 1.2, 5.10.6)."""

from __future__ import annotations

import struct
from typing import Final

import attrs

HEADER: Final = struct.Struct("<QQIIIHHIII")
HOST_CID: Final = 2
STREAM: Final = 1

REQUEST, RESPONSE, RST, SHUTDOWN, RW, CREDIT_UPDATE, CREDIT_REQUEST = range(1, 8)

# The flags of SHUTDOWN (5.10.6.6): what the sender will not do any more.
NO_RECEIVE: Final = 1
NO_SEND: Final = 2
MASK: Final = (1 << 32) - 1


@attrs.frozen
class Packet:
    """One packet's header."""

    source_cid: int
    target_cid: int
    source_port: int
    target_port: int
    length: int
    kind: int
    operation: int
    flags: int = 0
    buffer_bytes: int = 0
    forwarded: int = 0

    def pack(self) -> bytes:
        """44 bytes."""
        return HEADER.pack(
            self.source_cid,
            self.target_cid,
            self.source_port,
            self.target_port,
            self.length,
            self.kind,
            self.operation,
            self.flags,
            self.buffer_bytes,
            self.forwarded,
        )

    @classmethod
    def parse(cls, data: bytes) -> Packet:
        """From exactly 44 bytes."""
        return cls(*HEADER.unpack(data))
