"""What is told of a guest: how it ended, what it has done so far, and what was said about it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Literal

import attrs

from asyncvmm.base.errors import AsyncvmmError
from asyncvmm.hypervisor import MemoryLimitError
from asyncvmm.machine import Ending, EngineStats, Stats

LOG_LINES: Final = 1000


@attrs.frozen
class GuestExit:
    """How a guest ended. ``code`` is the exit code of an ELF or of the test finisher, 0 elsewhere."""

    reason: Literal["poweroff", "closed", "crash", "limit", "memory"]
    code: int = 0
    detail: str = ""

    @classmethod
    def of(cls, ending: Ending | None) -> GuestExit:
        """That of a machine that stopped itself."""
        if ending is None:
            return cls("crash", detail="the machine stopped for no reason")
        return cls("poweroff", ending.code, f"by {ending.by}")

    @classmethod
    def by_error(cls, error: AsyncvmmError) -> GuestExit:
        """That of a machine that cannot go on."""
        if isinstance(error, MemoryLimitError):
            return cls("memory", detail=str(error))
        return cls("crash", detail=f"{type(error).__name__}: {error}")


@attrs.frozen
class GuestStats:
    """Counters since the guest's start."""

    instructions: int
    traps: int
    device_accesses: int
    tlb_misses: int
    virtual_ns: int
    wall_ns: int
    resident_bytes: int
    engine: EngineStats

    @classmethod
    def of(cls, counted: Stats, wall_ns: int) -> GuestStats:
        """What a machine has counted, that ran for so long."""
        return cls(
            instructions=counted.instructions,
            traps=counted.traps,
            device_accesses=counted.device_accesses,
            tlb_misses=counted.tlb_misses,
            virtual_ns=counted.virtual_ns,
            wall_ns=wall_ns,
            resident_bytes=counted.resident_bytes,
            engine=counted.engine,
        )

    @property
    def mips(self) -> float:
        """Million guest instructions per second of wall time that the guest's task ran."""
        return self.instructions * 1e3 / self.wall_ns if self.wall_ns else 0.0


class GuestLog:
    """The last thousand things that a guest's devices and its host had to say about it."""

    def __init__(self) -> None:
        self.lines: Final[deque[str]] = deque(maxlen=LOG_LINES)
        self.listener: Callable[[str, str], None] | None = None  # also called from workers' threads

    def add(self, source: str, text: str) -> None:
        """``source`` is a device's path or a kind of the ledger's events."""
        self.lines.append(f"{source}: {text}")
        if self.listener is not None:
            self.listener(source, text)
