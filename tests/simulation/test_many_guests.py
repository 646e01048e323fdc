"""Guests that have nothing to do are passed by: nobody can tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asyncvmm.base.errors import ConfigError
from asyncvmm.machine import GuestConfig
from asyncvmm.runtime.conductor import Conductor
from asyncvmm.runtime.host import open_host
from asyncvmm.testing import assemble, to_elf

MS = 1_000_000
MIPS = 20
# Sleeps for s0 ticks of 100 ns, works a little, and so on.
SLEEPER = """
_start:
    li   s0, {ticks}
    li   s1, 0x0200bff8
    li   s2, 0x02004000
    li   t0, 0x80
    csrw mie, t0
1:  ld   t0, 0(s1)
    add  t0, t0, s0
    sd   t0, 0(s2)
    wfi
    addi s3, s3, 1
    li   t1, {work}
2:  addi t1, t1, -1
    bnez t1, 2b
    j    1b
"""
SPIN = "_start: addi s1, s1, 1\n j _start\n"


def configs(directory: Path) -> list[GuestConfig]:
    made = []
    for number in range(9):
        source = SPIN
        if number % 3:
            source = SLEEPER.format(ticks=1000 + 700 * number, work=50 + 400 * number)
        path = directory / f"p{number}"
        path.write_bytes(to_elf(assemble(source, 0x80000000)))
        made.append(GuestConfig(name=f"g{number}", elf=path, memory="1M"))
    return made


async def digests(made: list[GuestConfig], cpus: int) -> list[str]:
    async with open_host(cpus=cpus, mips=MIPS, paused=True) as host:
        guests = [await host.start(config) for config in made]
        await host.run_until(7 * MS + 12_345)
        await host.run_until(40 * MS)
        assert all(guest.now_ns == 40 * MS for guest in guests)
        for guest in guests:
            usage = guest.usage().cpu
            counted = guest.stats
            assert usage.received_steps == counted.instructions + counted.traps
        return [guest.machine.digest() for guest in guests]


@pytest.mark.parametrize("cpus", [1, 2, 9, 12])
async def test_a_guest_that_is_passed_by_is_what_it_would_be(
    cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = configs(tmp_path)
    passed_by = await digests(made, cpus)
    others = Conductor._others

    def touched(self: Conductor, until_ns: int) -> list[Any]:
        self._touched = True  # so that every guest is looked at in every stretch
        return others(self, until_ns)

    monkeypatch.setattr(Conductor, "_others", touched)
    assert await digests(made, cpus) == passed_by


async def test_a_long_quantum_is_a_long_slice(tmp_path: Path) -> None:
    path = tmp_path / "spin"
    path.write_bytes(to_elf(assemble(SPIN, 0x80000000)))
    quanta = []
    for quantum_us in (1000, 8000):
        async with open_host(cpus=1, mips=MIPS, quantum_us=quantum_us, paused=True) as host:
            assert host.quantum_ns == quantum_us * 1000
            guests = [
                await host.start(GuestConfig(name=f"g{number}", elf=path, memory="1M"))
                for number in range(3)
            ]
            await host.run_until(96 * MS)
            assert {guest.stats.instructions for guest in guests} == {32 * MIPS * 1000}
            quanta.append(sum(guest.machine.scheduler.quanta for guest in guests))
    assert quanta == [96, 12]


async def test_a_cable_is_no_faster_than_the_quantum() -> None:
    with pytest.raises(ConfigError, match="at least one quantum"):
        async with open_host(quantum_us=4000, networks={"fast": {"latency_ns": MS}}):
            pass
