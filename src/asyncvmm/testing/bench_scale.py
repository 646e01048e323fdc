"""What many guests on one host cost: busy ones against one, idle ones by the hour, the host itself.

CPU times are user and system seconds of this process. Costs are compared in pairs of runs that follow
each other, so that a slow spell of the machine hits both, and their median is taken.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from asyncvmm.api.images import image_config
from asyncvmm.arch.hart import EXIT_BUDGET, Hart
from asyncvmm.base.errors import BackendError
from asyncvmm.base.units import MS, PAGE_SIZE, SECOND
from asyncvmm.engine.interpreter import Engine
from asyncvmm.machine import GuestConfig
from asyncvmm.plugin import PluginManager
from asyncvmm.plugin.images import ImageCache, ImageType
from asyncvmm.runtime.guest import Guest
from asyncvmm.runtime.host import DEFAULT_MIPS, Host, open_host

BUSY_STEPS: Final = 256_000_000  # of one run, of all guests together
WARM_STEPS: Final = 5_000_000  # of each guest before the first run: its loop is translated by then
OWN_NS: Final = 300 * MS
OWN_RUNS: Final = 3
SETTLED_NS: Final = 10 * SECOND  # a system that has booted needs some time to come to rest


@attrs.frozen
class BusyCost:
    """CPU nanoseconds per instruction of one busy guest and of ``guests``, medians of ``runs`` pairs;
    ``extra`` is the median of how much more the many cost (0.03: 3 %).
    """

    workload: str
    guests: int
    cpus: int
    runs: int
    one_ns: float
    many_ns: float
    extra: float


@attrs.frozen
class OwnCost:
    """CPU microseconds of the host per quantum of a guest (decision, entry, accounts, turns of the
    event loop), with guests whose instructions cost nothing. ``quantum_steps`` is a mean.
    """

    guests: int
    cpus: int
    quantum_us: float
    quantum_steps: float


@attrs.frozen
class IdleCost:
    """What ``virtual_s`` seconds of ``guests`` idle guests took; ``wakeups`` are interrupts taken by
    all of them, ``resident_bytes`` (as charged, in one trust group) and ``boot_cpu_s`` are of all guests
    too. ``process_bytes`` is the most memory that this process ever had.
    """

    image: str
    guests: int
    virtual_s: float
    wakeups: int
    instructions: int
    resident_bytes: int
    process_bytes: int
    boot_cpu_s: float
    cpu_s: float
    wall_s: float


class InstantEngine(Engine):
    """Executes nothing and says it did: what is left is the host's own time."""

    def run(self, hart: Hart, budget: Any) -> Any:
        """See Engine.run."""
        hart.steps += budget
        return EXIT_BUDGET


def busy_cost(
    elf: Path,
    *,
    guests: int,
    cpus: int,
    runs: int,
    engine: str,
    plugins: PluginManager,
    workers: int | None = None,
    quantum_us: int | None = None,
) -> BusyCost:
    """One guest and many of an ELF that does not end, on hosts of ``cpus`` CPUs, in turn; ``workers``
    and ``quantum_us`` as in ``open_host``.
    """

    async def main() -> BusyCost:
        async with AsyncExitStack() as stack:
            hosts = []
            for count in (1, guests):
                host = await stack.enter_async_context(
                    open_host(
                        cpus=cpus,
                        paused=True,
                        plugins=plugins,
                        workers=workers,
                        quantum_us=quantum_us,
                    )
                )
                hosts.append(host)
                await _start_elves(host, elf, count, engine)
                await _advance(host, WARM_STEPS * count, cpus)
            pairs = []
            for _ in range(runs):
                one, many = [await _advance(host, BUSY_STEPS, cpus) for host in hosts]
                pairs.append((one, many))
            return BusyCost(
                workload=elf.stem.rpartition("-")[0],
                guests=guests,
                cpus=cpus,
                runs=runs,
                one_ns=statistics.median(one for one, _ in pairs),
                many_ns=statistics.median(many for _, many in pairs),
                extra=statistics.median(many / one for one, many in pairs) - 1,
            )

    return trio.run(main)


def own_cost(elf: Path, *, guests: int, cpus: int, plugins: PluginManager) -> OwnCost:
    """The host's own time per quantum with so many busy guests, in one thread: the least of three
    runs.
    """

    async def main() -> OwnCost:
        async with open_host(cpus=cpus, paused=True, plugins=plugins, workers=1) as host:
            residents = await _start_elves(host, elf, guests, "interpreter")
            for guest in residents:
                scheduler = guest.machine.scheduler
                scheduler.use(InstantEngine())
            await host.run_until(host.now_ns + 50 * MS)
            costs = []
            steps = quanta = 0
            for _ in range(OWN_RUNS):
                steps, quanta = -_steps(residents), -_quanta(residents)
                started = time.process_time()
                await host.run_until(host.now_ns + OWN_NS)
                spent = time.process_time() - started
                steps, quanta = steps + _steps(residents), quanta + _quanta(residents)
                costs.append(spent / quanta)
            return OwnCost(guests, cpus, min(costs) * 1e6, steps / quanta)

    return trio.run(main)


def idle_cost(
    image: ImageType,
    *,
    guests: int,
    virtual_s: float,
    cpus: int,
    engine: str,
    plugins: PluginManager,
    booted: Callable[[], None] = lambda: None,
) -> IdleCost:
    """Boot so many guests of an image, one after the other, let them rest, and let time go on."""

    async def main() -> IdleCost:
        async with open_host(cpus=cpus, plugins=plugins) as host:
            started = time.process_time()
            residents = []
            agent = image.boot_files(ImageCache()).run_protocol == "agent"
            for number in range(guests):
                config = image_config(
                    image, commands=agent, name=f"idle{number}", engine=engine, trust_group="idle"
                )
                residents.append(await host.start(config))
                if agent:
                    await residents[-1].wait_ready()
                booted()
            boot = time.process_time() - started
            await host.run_until(host.now_ns + SETTLED_NS)
            wakeups, steps = -_interrupts(residents), -_steps(residents)
            cpu, wall = time.process_time(), time.perf_counter()
            await host.run_until(host.now_ns + int(virtual_s * SECOND))
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            if any(guest.exit is not None for guest in residents):
                raise BackendError("an idle guest ended during the benchmark")
            return IdleCost(
                image=image.name,
                guests=guests,
                virtual_s=virtual_s,
                wakeups=wakeups + _interrupts(residents),
                instructions=steps + _steps(residents),
                resident_bytes=sum(int(g.machine.ram.resident) for g in residents) * PAGE_SIZE,
                process_bytes=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                boot_cpu_s=boot,
                cpu_s=cpu,
                wall_s=wall,
            )

    return trio.run(main)


def format_busy(cost: BusyCost) -> str:
    """A line of text."""
    return (
        f"busy   {cost.workload}, {cost.cpus} CPUs: 1 guest {cost.one_ns:.3f} ns an instruction, "
        f"{cost.guests} guests {cost.many_ns:.3f} ns: {cost.extra:+.1%} (median of {cost.runs} pairs)"
    )


def format_own(cost: OwnCost) -> str:
    """A line of text."""
    return (
        f"host   {cost.cpus} CPUs, {cost.guests} busy guests: {cost.quantum_us:.1f} us of its own "
        f"per quantum of {cost.quantum_steps / 1e6:.2f} M instructions"
    )


def format_idle(cost: IdleCost) -> str:
    """A line of text."""
    each = cost.cpu_s / max(cost.wakeups, 1) * 1e6
    return (
        f"idle   {cost.guests} x {cost.image}: {cost.virtual_s:.0f} s of virtual time in "
        f"{cost.wall_s:.1f} s ({cost.cpu_s:.1f} s CPU); {cost.wakeups} wake-ups, {each:.0f} us and "
        f"{cost.instructions // max(cost.wakeups, 1)} instructions each; "
        f"{cost.resident_bytes >> 20} MiB of guest pages, "
        f"{cost.process_bytes >> 20} MiB of process memory, booted in {cost.boot_cpu_s:.1f} s CPU"
    )


async def _start_elves(host: Host, elf: Path, count: int, engine: str) -> list[Guest]:
    return [
        await host.start(
            GuestConfig.from_mapping(
                {"name": f"busy{number}", "elf": elf, "memory": "64M", "engine": engine}
            )
        )
        for number in range(count)
    ]


async def _advance(host: Host, steps: int, cpus: int) -> float:
    """Let the host's busy guests run about ``steps``: CPU nanoseconds per step."""
    guests = list(host.guests.values())
    rate = DEFAULT_MIPS / 1000 * min(len(guests), cpus)  # steps per ns of virtual time
    before = _steps(guests)
    started = time.process_time_ns()
    quanta = max(round(steps / rate / host.quantum_ns), 1)
    await host.run_until(host.now_ns + quanta * host.quantum_ns)
    spent = time.process_time_ns() - started
    done = _steps(guests) - before
    if len(host.guests) < len(guests) or not done:
        raise BackendError("a busy guest ended during the benchmark")
    return spent / done


def _steps(guests: Sequence[Guest]) -> int:
    return sum(int(hart.steps) for guest in guests for hart in guest.machine.harts)


def _quanta(guests: Sequence[Guest]) -> int:
    return sum(int(guest.machine.scheduler.quanta) for guest in guests)


def _interrupts(guests: Sequence[Guest]) -> int:
    return sum(guest.machine.stats().interrupts for guest in guests)
