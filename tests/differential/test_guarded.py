"""A guest that is stopped, looked at and resumed by a debugger is the guest that never was.

Random break- and watchpoints, steps and looks are made at a generated program; its digest after as many
steps is that of an undisturbed run, and no breakpoint is ever missed.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.arch.guard import HIT_BREAK
from asyncvmm.engine.interpreter import Interpreter
from asyncvmm.gdb import MachineTarget, Resume
from asyncvmm.gdb.target import Point
from asyncvmm.isa.asm import assemble
from asyncvmm.machine import RAN_HALT, RAN_STEPS, Machine
from tests.unit.gdb.stubs import small_machine

STEPS = 4000
# Loads, stores and atomics of several sizes and alignments to two pages, calls, timer interrupts.
PROGRAM = """
_start:
    la   t0, tick
    csrw mtvec, t0
    li   t0, 0x80
    csrw mie, t0
    csrr s7, mhartid
    slli t0, s7, 3
    li   s6, 0x02004000
    add  s6, s6, t0
    sd   zero, 0(s6)
    csrsi mstatus, 8
    li   s0, 0x80001ff0
    li   s2, 3
loop:
    jal  ra, mix
    c.addi s1, 1
    amoadd.d t1, s1, (s0)
    amoswap.w t1, s1, (s0)
    lr.d t2, (s0)
    sc.d t3, s1, (s0)
    sd   s1, 13(s0)
    ld   t4, 11(s0)
    sb   s1, 16(s0)
    lh   t5, 17(s0)
    fence.i
    bnez s2, loop
.balign 4
mix:
    mul  s3, s1, s2
    xor  s4, s4, s3
    sw   s4, 24(s0)
    lwu  t6, 24(s0)
    ret
.balign 4
tick:
    csrr s8, mcause
    li   s9, 0x0200bff8
    ld   s9, 0(s9)
    addi s9, s9, 3
    sd   s9, 0(s6)
    mret
"""
BEGIN = 0x80000000
END = BEGIN + len(assemble(PROGRAM, BEGIN).data)

_POINTS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from([Point.SOFTWARE, Point.HARDWARE]),
            st.integers(0, (END - BEGIN) // 2 - 1).map(lambda slot: BEGIN + 2 * slot),
            st.just(4),
        ),
        st.tuples(
            st.sampled_from([Point.WRITE, Point.READ, Point.ACCESS]),
            st.integers(0x80001FF0, 0x80002018),
            st.sampled_from([1, 2, 4, 8]),
        ),
    ),
    max_size=5,
)
_VISIT = st.tuples(_POINTS, st.one_of(st.none(), st.integers(0, 1)), st.integers(1, 900))


def undisturbed(harts: int, engine: str) -> str:
    machine = small_machine(PROGRAM, harts=harts, quantum=100, engine=engine)
    assert machine.run(max_steps=STEPS) == RAN_STEPS
    return machine.digest()


def look_around(target: MachineTarget, machine: Machine) -> None:
    for hart in range(target.hart_count):
        for number in (0, 10, 32, 33, 65 + 0x300, 65 + 0xC01, 65 + 0x344):
            target.read_register(hart, number)
        target.read_memory(hart, 0x80001F00, 0x200)
        target.read_memory(hart, 0x02004000, 8)  # a device is not read


@settings(max_examples=60)
@given(
    st.lists(_VISIT, max_size=8), st.sampled_from([1, 2]), st.sampled_from(["interpreter", "jit"])
)
def test_stopping_and_going_on_changes_nothing(
    visits: list[tuple[list[tuple[Point, int, int]], int | None, int]], harts: int, engine: str
) -> None:
    machine = small_machine(PROGRAM, harts=harts, quantum=100, engine=engine)
    target = MachineTarget(machine)
    target.attach()

    def left() -> int:
        return STEPS - sum(int(hart.steps) for hart in machine.harts)

    for points, step, most in visits:
        for point, address, length in points:
            target.insert(point, address, length)
        resume = Resume(None if step is None else step % harts)
        stops = 0
        while left() > 0 and stops < 20:
            target.prepare(resume)
            if machine.run(max_steps=min(most, left())) != RAN_HALT:
                break
            look_around(target, machine)
            target.take_stop()
            stops += 1
        for point, address, length in points:
            target.remove(point, address, length)
    target.detach()
    if left() > 0:
        machine.run(max_steps=left())
    assert machine.digest() == undisturbed(harts, engine)


@settings(max_examples=40)
@given(st.integers(0, (END - BEGIN) // 2 - 1), st.sampled_from([1, 2]))
def test_no_breakpoint_is_missed(slot: int, harts: int) -> None:
    """As often as a run one step at a time comes to an address, a breakpoint there stops."""
    address = BEGIN + 2 * slot
    counted, hits = 0, 0
    machine = small_machine(PROGRAM, harts=harts, quantum=100, engine="interpreter")
    assert isinstance(machine.scheduler.engine, Interpreter)
    steps = [int(hart.steps) for hart in machine.harts]
    places = [int(hart.pc) for hart in machine.harts]
    interrupts = [int(hart.interrupts_taken) for hart in machine.harts]
    for _ in range(1500):
        machine.run(max_steps=1)
        for number, hart in enumerate(machine.harts):
            if int(hart.steps) != steps[number]:
                # A step that takes an interrupt executes nothing at the place where it is taken.
                executed = int(hart.interrupts_taken) == interrupts[number]
                counted += executed and places[number] == address
                steps[number], places[number] = int(hart.steps), int(hart.pc)
                interrupts[number] = int(hart.interrupts_taken)
    target = MachineTarget(small_machine(PROGRAM, harts=harts, quantum=100, engine="jit"))
    target.attach()
    target.insert(Point.SOFTWARE, address, 4)
    while True:
        target.prepare(Resume())
        total = sum(int(hart.steps) for hart in target.machine.harts)
        if total >= 1500 or target.machine.run(max_steps=1500 - total) != RAN_HALT:
            break
        assert target.machine.guard.hit == HIT_BREAK
        stop = target.take_stop()
        assert target.read_register(stop.hart, 32) == address
        hits += 1
    assert hits == counted
