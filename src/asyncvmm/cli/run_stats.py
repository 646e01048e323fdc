"""What ``--stats`` shows."""

from __future__ import annotations

import sys

from asyncvmm.api import EngineStats, Guest


def engine_lines(engine: EngineStats) -> list[str]:
    """What an engine did, a counter to a line."""
    lines = [f"{'engine':<16}{engine.name:>16}"]
    if engine.name == "interpreter":
        return lines
    share = 100 * engine.interpreted / max(engine.steps, 1)
    return [
        *lines,
        f"{'  interpreted':<16}{engine.interpreted:>16,} ({share:.2f} %)",
        f"{'  blocks':<16}{engine.blocks:>16,} in {engine.translation_ns / 1e9:.3f} s",
        f"{'  regions':<16}{engine.regions:>16,} in {engine.optimising_ns / 1e9:.3f} s aside",
        f"{'  cache':<16}{engine.cache_hits:>16,} hits, {engine.cache_misses:,} misses",
        f"{'  void pages':<16}{engine.changed:>16,} written, {engine.evictions:,} evicted",
        f"{'  shared pages':<16}{engine.reused:>16,} translated by other guests",
        f"{'  code':<16}{engine.code_bytes / (1 << 20):>16.1f} MiB"
        f" (most {engine.code_bytes_most / (1 << 20):.1f} MiB)",
    ]


def print_stats(guest: Guest, wall_s: float) -> None:
    """Counters of a guest and its engine, on standard error; ``wall_s`` is the whole command's."""
    stats = guest.stats
    lines = [
        f"{'instructions':<16}{stats.instructions:>16,}",
        f"{'MIPS':<16}{stats.mips:>16.1f}",
        f"{'virtual time':<16}{stats.virtual_ns / 1e9:>16.6f} s",
        f"{'wall time':<16}{wall_s:>16.3f} s (guest {stats.wall_ns / 1e9:.3f} s)",
        f"{'traps':<16}{stats.traps:>16,}",
        f"{'device accesses':<16}{stats.device_accesses:>16,}",
        f"{'TLB misses':<16}{stats.tlb_misses:>16,}",
        f"{'resident memory':<16}{stats.resident_bytes / (1 << 20):>16.1f} MiB",
        *engine_lines(stats.engine),
    ]
    print("\n".join(lines), file=sys.stderr, flush=True)
