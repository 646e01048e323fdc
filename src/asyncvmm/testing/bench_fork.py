"""What forks of a booted guest cost: time and memory of each, of a restore from disk, of many at work.

Memory is what this process has resident, in the mean over all forks: tables, caches and all.
"""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from asyncvmm.base.errors import BackendError
from asyncvmm.machine import GuestConfig
from asyncvmm.plugin import PluginManager
from asyncvmm.runtime.host import Host, open_host
from asyncvmm.runtime.sharing import trim
from asyncvmm.runtime.snapshots import Snapshot

COMMAND: Final = ("true",)


@attrs.frozen
class ForkCost:
    """Medians in ms. ``fork_bytes`` is what a fork takes before it runs, ``worked_bytes`` after it ran
    a command; ``all_bytes`` what all ``forks`` take together then, and ``process_bytes`` this process
    with everything else. ``guest_bytes`` were resident in the guest that was forked.
    """

    forks: int
    engine: str
    memory_bytes: int
    guest_bytes: int
    fork_ms: float
    fork_most_ms: float
    restore_ms: float
    restore_first_ms: float
    fork_bytes: int
    worked_bytes: int
    all_bytes: int
    process_bytes: int
    command_ms: float


def fork_cost(
    config: GuestConfig,
    folder: Path,
    *,
    forks: int,
    restores: int,
    plugins: PluginManager | None = None,
    advanced: Callable[[], object] = lambda: None,
) -> ForkCost:
    """Boot a guest that runs commands, and fork it; ``folder`` takes a snapshot of it.

    ``advanced`` is called for each fork that has run its command. BackendError where the system does
    not say how much memory a process has.
    """

    async def main() -> ForkCost:
        async with open_host(plugins=plugins) as host:
            guest = await host.start(config)
            await guest.run(COMMAND, check=True)
            with await guest.snapshot() as snapshot:
                snapshot.save(folder / "booted")
                kept: dict[str, Any] = {
                    "forks": forks,
                    "engine": config.engine,
                    "memory_bytes": config.memory,
                    "guest_bytes": snapshot.resident_bytes,
                }
                with host.held():
                    restore_s = [await _restore(host, folder / "booted") for _ in range(restores)]
                kept |= await _forks(host, snapshot, forks, advanced)
        return ForkCost(
            **kept,
            restore_ms=statistics.median(restore_s) * 1e3,
            restore_first_ms=restore_s[0] * 1e3,
        )

    return trio.run(main)


async def _restore(host: Host, place: Path) -> float:
    """Seconds from a folder to a live guest."""
    begun = time.perf_counter()
    with Snapshot.load(place) as snapshot:
        guest = await host.start(snapshot, name="restored", apart=True)
        took = time.perf_counter() - begun
        await guest.aclose()
    return took


async def _forks(
    host: Host, snapshot: Snapshot, count: int, advanced: Callable[[], object]
) -> dict[str, Any]:
    first = resident_bytes()
    times = []
    made = []
    with host.held():
        for number in range(count):
            begun = time.perf_counter()
            made.append(await host.start(snapshot, name=f"fork{number}", apart=True))
            times.append(time.perf_counter() - begun)
        before = resident_bytes()
    begun = time.perf_counter()
    for guest in made:
        await guest.run(COMMAND, check=True)
        advanced()
    took = time.perf_counter() - begun
    after = resident_bytes()
    return {
        "fork_ms": statistics.median(times) * 1e3,
        "fork_most_ms": max(times) * 1e3,
        "fork_bytes": (before - first) // count,
        "worked_bytes": (after - first) // count,
        "all_bytes": after - first,
        "process_bytes": after,
        "command_ms": took / count * 1e3,
    }


def resident_bytes() -> int:
    """What this process has in memory now, garbage collected."""
    gc.collect()
    trim()
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError as error:
        raise BackendError(f"this system does not tell how much memory is used: {error}") from error
    return pages * os.sysconf("SC_PAGE_SIZE")


def format_fork(cost: ForkCost) -> str:
    """A table for people, with what is promised."""
    mib = 1 << 20
    rows = [
        ("fork, median (ms)", f"{cost.fork_ms:.2f}", "5"),
        ("fork, longest (ms)", f"{cost.fork_most_ms:.2f}", ""),
        ("fork, memory (MiB)", f"{cost.fork_bytes / mib:.2f}", "1"),
        ("restore from disk, median (ms)", f"{cost.restore_ms:.1f}", "50"),
        ("restore from disk, first (ms)", f"{cost.restore_first_ms:.1f}", ""),
        ("fork after a command (MiB)", f"{cost.worked_bytes / mib:.2f}", ""),
        (f"{cost.forks} forks after a command each (GiB)", f"{cost.all_bytes / 2**30:.2f}", "4"),
        ("the whole process then (GiB)", f"{cost.process_bytes / 2**30:.2f}", ""),
        ("command in a fork, mean (ms)", f"{cost.command_ms:.1f}", ""),
    ]
    lines = [
        f"a guest of {cost.memory_bytes // mib} MiB, {cost.guest_bytes / mib:.1f} MiB of it resident,"
        f" engine {cost.engine}",
        f"{'':44} {'MEASURED':>9} {'AT MOST':>8}",
    ]
    return "\n".join(lines + [f"{name:44} {value:>9} {most:>8}" for name, value, most in rows])
