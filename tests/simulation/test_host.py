"""Real guests on one simulated host: shares, caps, memory, isolation, ends."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from asyncvmm.base.errors import ConfigError
from asyncvmm.hypervisor import AdmissionError
from asyncvmm.machine import GuestConfig
from asyncvmm.runtime.guest import Guest
from asyncvmm.runtime.host import open_host
from asyncvmm.testing import assemble, to_elf

MS = 1_000_000
SECOND = 1_000_000_000
MIPS = 20  # million steps a second of virtual time: enough, and soon done

SPIN = "_start: addi s1, s1, 1\n j _start\n"
# The timer is always due: an interrupt after every instruction.
STORM = """
_start:
    la   t0, tick
    csrw mtvec, t0
    li   t0, 0x80
    csrw mie, t0
    li   s6, 0x02004000
    sd   zero, 0(s6)
    csrsi mstatus, 8
1:  addi s1, s1, 1
    j    1b
.balign 4
tick:
    addi s4, s4, 1
    mret
"""
# Touches a page of its 8 MiB every 2 us, then spins.
HOG = """
_start:
    li   t0, 0x80002000
    li   t1, 0x80800000
    li   t2, 4096
1:  sd   t0, 0(t0)
    li   t3, 16
2:  addi t3, t3, -1
    bnez t3, 2b
    add  t0, t0, t2
    bltu t0, t1, 1b
3:  j    3b
"""
# Rings the bell of a virtio slot for ever, and asks the serial device as often.
MMIO = """
_start:
    li   s0, 0x10001000
    li   s2, 0x10000000
1:  sw   zero, 0x50(s0)
    lbu  t0, 5(s2)
    j    1b
"""
SOURCES = {"spin": SPIN, "storm": STORM, "hog": HOG, "mmio": MMIO}


class Programs:
    """The ELF of each program, and configs of guests that run it."""

    def __init__(self, directory: Path) -> None:
        for name, source in SOURCES.items():
            (directory / name).write_bytes(to_elf(assemble(source, 0x80000000)))
        self.directory = directory

    def config(self, program: str, name: str = "", **options: Any) -> GuestConfig:
        options = {"memory": "8M", **options}
        return GuestConfig(name=name or program, elf=self.directory / program, **options)


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


def ran(guest: Guest) -> int:
    """Steps of all its harts."""
    counted = guest.stats
    return counted.instructions + counted.traps


async def test_weights_divide_one_cpu_exactly(programs: Programs) -> None:
    async with open_host(cpus=1, mips=MIPS, paused=True) as host:
        guests = [
            await host.start(programs.config("spin", f"w{weight}", policy={"cpu.weight": weight}))
            for weight in (100, 200, 400)
        ]
        await host.run_until(SECOND)
        steps = [ran(guest) for guest in guests]
        assert sum(steps) == pytest.approx(MIPS * 1_000_000, rel=0.001)
        for part, count in zip((1, 2, 4), steps, strict=True):
            assert count == pytest.approx(sum(steps) * part / 7, rel=0.005)
        for guest in guests:
            used = guest.usage().cpu.received_ns
            assert used * MIPS == pytest.approx(ran(guest) * 1000, rel=0.001)
        guests[0].policy.update(cpu_weight=400)
        await host.run_until(2 * SECOND)
        later = [ran(guest) - before for guest, before in zip(guests, steps, strict=True)]
        for part, count in zip((2, 1, 2), later, strict=True):
            assert count == pytest.approx(sum(later) * part / 5, rel=0.01)


async def test_cpu_max_is_never_exceeded_in_a_period(programs: Programs) -> None:
    async with open_host(cpus=2, mips=MIPS, paused=True) as host:
        policy = {"cpu.max": "3000 10000"}
        guest = await host.start(programs.config("spin", policy=policy))
        before = 0
        for period in range(1, 21):
            await host.run_until(period * 10 * MS)
            assert ran(guest) - before == pytest.approx(3 * MS * MIPS // 1000, abs=1)
            before = ran(guest)
        guest.policy.update(cpu_max="max")
        await host.run_until(300 * MS)
        assert ran(guest) - before == 100 * MS * MIPS // 1000
        assert any(event.kind == "throttled" for event in host.events)


async def test_pinned_guests_share_their_cpu_only(programs: Programs) -> None:
    async with open_host(cpus=2, mips=MIPS, paused=True) as host:
        crowd = [
            await host.start(programs.config("spin", f"p{n}", policy={"cpuset.cpus": "0"}))
            for n in range(3)
        ]
        free = await host.start(programs.config("spin", "alone", policy={"cpuset.cpus": "1"}))
        await host.run_until(SECOND // 4)
        whole = SECOND // 4 * MIPS // 1000
        assert ran(free) == whole
        assert sum(ran(guest) for guest in crowd) == pytest.approx(whole, rel=0.001)
        for guest in crowd:
            assert ran(guest) == pytest.approx(whole / 3, rel=0.02)


async def test_memory_max_stops_its_guest_and_no_neighbour(programs: Programs) -> None:
    digests = []
    for hogs in (0, 1):
        async with open_host(cpus=4, mips=MIPS, paused=True) as host:
            spin = await host.start(programs.config("spin"))
            for _ in range(hogs):
                hog = await host.start(programs.config("hog", policy={"memory.max": "1M"}))
            await host.run_until(50 * MS)
            digests.append(spin.machine.digest())
            if hogs:
                assert hog.exit is not None and hog.exit.reason == "memory"
                stops = [event for event in host.events if event.kind == "stopped"]
                assert [event.guest for event in stops] == ["hog"]
                assert "memory" in stops[0].cause
                assert list(host.guests) == ["spin"]
    assert digests[0] == digests[1]


async def test_what_does_not_fit_is_refused_and_changes_nothing(programs: Programs) -> None:
    async with open_host(cpus=1, mips=MIPS, memory="64M", paused=True) as host:
        await host.start(programs.config("spin", "first", policy={"cpu.reserve": 900}))
        refused: list[tuple[dict[str, Any], type[Exception]]] = [
            ({"policy": {"cpu.reserve": 200}}, AdmissionError),
            ({"memory": "60M"}, AdmissionError),
            ({"policy": {"cpuset.cpus": "7"}}, ConfigError),
            ({"policy": {"cpu.wait": 1}}, ConfigError),
            ({"policy": {"io.max": "fast"}}, ConfigError),
            ({"policy": {"io.max.0": "rbps=1M"}}, ConfigError),
            ({"policy": {"device.failure": "host"}}, ConfigError),
            ({"name": "first"}, ConfigError),
        ]
        for options, error in refused:
            with pytest.raises(error):
                await host.start(programs.config("spin", **{"name": "second", **options}))
        assert list(host.guests) == ["first"]
        guest = host.guests["first"]
        before = guest.usage()
        with pytest.raises(AdmissionError):
            guest.policy.update(cpu_reserve=1001, cpu_weight=7)
        assert guest.usage() == before
        await host.start(programs.config("spin", "second", policy={"cpu.reserve": 100}))


@pytest.mark.parametrize("hostile", ["spin", "storm", "hog", "mmio"])
async def test_a_hostile_neighbour_on_a_roomy_host_is_not_noticed(
    programs: Programs, hostile: str
) -> None:
    digests = []
    for neighbours in (0, 2):
        async with open_host(cpus=4, mips=MIPS, paused=True) as host:
            honest = await host.start(programs.config("storm", "honest"))
            for number in range(neighbours):
                await host.start(programs.config(hostile, f"bad{number}"))
            await host.run_until(20 * MS)
            digests.append(honest.machine.digest())
    assert digests[0] == digests[1]


@pytest.mark.parametrize("hostile", ["storm", "mmio"])
async def test_a_storm_costs_its_own_share_only(programs: Programs, hostile: str) -> None:
    async with open_host(cpus=1, mips=MIPS, paused=True) as host:
        honest = await host.start(programs.config("spin"))
        await host.start(programs.config(hostile, "bad"))
        await host.run_until(SECOND // 4)
        assert ran(honest) == pytest.approx(SECOND // 8 * MIPS // 1000, rel=0.005)


class HastyWall:
    """A wall clock on which 20 ms pass whenever somebody looks."""

    def __init__(self) -> None:
        self._now = 0

    def now_ns(self) -> int:
        self._now += 20 * MS
        return self._now

    async def sleep_ns(self, ns: int) -> None:
        await trio.lowlevel.checkpoint()


async def test_a_slow_stretch_can_be_left_in_its_middle(programs: Programs) -> None:
    """Other tasks go on between two pieces of work, see no time pass, and may end the host there."""
    seen: list[tuple[int, int]] = []
    async with (
        open_host(cpus=4, wall=HastyWall(), workers=1) as host,
        trio.open_nursery() as nursery,
    ):
        guests = [await host.start(programs.config("mmio", f"m{n}")) for n in range(4)]
        before = [ran(guest) for guest in guests]

        async def look() -> None:
            while len(seen) < 20 or seen[-1][1] <= seen[0][1]:
                await trio.lowlevel.checkpoint()
                seen.append((host.now_ns, sum(ran(guest) for guest in guests)))
            nursery.cancel_scope.cancel()

        nursery.start_soon(look)
    assert all(guest.exit is not None and guest.exit.reason == "closed" for guest in guests)
    assert seen[-1][1] > seen[0][1] >= sum(before)
    assert any(a[0] == b[0] and a[1] < b[1] for a, b in itertools.pairwise(seen))


async def test_what_tasks_do_in_the_middle_of_a_stretch_waits_for_its_end(
    programs: Programs,
) -> None:
    async with (
        open_host(cpus=4, wall=HastyWall(), workers=1) as host,
        trio.open_nursery() as nursery,
    ):
        for number in range(4):
            await host.start(programs.config("mmio", f"m{number}"))
        instants = []

        async def join(name: str) -> None:
            await host.start(programs.config("spin", name))
            instants.append(host.now_ns)

        for number in range(5):
            for _ in range(7 * number):
                await trio.lowlevel.checkpoint()
            nursery.start_soon(join, f"late{number}")
        while len(instants) < 5:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert all(instant % host.quantum_ns == 0 for instant in instants)


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8, 13, 40])
async def test_cancelling_the_host_at_any_moment_leaves_nothing(
    programs: Programs, turns: int
) -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    with trio.CancelScope() as scope:
        async with open_host(cpus=1, mips=MIPS) as host, trio.open_nursery() as nursery:

            async def start(name: str) -> None:
                await (await host.start(programs.config("spin", name))).wait()

            nursery.start_soon(start, "one")
            nursery.start_soon(start, "two")
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            scope.cancel()
    assert scope.cancelled_caught
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    assert not host.guests
    stopped = host.now_ns
    await trio.testing.wait_all_tasks_blocked()
    assert host.now_ns == stopped
