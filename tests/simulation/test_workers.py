"""The number of worker threads changes nothing that a guest, or whoever talks to it, can see."""

from __future__ import annotations

import pytest
import trio.testing

from asyncvmm.machine import GuestConfig
from asyncvmm.machine.engines import why_not_jit
from asyncvmm.runtime.host import open_host
from asyncvmm.testing import assemble, to_elf

pytestmark = pytest.mark.skipif(bool(why_not_jit()), reason=f"no translated code: {why_not_jit()}")

# Computes, writes a line through the UART now and then, and echoes what it is sent.
CHATTY = """
_start:
    li   s0, 0x10000000
    li   s5, 0x80010000
    li   s1, 0
1:  addi s1, s1, 1
    mul  s2, s1, s1
    andi s4, s1, 1023
    slli s4, s4, 3
    add  s4, s4, s5
    ld   s6, 0(s4)
    add  s6, s6, s2
    sd   s6, 0(s4)
    lbu  t0, 5(s0)
    andi t1, t0, 1
    beqz t1, 2f
    lbu  t2, 0(s0)
    sb   t2, 0(s0)
2:  slli t3, s1, 52
    bnez t3, 1b
    andi t4, s6, 15
    addi t4, t4, 97
    sb   t4, 0(s0)
    j    1b
"""
STEPS = 3_000_000


async def _run(path, workers: int, engine: str) -> list[object]:
    """Digests, output and events of four guests on two CPUs, one of which is answered."""
    elf = path / "chatty.elf"
    elf.write_bytes(to_elf(assemble(CHATTY, 0x80000000)))
    async with open_host(cpus=2, mips=200, workers=workers, paused=True) as host:
        guests = [
            await host.start(
                GuestConfig(
                    name=f"guest{number}",
                    elf=elf,
                    memory=4 << 20,
                    engine=engine,
                    policy={"cpu.weight": 100 * (number + 1)},
                ),
                max_instructions=STEPS,
            )
            for number in range(4)
        ]
        heard: list[tuple[int, int, bytes]] = []
        for number, guest in enumerate(guests):
            guest.console.taps.append(
                lambda data, number=number: heard.append((host.now_ns, number, data))
            )
        host.resume()

        async def answer() -> None:
            for _ in range(5):
                await guests[0].console.receive_some(1)
                await guests[1].console.send_all(b"!")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            for guest in guests:
                await guest.wait()
        return [
            [guest.machine.digest() for guest in guests],
            heard,
            [(event.time_ns, event.kind, event.guest) for event in host.events],
        ]


async def test_one_worker_or_several_give_the_same_run(tmp_path):
    alone = await _run(tmp_path, 1, "jit")
    assert alone[1], "the guests said something"
    assert await _run(tmp_path, 2, "jit") == alone
    assert await _run(tmp_path, 4, "jit") == alone
    assert await _run(tmp_path, 2, "interpreter") == alone
