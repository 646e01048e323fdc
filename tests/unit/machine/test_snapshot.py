"""Run N, save, restore, run M is run N + M: by digest, at any instant, on either engine."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.machine import Machine, MachineState, SnapshotError
from asyncvmm.machine.engines import why_not_jit
from asyncvmm.machine.snapshot import restore, same_values, save
from tests.unit.machine.guest_machines import device_types, program_machine

ENGINES = ["interpreter"] if why_not_jit() else ["interpreter", "jit"]
# Two harts: timer interrupts, software interrupts to each other, a shared counter, the UART.
BUSY = """
_start:
    la   t0, tick
    csrw mtvec, t0
    csrr s0, mhartid
    li   s1, 0x02000000
    slli t1, s0, 3
    li   t2, 0x02004000
    add  s2, t2, t1
    li   s3, 0x0200bff8
    ld   t0, 0(s3)
    addi t0, t0, 7
    sd   t0, 0(s2)
    li   t0, 0x88
    csrw mie, t0
    csrsi mstatus, 8
    li   s4, 0x10000000
    li   s5, 0x80010000
1:  addi s6, s6, 1
    amoadd.d t1, s6, (s5)
    fcvt.d.l ft0, s6
    fdiv.d ft1, ft0, ft1
    andi t2, s6, 127
    bnez t2, 2f
    sb   s6, 0(s4)
    xori t3, s0, 1
    slli t3, t3, 2
    add  t3, t3, s1
    li   t4, 1
    sw   t4, 0(t3)
2:  andi t2, s6, 1023
    bnez t2, 1b
    wfi
    j    1b
.balign 4
tick:
    csrr t5, mcause
    andi t5, t5, 7
    li   t6, 7
    beq  t5, t6, 3f
    slli t5, s0, 2
    add  t5, t5, s1
    sw   zero, 0(t5)
    mret
3:  ld   t5, 0(s3)
    addi t5, t5, 11
    sd   t5, 0(s2)
    addi s7, s7, 1
    mret
"""


def busy(harts: int, engine: str) -> Machine:
    machine = program_machine(BUSY, harts=harts, engine=engine, memory=2 << 20, mips=100)
    machine.scheduler.hosted = True
    return machine


def revived(machine: Machine, values: Any, state: MachineState) -> Machine:
    again = Machine(
        machine.config,
        machine.files,
        device_types(),
        powered=False,
        store=state.pages.shared_pages,
    )
    again.scheduler.hosted = True
    restore(again, MachineState(values, state.pages))
    return again


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("harts", [1, 2])
@given(first_ns=st.integers(1, 150_000), more_ns=st.integers(1, 100_000))
@settings(max_examples=15)
def test_a_restored_machine_goes_on_as_the_first(
    harts: int, engine: str, first_ns: int, more_ns: int
) -> None:
    whole, parted = busy(harts, engine), busy(harts, engine)
    whole.run(first_ns)  # where harts meet in time depends on where a host's stretches end
    whole.run(first_ns + more_ns)
    parted.run(first_ns)
    there = parted.digest()
    state = save(parted)
    assert parted.digest() == there  # taking it changes nothing
    values = json.loads(json.dumps(state.values))
    for other in ENGINES:
        again = revived(parted, values, state)
        again.scheduler.use(busy(1, other).scheduler.engine)
        assert again.digest() == there, same_values(values, save(again).values)
        again.run(first_ns + more_ns)
        assert again.digest() == whole.digest()
    parted.run(first_ns + more_ns)
    assert parted.digest() == whole.digest()  # and neither have the copies touched it
    state.pages.release()


def test_writes_after_a_snapshot_do_not_reach_it() -> None:
    machine = busy(1, "interpreter")
    machine.run(20_000)
    state = save(machine)
    was = state.pages.page_bytes(0x10)
    machine.run(90_000)
    machine.ram.write(0x80010000, b"changed")
    assert state.pages.page_bytes(0x10) == was
    assert revived(machine, state.values, state).ram.read(0x80010000, 4096) == was


@given(data=st.data())
@settings(max_examples=200)
def test_saved_values_that_lie_are_refused_or_only_the_guest_s_problem(data: st.DataObject) -> None:
    machine = busy(2, "interpreter")
    machine.run(10_000)
    state = save(machine)
    values = json.loads(json.dumps(state.values))
    spot: Any = values
    path: list[Any] = []
    while True:
        keys = sorted(spot) if isinstance(spot, dict) else list(range(len(spot)))
        key = data.draw(st.sampled_from(keys))
        path.append(key)
        if not isinstance(spot[key], (dict, list)) or not spot[key] or data.draw(st.booleans()):
            break
        spot = spot[key]
    lie = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(1 << 70), 1 << 70),
        st.sampled_from(["", "ff", "x", [], {}, [1], -1, 0, 1 << 62, 1.5]),
    )
    spot[key] = data.draw(lie)
    try:
        again = revived(machine, values, state)
    except SnapshotError as error:
        assert str(error)
    else:
        again.run(30_000, max_steps=5000)


def test_another_machine_s_values_are_refused() -> None:
    machine = busy(2, "interpreter")
    state = save(machine)
    other = busy(1, "interpreter")
    with pytest.raises(SnapshotError, match="1 harts were expected"):
        revived(other, state.values, state)
    with pytest.raises(SnapshotError, match="unknown version"):
        revived(machine, {**state.values, "version": 99}, state)
