"""The table of a host's guests: who runs, what each one is entitled to, and what it gets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import attrs

from asyncvmm.api.scenarios import GuestResult
from asyncvmm.base.units import MIB
from asyncvmm.runtime.guest import Guest, GuestExit, GuestStats
from asyncvmm.runtime.shares import GuestUsage

HEADINGS: Final = (
    "GUEST",
    "STATE",
    "ENTITLED",
    "RECEIVED",
    "STEAL",
    "MEMORY",
    "SHARED",
    "I/O",
    "MIPS",
)


@attrs.frozen
class Row:
    """One guest. Shares are of one CPU's time, 1.0 being all of it; ``entitled`` is None when the
    policy does not measure it. ``resident`` memory is the guest's own and what it shares; ``saved`` is
    what sharing spares the host. ``accesses`` are of device registers.
    """

    name: str
    state: str
    entitled: float | None
    received: float
    steal: float
    resident_bytes: int
    shared_bytes: int
    saved_bytes: int
    accesses: int
    mips: float


@attrs.frozen
class Snapshot:
    """A guest's counters at one moment."""

    name: str
    state: str
    mips: int
    stats: GuestStats
    usage: GuestUsage


def snapshot(guest: Guest) -> Snapshot:
    """A live guest's counters now."""
    return Snapshot(guest.name, _state(guest), guest.config.mips, guest.stats, guest.usage())


def final(name: str, result: GuestResult) -> Snapshot:
    """A guest's counters at a scenario's end."""
    state = "alive" if result.exit is None else describe_exit(result.exit)
    return Snapshot(name, state, result.config.mips, result.stats, result.usage)


def make_row(now: Snapshot, before: Snapshot | None = None) -> Row:
    """What happened since ``before``, or since the guest's start."""
    then = before.stats if before is not None else None
    used = before.usage.cpu if before is not None else None
    cpu = now.usage.cpu
    span_ns = now.stats.virtual_ns - (then.virtual_ns if then else 0)
    wall_ns = now.stats.wall_ns - (then.wall_ns if then else 0)
    count = now.stats.instructions - (then.instructions if then else 0)
    entitled: float | None = None
    if cpu.entitled_steps is not None:
        steps = cpu.entitled_steps - ((used.entitled_steps or 0) if used else 0)
        entitled = _ratio(steps * 1000, span_ns * now.mips)
    return Row(
        name=now.name,
        state=now.state,
        entitled=entitled,
        received=_ratio(cpu.received_ns - (used.received_ns if used else 0), span_ns),
        steal=_ratio(cpu.steal_ns - (used.steal_ns if used else 0), span_ns),
        resident_bytes=now.stats.resident_bytes,
        shared_bytes=now.usage.memory.shared_bytes,
        saved_bytes=now.usage.memory.saved_bytes,
        accesses=now.stats.device_accesses - (then.device_accesses if then else 0),
        mips=_ratio(count * 1000, wall_ns),
    )


def format_table(rows: Iterable[Row]) -> str:
    """Lines of text with headings, names to the left and numbers to the right."""
    cells = [HEADINGS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def row_json(row: Row) -> dict[str, Any]:
    """For machines."""
    return attrs.asdict(row)


def describe_exit(ended: GuestExit) -> str:
    """In a word or two."""
    return f"{ended.reason} {ended.code}" if ended.code else ended.reason


def _state(guest: Guest) -> str:
    if guest.exit is not None:
        return describe_exit(guest.exit)
    scheduler = guest.machine.scheduler
    busy = any(scheduler.runnable(number) for number in range(guest.config.harts))
    return "running" if busy else "idle"


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.name,
        row.state,
        "-" if row.entitled is None else f"{row.entitled:.1%}",
        f"{row.received:.1%}",
        f"{row.steal:.1%}",
        f"{row.resident_bytes / MIB:.1f} MiB",
        f"{row.shared_bytes / MIB:.1f} MiB",
        f"{row.accesses}",
        f"{row.mips:.1f}",
    )


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole > 0 else 0.0
