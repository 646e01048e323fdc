"""Two harts: interrupts between them, atomics, and what one sees of the other."""

from __future__ import annotations

from tests.conformance.program import DATA, Program, Run

MSIP = 0x0200_0000
ROUNDS = 100
READY, GO, DONE, COUNTER = DATA, DATA + 64, DATA + 128, DATA + 192


def others(p: Program, code: str) -> None:
    """What hart 1 does, out of hart 0's way; it may use any register."""
    p.asm(f"j behind\nothers:\n{code}\nj park\nbehind:")


def wait_for(p: Program, address: int, value: int) -> None:
    """Hart 0 waits until another hart has stored this."""
    again = p.label("again")
    p.li("t5", address)
    p.li("t4", value)
    p.asm(f"{again}:\nld t6, 0(t5)\nbne t6, t4, {again}\nfence")


def test_priv_3_1_5_harts_have_numbers_of_their_own(run: Run) -> None:
    p = Program(harts=2)
    others(p, f"csrr a0, mhartid\nslli a0, a0, 8\naddi a0, a0, 1\nli a1, {DONE}\nsd a0, 0(a1)")
    p.check_csr("mhartid", 0)
    wait_for(p, DONE, 0x101)
    run(p)


def test_priv_3_1_9_a_software_interrupt_wakes_another_hart(run: Run) -> None:
    p = Program(harts=2)
    others(
        p,
        f"""
        li a1, 8
        csrw mie, a1
        li a2, {READY}
        li a3, 1
        sd a3, 0(a2)
        sleep:
        wfi
        csrr a0, mip
        andi a0, a0, 8
        beqz a0, sleep
        li a1, {MSIP + 4}
        sw zero, 0(a1)
        quiet:
        csrr a0, mip
        andi a0, a0, 8
        bnez a0, quiet
        li a1, {DONE}
        sd a3, 0(a1)
        """,
    )
    wait_for(p, READY, 1)
    p.check_memory(DONE, 0, what="still asleep")
    p.check_csr("mip", 0, mask=8, what="hart 0's own MSIP")
    p.store(MSIP + 4, 1, width=4)
    wait_for(p, DONE, 1)
    run(p)


def test_unpriv_8_4_amos_of_two_harts_lose_nothing(run: Run) -> None:
    p = Program(harts=2)
    loop = f"""
    li a0, {COUNTER}
    li a1, {ROUNDS}
    li a2, {{step}}
    {{name}}:
    amoadd.d a3, a2, (a0)
    addi a1, a1, -1
    bnez a1, {{name}}
    """
    others(p, loop.format(name="second", step=1000) + f"li a0, {DONE}\nli a1, 1\nsd a1, 0(a0)")
    p.asm(loop.format(name="first", step=1))
    wait_for(p, DONE, 1)
    p.check_memory(COUNTER, ROUNDS * 1001, what="both harts' additions")
    run(p)


def test_unpriv_8_2_lr_sc_of_two_harts_lose_nothing(run: Run) -> None:
    p = Program(harts=2)
    loop = f"""
    li a0, {COUNTER}
    li a1, {ROUNDS}
    li a2, {{step}}
    {{name}}:
    lr.d a3, (a0)
    add a3, a3, a2
    sc.d a4, a3, (a0)
    bnez a4, {{name}}
    addi a1, a1, -1
    bnez a1, {{name}}
    """
    others(p, loop.format(name="second", step=1000) + f"li a0, {DONE}\nli a1, 1\nsd a1, 0(a0)")
    p.asm(loop.format(name="first", step=1))
    wait_for(p, DONE, 1)
    p.check_memory(COUNTER, ROUNDS * 1001, what="both harts' additions")
    run(p)


def test_unpriv_8_2_another_harts_store_breaks_the_reservation(run: Run) -> None:
    p = Program(harts=2)
    others(
        p,
        f"""
        li a0, {GO}
        second:
        ld a1, 0(a0)
        beqz a1, second
        li a2, {COUNTER}
        sd a1, 0(a2)
        fence
        li a3, {DONE}
        sd a1, 0(a3)
        """,
    )
    p.li("a0", COUNTER)
    p.li("a1", 77)
    p.asm("lr.d a2, (a0)")
    p.store(GO, 5)
    wait_for(p, DONE, 5)
    p.asm("sc.d a3, a1, (a0)\nsltu a3, zero, a3")
    p.check("a3", 1, what="SC after the other hart's store")
    p.check_memory(COUNTER, 5, what="the other hart's value stands")
    run(p)


def test_unpriv_a_4_messages_arrive_in_order_behind_fences(run: Run) -> None:
    p = Program(harts=2)
    others(
        p,
        f"""
        li a0, {COUNTER}
        li a1, {DONE}
        li a2, {GO}
        li a3, 0
        li a4, {ROUNDS}
        second:
        addi a3, a3, 1
        sd a3, 0(a0)
        fence w, w
        sd a3, 0(a1)
        answer:
        ld a5, 0(a2)
        bne a5, a3, answer
        fence r, rw
        bne a3, a4, second
        """,
    )
    p.asm(f"li a0, {COUNTER}\nli a1, {DONE}\nli a2, {GO}\nli a3, 0\nli s0, {ROUNDS}\nli s1, 0")
    p.asm("first:\naddi a3, a3, 1\n1:\nld a4, 0(a1)\nbne a4, a3, 1b\nfence r, r\nld a4, 0(a0)")
    p.asm("sub a4, a4, a3\nor s1, s1, a4\nfence r, w\nsd a3, 0(a2)\nbne a3, s0, first")
    p.check("s1", 0, what="the data behind each flag")
    run(p)


def test_zifencei_3_1_code_stored_by_another_hart(run: Run) -> None:
    """The storing hart fences its data, the executing hart its fetches."""
    p = Program(harts=2)
    code = DATA + 0x1000
    others(
        p,
        f"""
        li a0, {code}
        li a1, {GO}
        second:
        ld a2, 0(a1)
        beqz a2, second
        li a3, 0x00200513
        sw a3, 0(a0)
        fence
        li a4, {DONE}
        sd a2, 0(a4)
        """,
    )
    p.store(code, 0x0010_0513, width=4)  # addi a0, zero, 1
    p.store(code + 4, 0x8582, width=2)  # c.jr a1
    p.li("a2", code)
    p.asm("fence.i\njalr a1, 0(a2)")
    p.check("a0", 1, what="the first version")
    p.store(GO, 1)
    wait_for(p, DONE, 1)
    p.asm("fence.i\njalr a1, 0(a2)")
    p.check("a0", 2, what="the other hart's version")
    run(p)
