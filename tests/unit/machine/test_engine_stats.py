"""What a machine says about its engine."""

from __future__ import annotations

import pytest

from tests.unit.machine.guest_machines import program_machine

COUNT = """
    li   a0, 0
loop:
    addi a0, a0, 1
    j    loop
"""


def test_the_interpreter_counts_steps() -> None:
    machine = program_machine(COUNT, engine="interpreter")
    machine.run(max_steps=1000)
    machine.run(max_steps=234)
    counted = machine.stats().engine
    assert (counted.name, counted.steps, counted.interpreted) == ("interpreter", 1234, 1234)
    assert (counted.blocks, counted.regions, counted.code_bytes) == (0, 0, 0)


def test_the_translating_engine_says_what_it_made() -> None:
    pytest.importorskip("llvmlite")
    machine = program_machine(COUNT, engine="jit")
    machine.run(max_steps=10_000)
    counted = machine.stats().engine
    assert (counted.name, counted.steps) == ("jit", 10_000)
    assert 1 <= counted.blocks <= 5
    assert 0 < counted.interpreted < 1000
    assert counted.translation_ns > 0
    assert 0 < counted.code_bytes <= counted.code_bytes_most
    assert counted.evictions == 0
