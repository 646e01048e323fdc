"""The bytes of 9P2000.L: message numbers, and a reader that does not believe them."""

from __future__ import annotations

import errno
import struct
from typing import Final

from asyncvmm_plugins.virtio_9p.tree import Refused

RLERROR: Final = 7
TVERSION: Final = 100
TWRITE: Final = 118
HEADER: Final = struct.Struct("<IBH")  # size, type, tag
ERROR_BYTES: Final = 11
DATA_BYTES: Final = 11  # before the data of Rread and Rreaddir
WRITE_BYTES: Final = 23  # before the data of Twrite
NO_TAG: Final = 0xFFFF
NO_FID: Final = 0xFFFFFFFF
VERSION: Final = b"9P2000.L"
MAX_WALK: Final = 16

# qid.type
QT_FOLDER: Final = 0x80
QT_LINK: Final = 0x02


class Reader:
    """The fields of one message, in order; Refused with EINVAL where it ends too early."""

    def __init__(self, data: bytes) -> None:
        self.data: Final = data
        self.at = 0

    def _take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            raise Refused(errno.EINVAL)
        found = self.data[self.at : end]
        self.at = end
        return found

    def number(self, size: int) -> int:
        """A little-endian number of ``size`` bytes."""
        return int.from_bytes(self._take(size), "little")

    def numbers(self, *sizes: int) -> list[int]:
        """Several."""
        return [self.number(size) for size in sizes]

    def text(self) -> bytes:
        """A counted string."""
        return self._take(self.number(2))

    def rest(self) -> bytes:
        """All that is left."""
        return self._take(len(self.data) - self.at)


def packed(data: bytes) -> bytes:
    """A counted string."""
    return len(data).to_bytes(2, "little") + data


def error(code: int) -> bytes:
    """The body of Rlerror."""
    return code.to_bytes(4, "little")


def message(kind: int, tag: int, body: bytes) -> bytes:
    """A whole message."""
    return HEADER.pack(HEADER.size + len(body), kind, tag) + body
