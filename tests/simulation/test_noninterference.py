"""A guest with reserved CPU cannot tell whether it is alone; under EEVDF nobody gets less than his due."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asyncvmm.machine import GuestConfig
from asyncvmm.plugin import PluginManager, create_plugin_manager
from asyncvmm.runtime.guest import Guest
from asyncvmm.runtime.host import Host, open_host
from tests.simulation.hostile import COMPUTATION, HOSTILE, MS, PING_PONG, SPIN, Programs
from tests.simulation.watched import Watchers

MIPS = 20  # million steps a second of virtual time: enough, and soon done
NEIGHBOURS = tuple(kind for kind in HOSTILE if kind != "napper")
STEPS = 100_000
VICTIMS = {"computation": (COMPUTATION, 1), "ping-pong": (PING_PONG, 2)}


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path)


def ran(guest: Guest) -> int:
    """Steps of all its harts."""
    counted = guest.stats
    return counted.instructions + counted.traps


def test_there_are_seven_bad_neighbours() -> None:
    assert len(NEIGHBOURS) == 7


async def life(
    config: GuestConfig, neighbours: list[GuestConfig], instants: list[int], **host: Any
) -> list[str]:
    """The guest's digests at some instants, and after STEPS steps; all neighbours must have run."""
    digests = []
    for limit in (None, STEPS):
        async with open_host(mips=MIPS, policy="static-partition", paused=True, **host) as opened:
            guest = await opened.start(config, max_instructions=limit)
            beside = [await opened.start(neighbour) for neighbour in neighbours]
            if limit is None:
                for instant in instants:
                    await opened.run_until(instant)
                    digests.append(guest.machine.digest())
                assert all(ran(other) > 1000 for other in beside)
            else:
                while guest.exit is None:
                    await opened.run_until(opened.now_ns + MS)
                assert guest.exit is not None and guest.exit.reason == "limit"
                assert ran(guest) == STEPS
                digests.append(guest.machine.digest())
    return digests


@pytest.mark.parametrize("engine", ["interpreter", "auto"])
@pytest.mark.parametrize("victim", VICTIMS)
async def test_a_reserved_guest_is_the_same_alone_and_beside_seven_hostile_ones(
    programs: Programs, victim: str, engine: str
) -> None:
    source, harts = VICTIMS[victim]
    config = programs.config(
        source, victim, harts=harts, engine=engine, policy={"cpu.reserve": 500}
    )
    bad = [programs.hostile(kind, policy={"cpu.reserve": 200}) for kind in NEIGHBOURS]
    # On the grid, and off it.
    instants = [3 * MS, 7_654_321, 20 * MS]
    alone = await life(config, [], instants, cpus=2)
    assert len(set(alone)) == len(alone)
    assert await life(config, bad, instants, cpus=2) == alone
    assert await life(config, bad[::-1], instants, cpus=2) == alone


async def test_it_is_the_same_with_any_single_neighbour(programs: Programs) -> None:
    policy = {"cpu.reserve": 400}
    config = programs.config(COMPUTATION, "computation", policy=policy)
    alone = await life(config, [], [9 * MS], cpus=1)
    for kind in HOSTILE:
        bad = programs.hostile(kind, policy={"cpu.reserve": 600})
        assert await life(config, [bad], [9 * MS], cpus=1) == alone, kind


async def test_a_guest_with_a_cpu_of_its_own_may_come_last(programs: Programs) -> None:
    policy = {"cpu.reserve": 300, "cpuset.cpus": "1"}
    config = programs.config(COMPUTATION, "computation", policy=policy)
    digests = []
    for kinds in ((), NEIGHBOURS):
        async with open_host(cpus=2, mips=MIPS, policy="static-partition", paused=True) as host:
            for kind in kinds:
                policy = {"cpu.reserve": 100, "cpuset.cpus": "0"}
                await host.start(programs.hostile(kind, policy=policy))
            await host.run_until(5 * MS)
            guest = await host.start(config)
            await host.run_until(17 * MS)
            digests.append(guest.machine.digest())
    assert digests[0] == digests[1]


# -- EEVDF


@pytest.fixture
def watchers() -> Watchers:
    return Watchers()


@pytest.fixture
def plugins(watchers: Watchers) -> PluginManager:
    manager = create_plugin_manager()
    manager.register(watchers, "watchers")
    return manager


async def crowd(host: Host, programs: Programs, kinds: tuple[str, ...]) -> list[Guest]:
    """Hostile guests of different weights."""
    return [
        await host.start(programs.hostile(kind, policy={"cpu.weight": 50 + 70 * number}))
        for number, kind in enumerate(kinds)
    ]


@pytest.mark.parametrize("cpus", [1, 2])
async def test_nobody_falls_behind_his_entitlement_by_more_than_a_quantum(
    programs: Programs, watchers: Watchers, plugins: PluginManager, cpus: int
) -> None:
    async with open_host(
        cpus=cpus, mips=MIPS, policy="watched", plugins=plugins, paused=True
    ) as host:
        (policy,) = watchers.made
        policy.busy = "honest"
        guest = await host.start(programs.config(SPIN, "honest", policy={"cpu.weight": 300}))
        await crowd(host, programs, tuple(HOSTILE))
        await host.run_until(60 * MS)
        assert policy.decisions > 100 and policy.worst > 0
        usage = guest.usage().cpu
        assert usage.entitled_steps is not None
        assert usage.received_steps >= usage.entitled_steps - MIPS * 1000
        if cpus == 1:
            assert policy.shortest > 0


@pytest.mark.parametrize("weight", [100, 10_000])
async def test_time_that_a_sleeper_does_not_use_is_not_lost(
    programs: Programs, weight: int
) -> None:
    """A neighbour that wakes up all the time to do nothing gets what it uses, and no more."""
    async with open_host(cpus=1, mips=MIPS, paused=True) as host:
        honest = await host.start(programs.config(SPIN, "honest", policy={"cpu.weight": weight}))
        napper = await host.start(programs.hostile("napper"))
        await host.run_until(100 * MS)
        whole = 100 * MS * MIPS // 1000
        assert ran(honest) + ran(napper) >= whole * 0.999
        assert ran(napper) > 100


async def test_a_guest_that_sleeps_does_not_wait_for_a_cpu_nor_take_one(programs: Programs) -> None:
    """Pinned to the CPU of a busy guest, while another CPU is free."""
    async with open_host(cpus=2, mips=MIPS, paused=True) as host:
        pinned = {"cpuset.cpus": "0"}
        honest = await host.start(programs.config(SPIN, "honest", policy=pinned))
        sleeper = await host.start(programs.config("_start: wfi\n j _start", "s", policy=pinned))
        await host.run_until(50 * MS)
        assert ran(honest) >= 50 * MS * MIPS // 1000 - 1
        assert sleeper.usage().cpu.steal_ns <= MS


# Runs until just before the next tick of the host's quantum, sleeps across it, and comes back.
YIELDER = """
_start:
    la   t0, tick
    csrw mtvec, t0
    li   s5, 0x0200bff8
    li   s6, 0x02004000
    li   s7, 10000              # a quantum, in ticks of mtime
    li   t0, 0x80
    csrw mie, t0
next:
    ld   t0, 0(s5)
    divu t1, t0, s7
    addi t1, t1, 1
    mul  t1, t1, s7             # the next tick of the host
    addi t2, t1, {nap}
    sd   t2, 0(s6)
    addi t1, t1, -{early}
1:  addi s1, s1, 1
    ld   t0, 0(s5)
    bltu t0, t1, 1b
    wfi
    csrsi mstatus, 8
    nop
    csrci mstatus, 8
    j    next
.balign 4
tick:
    li   t0, -1
    sd   t0, 0(s6)
    mret
"""


@pytest.mark.parametrize(("early", "nap"), [(1, 1), (10, 1), (50, 20), (500, 1), (5, 300)])
@pytest.mark.parametrize("weight", [100, 700])
async def test_yielding_just_before_each_tick_gains_nothing(
    programs: Programs,
    watchers: Watchers,
    plugins: PluginManager,
    weight: int,
    early: int,
    nap: int,
) -> None:
    async with open_host(cpus=1, mips=MIPS, policy="watched", plugins=plugins, paused=True) as host:
        assert host.quantum_ns == MS
        watchers.made[0].busy = "honest"
        source = YIELDER.format(early=early, nap=nap)
        policy = {"cpu.weight": weight}
        cheat = await host.start(programs.config(source, "cheat", policy=policy))
        honest = await host.start(programs.config(SPIN, "honest"))
        for instant in range(1, 60):
            await host.run_until(instant * MS + 777_777)
            steps = host.now_ns * MIPS // 1000
            assert ran(cheat) <= steps * weight / (weight + 100) + MIPS * 1000
        assert ran(cheat) + ran(honest) >= steps * 0.999
        received = cheat.usage().cpu.received_steps
        assert received <= steps * weight / (weight + 100) + MIPS * 1000
        assert received > steps * weight / (weight + 100) / 4
