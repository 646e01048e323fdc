"""Where a guest spends its time: samples of its program counters, by tier, privilege and symbol.

profiler = Profiler(guest.machine)
profiler.resume()
await guest.run(["sha256sum", "/bin/busybox"])
profiler.pause()
symbols = SymbolTable(await read_kernel_symbols(guest))
for row in profiler.profile().by_symbol(symbols)[:10]:
    print(row.samples, row.name)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs

from asyncvmm.arch.hart import MACHINE, SUPERVISOR, USER
from asyncvmm.base.errors import ConfigError
from asyncvmm.engine.sampling import INTERPRETED, OPTIMISED, TRANSLATED, SampledEngine
from asyncvmm.firmware.elf import is_elf
from asyncvmm.firmware.symbols import ADDRESSES, Symbol, SymbolTable, elf_symbols, map_symbols
from asyncvmm.machine import EngineStats, Machine
from asyncvmm.runtime.guest import Guest

# A prime, so that the samples of a loop do not all meet the same instruction of it.
DEFAULT_PERIOD: Final = 20_011
MAX_PERIOD: Final = 10**12
TIERS: Final = {INTERPRETED: "interpreter", TRANSLATED: "translated", OPTIMISED: "optimised"}
PRIVILEGES: Final = {USER: "user", SUPERVISOR: "supervisor", MACHINE: "machine"}
PAGE_MASK: Final = -4096


@attrs.frozen
class Sample:
    """``count`` looks that found hart ``hart`` at ``pc`` (unsigned); ``wall_ns`` led up to them."""

    pc: int
    privilege: str
    hart: int
    tier: str
    count: int
    wall_ns: int


@attrs.frozen
class Row:
    """One line of a table. ``share`` is of all samples, 1.0 being all; ``mips`` is million steps per
    second of wall time; ``optimised`` is how much of the row was found in optimised code, 1.0 being
    all of it."""

    name: str
    samples: int
    share: float
    wall_ns: int
    mips: float
    optimised: float


@attrs.frozen
class Profile:
    """What was seen. A step is an instruction retired or a trap taken.

    ``steps`` ran in ``wall_ns`` of wall time in the engine while the profiler was not paused;
    ``interpreted_steps`` of them by the interpreter. Both are exact; the rest is from ``samples``,
    one every ``period`` steps of a hart. ``engine`` counts since the guest was made.
    """

    period: int
    steps: int
    interpreted_steps: int
    wall_ns: int
    samples: tuple[Sample, ...]
    engine: EngineStats

    @property
    def count(self) -> int:
        """How many samples there are."""
        return sum(sample.count for sample in self.samples)

    def by_tier(self) -> tuple[Row, ...]:
        """Rows by what executed most of the steps before a sample."""
        return self.rows(lambda sample: sample.tier)

    def by_privilege(self) -> tuple[Row, ...]:
        """Rows by privilege mode: user, supervisor, machine."""
        return self.rows(lambda sample: sample.privilege)

    def by_symbol(self, symbols: SymbolTable) -> tuple[Row, ...]:
        """Rows by function; code without a symbol is shown by its page, as in ``[user] 0x10000``."""
        return self.rows(lambda sample: place_name(sample, symbols))

    def rows(self, key: Callable[[Sample], str]) -> tuple[Row, ...]:
        """The samples added up by ``key``, most samples first."""
        counts: dict[str, int] = {}
        walls: dict[str, int] = {}
        optimised: dict[str, int] = {}
        for sample in self.samples:
            name = key(sample)
            counts[name] = counts.get(name, 0) + sample.count
            walls[name] = walls.get(name, 0) + sample.wall_ns
            if sample.tier == TIERS[OPTIMISED]:
                optimised[name] = optimised.get(name, 0) + sample.count
        total = self.count
        return tuple(
            Row(
                name,
                count,
                count / total,
                walls[name],
                count * self.period * 1e3 / walls[name] if walls[name] else 0.0,
                optimised.get(name, 0) / count,
            )
            for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        )

    def collapsed(self, symbols: SymbolTable) -> str:
        """Lines ``privilege;tier;symbol count``, as flame graph tools read them."""
        found = self.rows(lambda s: f"{s.privilege};{s.tier};{place_name(s, symbols)}")
        return "".join(f"{row.name} {row.samples}\n" for row in found)


def place_name(sample: Sample, symbols: SymbolTable) -> str:
    """The function of a sample, or its privilege and page."""
    symbol = symbols.find(sample.pc)
    if symbol is not None:
        return symbol.name
    return f"[{sample.privilege}] {sample.pc & PAGE_MASK:#x}"


class Profiler:
    """Watches one machine's harts from now on; begins paused. The guest cannot tell.

    What it looks at are fixed multiples of ``period`` steps of each hart, so the places and their counts
    are the same in every run of the same guest. Wall times are not, nor what was optimised by then.
    """

    def __init__(self, machine: Machine, *, period: int = DEFAULT_PERIOD) -> None:
        """ConfigError for a period that is out of range, or a machine that is profiled already."""
        if not 1 <= period <= MAX_PERIOD:
            raise ConfigError(f"the period must be 1 to {MAX_PERIOD} steps, not {period}")
        scheduler = machine.scheduler
        if isinstance(scheduler.runner, SampledEngine):
            raise ConfigError(f"guest {machine.config.name} is profiled already")
        self._scheduler = scheduler
        self._code = machine.code
        self._engine = SampledEngine(scheduler.engine, period, len(machine.harts))
        scheduler.runner = self._engine

    def resume(self) -> None:
        """Count what runs from now on."""
        self._engine.enabled = True

    def pause(self) -> None:
        """Do not count what runs from now on."""
        self._engine.enabled = False

    def close(self) -> None:
        """Leave the machine alone; what was seen stays."""
        self._scheduler.use(self._scheduler.engine)

    def profile(self) -> Profile:
        """What was seen so far."""
        engine = self._engine
        samples = [
            Sample(
                pc % ADDRESSES,
                PRIVILEGES[privilege],
                hart,
                TIERS[tier],
                int(bucket.samples),
                int(bucket.wall_ns),
            )
            for (pc, privilege, hart, tier), bucket in engine.buckets.items()
        ]
        samples.sort(key=lambda sample: (-sample.count, sample.pc, sample.hart, sample.tier))
        return Profile(
            int(engine.period),
            int(engine.steps),
            int(engine.interpreted),
            int(engine.wall_ns),
            tuple(samples),
            EngineStats.of(self._scheduler.engine, self._code),
        )


def program_symbols(machine: Machine) -> list[Symbol]:
    """The functions of the ELF files that a machine was given."""
    files = machine.files
    found: list[Symbol] = []
    for file in (files.elf, files.firmware, files.kernel):
        if file is not None and is_elf(file.data):
            found += elf_symbols(file.data, file.name)
    return found


async def read_kernel_symbols(guest: Guest) -> list[Symbol]:
    """The functions of a running Linux and its modules, as its ``/proc/kallsyms`` has them.

    Runs a command in the guest. Empty when the kernel has no such file or hides addresses;
    ConfigError when the guest's image runs no commands.
    """
    done = await guest.run(["cat", "/proc/kallsyms"])
    if done.status != 0:
        return []
    return map_symbols(done.stdout.decode("utf-8", "replace"), f"{guest.name}: /proc/kallsyms")
