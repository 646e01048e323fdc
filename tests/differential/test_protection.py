"""Faults of single accesses at boundaries, which larger comparisons found to be wrong once."""

from __future__ import annotations

import pytest

from asyncvmm.arch.hart import SUPERVISOR, Hart
from asyncvmm.arch.mmu import update_context
from asyncvmm.arch.status import (
    FETCH_ACCESS,
    LOAD_ACCESS,
    LOAD_MISALIGNED,
    STORE_ACCESS,
    STORE_MISALIGNED,
)
from asyncvmm.bus.address_map import MmioTarget
from asyncvmm.engine.interpreter import Interpreter
from asyncvmm.isa.tables import BY_NAME
from tools.differential.lockstep import new_hart
from tools.differential.wild import RAM_BASE, RAM_END, RAM_SIZE

CODE = RAM_BASE + 0x1000


def hart_at(pc: int, *words: int) -> Hart:
    """A hart about to execute ``words`` at ``pc``; traps go to the start of RAM."""
    hart = new_hart(bytes(RAM_SIZE))
    hart.ram.write(pc, b"".join(word.to_bytes(4, "little") for word in words))
    hart.mtvec = RAM_BASE
    hart.pc = pc
    update_context(hart)
    return hart


@pytest.mark.parametrize("opened", [0, 1], ids=["closed", "open"])
def test_fetch_is_checked_on_both_sides_of_a_boundary(opened: int) -> None:
    """A 32-bit instruction at an address that is 2 modulo 4 may reach into other PMP rights (3.7.1)."""
    nop = BY_NAME["addi"].encode({"rd": 0, "rs1": 0, "imm": 0})
    pc = CODE + 0x102
    hart = hart_at(pc, nop)
    hart.pmpaddr[0] = pc + 2 >> 2
    hart.pmpcfg[0] = 0x0F  # TOR, all rights
    hart.pmpaddr[1] = RAM_END >> 2
    hart.pmpcfg[1] = 0x0F if opened else 0x09
    hart.pmp_active = True
    hart.priv = SUPERVISOR
    update_context(hart)
    Interpreter().run(hart, 1)
    if opened:
        assert (hart.traps, hart.pc) == (0, pc + 4)
    else:
        assert (hart.mcause, hart.mepc, hart.mtval) == (FETCH_ACCESS, pc, pc + 2)


@pytest.mark.parametrize("name", ["ld", "sd"])
def test_misaligned_into_nothing_is_an_access_fault(name: str) -> None:
    """The first byte that is not there is named (3.1.16)."""
    values = {"rd": 5, "rs1": 6, "rs2": 5, "imm": 0}
    encoding = BY_NAME[name]
    word = encoding.encode({o.name: values[o.name] for o in encoding.operands})
    hart = hart_at(CODE, word)
    hart.x[6] = RAM_END - 3
    Interpreter().run(hart, 1)
    cause = LOAD_ACCESS if name == "ld" else STORE_ACCESS
    assert (hart.mcause, hart.mtval, hart.mepc) == (cause, RAM_END, CODE)


@pytest.mark.parametrize("name", ["lw", "sw"])
def test_misaligned_to_a_device_says_so(name: str) -> None:
    """Devices take aligned accesses only: software may split it."""
    values = {"rd": 5, "rs1": 6, "rs2": 5, "imm": 0}
    encoding = BY_NAME[name]
    word = encoding.encode({o.name: values[o.name] for o in encoding.operands})
    hart = hart_at(CODE, word)
    hart.bus.attach(0x10000000, 0x100, MmioTarget(), "device")
    hart.x[6] = 0x10000002
    Interpreter().run(hart, 1)
    cause = LOAD_MISALIGNED if name == "lw" else STORE_MISALIGNED
    assert (hart.mcause, hart.mtval) == (cause, 0x10000002)
