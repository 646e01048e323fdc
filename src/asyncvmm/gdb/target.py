"""What a stub debugs: harts with registers, memory, break- and watchpoints. All of it stands still."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, Protocol

import attrs

SIGINT: Final = 2
SIGTRAP: Final = 5


class Point(IntEnum):
    """The kinds of ``Z`` packets."""

    SOFTWARE = 0
    HARDWARE = 1
    WRITE = 2
    READ = 3
    ACCESS = 4


@attrs.frozen
class Stop:
    """Why the target stands still: ``hart`` (a number from 0) was the one, ``reason`` in gdb's words
    (``swbreak``, ``hwbreak``, ``watch``, ``rwatch``, ``awatch``, ``replaylog``) or nothing.
    """

    hart: int = 0
    signal: int = SIGTRAP
    reason: str = ""
    address: int = 0  # of a watchpoint


class Target(Protocol):
    """All numbers are unsigned, harts count from 0, addresses are virtual unless it says otherwise."""

    @property
    def hart_count(self) -> int:
        """At least 1."""
        ...

    def describe(self, hart: int) -> str:
        """What people want to know of a hart in a few words."""
        ...

    def read_register(self, hart: int, number: int) -> int:
        """One of ``registers.NUMBERS``."""
        ...

    def write_register(self, hart: int, number: int, value: int) -> bool:
        """False when it cannot be written."""
        ...

    def read_memory(self, hart: int, address: int, length: int) -> bytes:
        """As many of ``length`` bytes as can be read without disturbing anything."""
        ...

    def write_memory(self, hart: int, address: int, data: bytes) -> bool:
        """False, with nothing written, when any of it is not RAM."""
        ...

    def insert(self, point: Point, address: int, length: int) -> bool:
        """False when there are too many."""
        ...

    def remove(self, point: Point, address: int, length: int) -> None:
        """Harmless when it is not there."""
        ...
