"""The realtime clock: virtual time follows a wall clock that the test moves."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from asyncvmm.machine import GuestConfig
from asyncvmm.runtime.conductor import PACE_NS
from asyncvmm.runtime.host import open_host
from asyncvmm.testing import assemble, to_elf

MS = 1_000_000
CUSHION_S = 0.001

# For every byte that comes: say `t`, mtime in milliseconds as eight hexadecimal digits, newline.
TELL_TIME = """
_start:
    li   s0, 0x10000000
    li   t0, 1
    sb   t0, 1(s0)              # IER: received data
    li   t1, 0x0c000028         # PLIC: source 10, for hart 0 in M-mode
    sw   t0, 0(t1)
    li   t1, 0x0c002000
    li   t0, 0x400
    sw   t0, 0(t1)
    li   t0, 0x800
    csrw mie, t0
    j    tell
next:
    wfi
    li   t1, 0x0c200004
    lw   t0, 0(t1)
    sw   t0, 0(t1)
    lbu  t0, 5(s0)
    andi t0, t0, 1
    beqz t0, next
    lbu  t0, 0(s0)
tell:
    li   t0, 't'
    sb   t0, 0(s0)
    li   t0, 0x0200bff8
    ld   t1, 0(t0)
    li   t0, 10000
    divu t1, t1, t0
    li   t2, 32
1:  addi t2, t2, -4
    srl  t3, t1, t2
    andi t3, t3, 15
    la   t4, digits
    add  t4, t4, t3
    lbu  t3, 0(t4)
    sb   t3, 0(s0)
    bnez t2, 1b
    li   t0, 10
    sb   t0, 0(s0)
    j    next
digits: .ascii "0123456789abcdef"
"""


class HandClock:
    """A wall clock that stands still until ``move``."""

    def __init__(self) -> None:
        self._now = 10**15
        self._moved = trio.Event()

    def now_ns(self) -> int:
        return self._now

    async def sleep_ns(self, ns: int) -> None:
        end = self._now + ns
        while self._now < end:
            await self._moved.wait()

    async def move(self, ns: int) -> None:
        # With a cushion, so that the host, which waits for tasks in the same way, comes first.
        await trio.testing.wait_all_tasks_blocked(CUSHION_S)
        self._now += ns
        self._moved.set()
        self._moved = trio.Event()
        await trio.testing.wait_all_tasks_blocked(CUSHION_S)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "tell.elf"
    path.write_bytes(to_elf(assemble(TELL_TIME, 0x80000000)))
    return path


async def test_time_goes_on_while_the_guest_sleeps(program: Path) -> None:
    wall = HandClock()
    async with open_host(wall=wall) as host:
        config = GuestConfig(elf=program, clock="realtime")
        guest = await host.start(config)

        async def told() -> int:
            return int((await guest.console.expect("\n"))[1:], 16)

        await wall.move(5 * MS)
        assert await told() == 0
        expected = 5
        for step_ms in (3, 40, 99, 101, 2500, 3_600_000):
            await wall.move(step_ms * MS)
            expected += step_ms
            await guest.console.send_all(b"x")
            # The guest may run as soon as the wall is ahead of it.
            await wall.move(PACE_NS)
            assert await told() == expected
            expected += PACE_NS // MS
        # It slept: hardly anything ran in that hour.
        assert guest.stats.instructions < 2000


async def test_an_answer_waits_neither_for_the_quantums_end_nor_for_the_wall(program: Path) -> None:
    wall = HandClock()
    with trio.fail_after(60):
        async with open_host(wall=wall) as host:
            guest = await host.start(GuestConfig(elf=program, clock="realtime", harts=2))
            other = await host.start(GuestConfig(elf=program, name="other"))
            await wall.move(5 * MS)
            instants = []
            for _ in range(50):
                for each in (guest, other):
                    await each.console.send_all(b"x")
                    await each.console.expect("\n")
                    instants.append(host.now_ns)
            assert instants[0] < instants[-1]
            assert instants[-1] - instants[0] < host.quantum_ns
