"""Decoded code takes bounded memory: what is dropped to make room is decoded again."""

from __future__ import annotations

import pytest

from asyncvmm.machine import Machine
from asyncvmm.machine.engines import why_not_jit
from tests.unit.machine.guest_machines import program_machine

PAGES = 12
# A function in each page, called in turns; each counts its calls in memory beside its code.
FUNCTIONS = "".join(
    f"""
    .balign 4096
f{number}:
    la   t0, n{number}
    ld   t1, 0(t0)
    addi t1, t1, {number + 1}
    sd   t1, 0(t0)
    ret
    .balign 8
n{number}:
    .dword 0
"""
    for number in range(PAGES)
)
PROGRAM = (
    "loop:\n"
    + "".join(f"    call f{number}\n" for number in range(PAGES))
    + "    j loop\n"
    + FUNCTIONS
)
ENGINES = [
    "interpreter",
    pytest.param("jit", marks=pytest.mark.skipif(bool(why_not_jit()), reason=why_not_jit())),
]


def digests(machine: Machine, most: int) -> list[str]:
    found = []
    for steps in (1, 999, 5, 20_000):
        machine.run(max_steps=steps)
        assert len(machine.code) <= most
        found.append(machine.digest())
    return found


@pytest.mark.parametrize("most", [1, 2, 5, 12])
@pytest.mark.parametrize("engine", ENGINES)
def test_few_code_pages_change_nothing(engine: str, most: int) -> None:
    expected = digests(program_machine(PROGRAM, engine="interpreter", harts=2), PAGES + 1)
    machine = program_machine(PROGRAM, engine=engine, harts=2)
    machine.code.max_pages = most
    assert digests(machine, most) == expected
    dropped = machine.stats().engine.decoded_evictions
    assert dropped > 100 if most < 12 else dropped > 10
    resident = sum(machine.ram.has_code(index) for index in range(int(machine.ram.table_size)))
    assert resident <= most


@pytest.mark.parametrize("engine", ENGINES)
def test_nothing_is_dropped_where_there_is_room(engine: str) -> None:
    machine = program_machine(PROGRAM, engine=engine)
    digests(machine, PAGES + 1)
    assert machine.stats().engine.decoded_evictions == 0
