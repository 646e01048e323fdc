"""What a round consists of, and what comes of each piece of it."""

from __future__ import annotations

import gc
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

from asyncvmm.base.errors import AsyncvmmError
from asyncvmm.engine.interpreter import Interpreter
from asyncvmm.engine.jit.build import ARENA_BYTES, Native
from asyncvmm.engine.jit.engine import TranslatingEngine
from asyncvmm.engine.jit.hot import INTERVAL_S, SAMPLES, HotPages
from asyncvmm.engine.jit.regions import RegionStore
from asyncvmm.plugin.images import default_cache_root
from tools.soak.bare import self_modifying
from tools.soak.linux import LinuxWorks
from tools.soak.work import Trace, Work, perform

MOST_GROWTH: Final = 1.1
MOST_GROWTH_BYTES: Final = 32 << 20
LOOKS: Final = 12  # at a bare-metal guest
SMALL_ARENAS: Final = (400 << 10, 512 << 10, 1 << 20, 4 << 20)
ARENAS: Final = (2 << 20, 8 << 20, ARENA_BYTES, ARENA_BYTES)
_COUNTED: Final = (
    "blocks",
    "regions",
    "changed",
    "evictions",
    "resets",
    "stale",
    "code_bytes_most",
)


@dataclass(frozen=True)
class Trial:
    """Work of a guest with ``harts``, and the settings of the translating engine that does it.

    ``eager`` optimises what is seen once; ``threshold`` is how often a block is interpreted first.
    """

    work: Work
    seed: int
    harts: int
    arena_bytes: int
    eager: bool
    threshold: int


@dataclass(frozen=True)
class Result:
    """What came of a trial; no ``failure`` is none."""

    trial: Trial
    failure: str
    compared: int
    steps: int
    counters: dict[str, int]
    jit_s: float
    interpreter_s: float
    rss_bytes: int

    def values(self) -> dict[str, object]:
        """For JSON."""
        trial = self.trial
        return {
            "work": trial.work.name,
            "seed": trial.seed,
            "harts": trial.harts,
            "arena_bytes": trial.arena_bytes,
            "eager": trial.eager,
            "threshold": trial.threshold,
            "failure": self.failure,
            "compared": self.compared,
            "steps": self.steps,
            "counters": self.counters,
            "jit_s": round(self.jit_s, 2),
            "interpreter_s": round(self.interpreter_s, 2),
            "rss_bytes": self.rss_bytes,
        }

    def __str__(self) -> str:
        trial = self.trial
        counted = ", ".join(f"{name} {self.counters.get(name, 0)}" for name in _COUNTED)
        return (
            f"{trial.work.name} seed {trial.seed} harts {trial.harts} arena {trial.arena_bytes >> 10} KiB"
            f"{' eager' if trial.eager else ''} threshold {trial.threshold}:"
            f" {self.failure or f'{self.compared} digests equal'}, {self.steps / 1e6:.0f} M steps,"
            f" jit {self.jit_s:.1f} s, interpreter {self.interpreter_s:.1f} s; {counted};"
            f" memory {self.rss_bytes >> 20} MiB"
        )


def plan(seed: int, number: int, linux: LinuxWorks | None, scale: float = 1.0) -> list[Trial]:
    """The trials of a round, in any order; without ``linux`` the bare-metal ones only.

    ``scale`` is how much work there is in each, as a part of the usual.
    """
    random = Random(f"{seed} {number}")

    def some(least: int, most: int) -> int:
        return max(1, int(random.randrange(least, most) * scale))

    def trial(work: Work, own: int, harts: int, arenas: tuple[int, ...], eager: float) -> Trial:
        arena, threshold = random.choice(arenas), random.choice((0, 1, 16))
        return Trial(work, own, harts, arena, random.random() < eager, threshold)

    trials = []
    for harts in (1, random.choice((2, 3))):
        own = random.getrandbits(32)
        work = self_modifying(own, some(20_000_000, 60_000_000), LOOKS, harts)
        trials.append(trial(work, own, harts, SMALL_ARENAS, 0.5))
    if linux is not None:
        own, harts = random.getrandbits(32), random.choice((1, 1, 2))
        work = linux.modules(own, some(12, 24), harts)
        trials.append(trial(work, own, harts, ARENAS, 0.3))
        own, harts = random.getrandbits(32), random.choice((1, 1, 2))
        work = linux.compiler(own, some(200, 400), some(10_000, 30_000), harts)
        trials.append(trial(work, own, harts, ARENAS, 0.3))
    random.shuffle(trials)
    return trials


def compare(trial: Trial, store: RegionStore) -> Result:
    """Do the work on both engines. Never raises for what a guest does; see ``Result.failure``."""
    hot = HotPages(0.0003 if trial.eager else INTERVAL_S, 1 if trial.eager else SAMPLES, store)
    native = Native(default_cache_root() / "jit", trial.arena_bytes, hot, threshold=trial.threshold)
    found = expected = Trace((), b"", 0, 0)
    failure = ""
    times = [time.process_time()]
    try:
        found = perform(trial.work, TranslatingEngine(native, native.enter), Random(trial.seed))
        times.append(time.process_time())
        expected = perform(trial.work, Interpreter())
    except AsyncvmmError as error:
        failure = f"{'jit' if len(times) == 1 else 'interpreter'}: {error}"
    times.append(time.process_time())
    counters = native.statistics()
    failure = failure or difference(found, expected)
    if counters["code_bytes_most"] > trial.arena_bytes:
        failure = failure or f"{counters['code_bytes_most']} bytes of code are too many"
    del native, hot
    gc.collect()
    return Result(
        trial,
        failure,
        len(found.digests),
        found.steps,
        counters,
        times[1] - times[0],
        times[-1] - times[1],
        resident_bytes(),
    )


def difference(found: Trace, expected: Trace) -> str:
    """Where two traces part, or nothing."""
    for one, other in zip(found.digests, expected.digests, strict=False):
        if one != other:
            return f"DIFFERENT at step {one[0]}"
    return "" if found == expected else "DIFFERENT in output or length"


def resident_bytes() -> int:
    """This process's memory now."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def growth(memory: list[int]) -> str:
    """Whether the process grew from the first half of the rounds to the second, or nothing.

    The first round is not counted: it loads what the others share.
    """
    first, second = halves(memory)
    if second <= first * MOST_GROWTH + MOST_GROWTH_BYTES:
        return ""
    return f"memory grows from {first >> 20} to {second >> 20} MiB (medians of the halves)"


def halves(memory: list[int]) -> tuple[int, int]:
    """The median of the first and of the second half of all rounds but the first; zeros when few."""
    counted = memory[1:]
    half = len(counted) // 2
    if half < 2:
        return 0, 0
    return int(statistics.median(counted[:half])), int(statistics.median(counted[-half:]))
