"""Randomness: one seed, one stream per device path, the same on every machine."""

from __future__ import annotations

import builtins
import hashlib
from typing import Final

_BLOCK: Final = 32


class RandomStream:
    """SHA-256 in counter mode over (seed, path). ``position`` (in bytes) is all of its state."""

    def __init__(self, seed: int, path: str, position: int = 0) -> None:
        self.path: str = path
        self.position: int = position
        self._key: builtins.bytes = hashlib.sha256(
            f"asyncvmm rng\0{seed}\0{path}".encode()
        ).digest()

    def bytes(self, count: int) -> builtins.bytes:
        """The next ``count`` bytes of the stream."""
        if count <= 0:
            return b""
        first = self.position // _BLOCK
        last = (self.position + count - 1) // _BLOCK
        blocks: list[builtins.bytes] = []
        for number in range(first, last + 1):
            blocks.append(hashlib.sha256(self._key + number.to_bytes(16, "little")).digest())
        skip = self.position - first * _BLOCK
        self.position += count
        return b"".join(blocks)[skip : skip + count]

    def below(self, limit: int) -> int:
        """A number 0..``limit``-1 (``limit`` >= 1) from the next 16 bytes; bias below 2**-64."""
        return int.from_bytes(self.bytes(16), "little") % limit
