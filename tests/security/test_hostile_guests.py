"""Hostile programs stay in their own guest: the host goes on, and so does the guest beside them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncvmm.testing import assemble, to_elf
from asyncvmm.testing.programs import instructions
from tests.security.machines import BASE, MEMORY, contain, from_source, machine, run
from tests.security.strategies import campaign

PROGRAMS = {
    "jumps to nowhere": "li t0, 0x1234567812345678; jr t0",
    "jumps to a device": "la t0, 1f; csrw mtvec, t0; li t0, 0x10000000; jr t0; .balign 4; 1: mret",
    "has no trap vector": ".word 0",
    "faults in its trap vector": "la t0, 1f; csrw mtvec, t0; .balign 4; 1: .word 0",
    "has its trap vector in a device": "li t0, 0x0c000000; csrw mtvec, t0; ecall",
    "has a vectored trap vector at the end of memory": "li t0, -3; csrw mtvec, t0; ecall",
    "is one instruction that jumps to itself": "1: j 1b",
    "waits for nothing": "wfi; j _start",
    "waits for nothing with interrupts on": "csrsi mstatus, 8; li t0, -1; csrw mie, t0; 1: wfi; j 1b",
    "fills its memory": f"""
        la t0, 1f; csrw mtvec, t0
     1: li t0, {BASE + 0x1000}
     2: sd t0, 0(t0); addi t0, t0, 1024; j 2b""",
    "overwrites itself": "la t0, _start; li t1, -1; 1: sw t1, 0(t0); addi t0, t0, 4; j 1b",
    "rewrites the instruction that runs": """
        la t0, 1f; lw t1, 0(t0); la t2, 2f; lw t2, 0(t2)
     1: addi s0, s0, 1; sw t2, 0(t0); xor t3, t1, t2; xor t1, t1, t3; xor t2, t2, t3; j 1b
     2: addi s1, s1, 1""",
    "locks itself out with PMP": """
        li t0, -1; csrw pmpaddr0, t0; li t0, 0x98; csrw pmpcfg0, t0; nop; ld t0, 0(sp)""",
    "returns to every mode": """
        la t0, 1f; csrw mtvec, t0
     1: csrr t0, mcycle; csrw mstatus, t0; mret""",
    "is called all the time": """
        la t0, 1f; csrw mtvec, t0; li t0, -1; csrw mie, t0
        li t0, 0x02000000; li t1, 1; sw t1, 0(t0); li t0, 0x02004000; sd zero, 0(t0)
        csrsi mstatus, 8
     2: j 2b
        .balign 4
     1: mret""",
    "moves its clock": """
        la t0, 1f; csrw mtvec, t0; li t0, 0x80; csrw mie, t0; csrsi mstatus, 8
        li s0, 0x0200bff8; li s1, 0x02004000
     2: rdcycle t0; slli t1, t0, 57; sd t1, 0(s0); neg t1, t1; sd t1, 0(s1)
        li t2, -1; sd t2, 0(s0); j 2b
        .balign 4
     1: mret""",
    "sets a timer for the end of time": """
        li t0, 0x80; csrw mie, t0; li s1, 0x02004000; li t0, -2; sd t0, 0(s1)
        1: wfi; j 1b""",
    "storms its UART": """
        li s0, 0x10000000; li t0, 0x1f; sb t0, 4(s0)
     1: li t1, 8
     2: add t2, s0, t1; sb t0, 0(t2); lbu t3, 0(t2); addi t1, t1, -1; bgez t1, 2b
        addi t0, t0, 37; j 1b""",
    "talks to HTIF in tongues": """
        la s0, tohost; li t0, 2
     1: slli t1, t0, 48; xor t1, t1, t0; sd t1, 0(s0); sd zero, 0(s0)
        li t2, 0x0101000000000041; sd t2, 0(s0); addi t0, t0, 2; j 1b
        .balign 64
     tohost: .dword 0
     fromhost: .dword 0""",
    "gives HTIF wild system calls": f"""
        la s0, tohost; la s1, call; li s2, 1
     1: sd s1, 0(s0); sd zero, 0(s0); li t0, 64; sd t0, 0(s1); sd s2, 8(s1)
        li t1, {BASE + MEMORY - 8}; sd t1, 16(s1); li t1, -1; sd t1, 24(s1)
        slli s2, s2, 1; add s1, s1, s2; j 1b
        .balign 64
     tohost: .dword 0
     fromhost: .dword 0
        .balign 64
     call: .dword 64, 1, 0, 0x7fffffffffffffff""",
    "reboots all the time": "li t0, 0x00100000; li t1, 0x7777; sw t1, 0(t0); 1: j 1b",
    "turns itself off": "li t0, 0x00100000; li t1, 0x5555; sw t1, 0(t0); 1: j 1b",
}


@pytest.mark.parametrize("harts", [1, 2])
@pytest.mark.parametrize("what", PROGRAMS)
def test_a_guest_that(what: str, harts: int) -> None:
    contain(from_source("_start:\n" + PROGRAMS[what], harts=harts))


def test_an_endless_trap_loop_is_counted_as_what_it_is() -> None:
    guest = from_source(PROGRAMS["faults in its trap vector"])
    run(guest, 10_000)
    assert guest.stats().traps > 9_900


@campaign
@given(st.binary(min_size=1, max_size=400))
def test_random_bytes(code: bytes) -> None:
    program = to_elf(assemble(f".byte {','.join(map(str, code))}", BASE))
    contain(machine(program), 4_000, 1_000)


@campaign
@given(st.lists(instructions(), min_size=1, max_size=60), st.booleans())
def test_random_instructions(words: list[int], with_vector: bool) -> None:
    body = "".join(f".4byte {w:#x}\n" if w & 3 == 3 else f".2byte {w:#x}\n" for w in words)
    # The trap handler goes on behind what failed, so that all of the words have their turn.
    source = f"""
        la t0, handler
        csrw mtvec, t0
        csrsi mstatus, 8
        li t0, -1
        csrw mie, t0
        li t0, 0x80100000
        mv sp, t0
        mv s0, t0
        mv a0, t0
        {"" if with_vector else "csrw mtvec, zero"}
    body:
        {body}
        j body
    .balign 4
    handler:
        csrr t6, mepc
        addi t6, t6, 2
        csrw mepc, t6
        mret
    """
    contain(from_source(source), 4_000, 1_000)
    # Where the slices end changes nothing.
    first, second = from_source(source), from_source(source)
    run(first, 1_000)
    for _ in range(1_000):
        run(second, 1)
    if first.ending is None and second.ending is None and not first.harts[0].waiting:
        assert first.digest() == second.digest()
