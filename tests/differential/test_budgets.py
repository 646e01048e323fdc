"""Any split of a budget gives the same states as one run (DESIGN section 5)."""

from __future__ import annotations

from random import Random

import pytest

from asyncvmm.arch.hart import EXIT_BUDGET, EXIT_WFI, Hart
from asyncvmm.arch.mmu import update_context
from asyncvmm.engine.interpreter import Interpreter
from tools.differential.lockstep import load_hart, new_hart
from tools.differential.wild import RAM_BASE, RAM_SIZE, Sequence, WildSequences

STEPS = 60
SPLITS = 4


def start(memory: bytes, sequence: Sequence, system: int = 0) -> Hart:
    """A hart at the sequence's start, where S and U may use all memory too.

    ``system`` seeds modes, delegation and interrupts; 0 leaves it in M-mode without any.
    """
    hart = new_hart(memory)
    hart.ram.write(sequence.start, sequence.code[: RAM_SIZE + RAM_BASE - sequence.start])
    load_hart(hart, sequence)
    if system:
        random = Random(system)
        hart.priv = random.choice((0, 1, 3))
        hart.medeleg = random.getrandbits(16)
        hart.mideleg = random.getrandbits(10) & 0x222
        hart.mie = random.getrandbits(12)
        hart.mip_soft = random.choice((0, random.getrandbits(10) & 0x222))
        hart.mstatus |= random.getrandbits(4) & 0xA
        hart.stvec = sequence.handler + 4
        update_context(hart)
    hart.pmpaddr[15] = 0x3FFFFFFFFFFFFF
    hart.pmpcfg[15] = 0x1F
    hart.pmp_active = True
    return hart


def run(hart: Hart, budget: int) -> bool:
    """Whether it can go on; the exit must be for the right reason."""
    before = hart.steps
    reason = Interpreter().run(hart, budget)
    if reason == EXIT_WFI:
        assert hart.waiting
        return False
    assert reason == EXIT_BUDGET
    assert hart.steps == before + budget
    return True


def snapshot(hart: Hart) -> dict[str, object]:
    """All that a guest could find out, and the counters."""
    names = (
        "pc", "priv", "mstatus", "medeleg", "mideleg", "mie", "mip_lines", "mip_soft", "mtvec",
        "mcounteren", "mcountinhibit", "menvcfg", "mscratch", "mepc", "mcause", "mtval", "stvec",
        "scounteren", "senvcfg", "sscratch", "sepc", "scause", "stval", "satp", "data_priv",
        "reservation", "steps", "traps", "cycle_base", "instret_base", "waiting",
        "interrupts_taken",
    )  # fmt: skip
    state: dict[str, object] = {name: getattr(hart, name) for name in names}
    state["x"] = list(hart.x)[:32]
    state["f"] = list(hart.f)
    state["fcsr"] = (hart.fp.frm, hart.fp.flags)
    state["pmp"] = (list(hart.pmpcfg), list(hart.pmpaddr))
    state["ram"] = hart.ram.read(RAM_BASE, RAM_SIZE)
    return state


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("system", [False, True], ids=["user", "system"])
def test_any_split_is_one_run(seed: int, system: bool) -> None:
    supply = WildSequences(1000 + seed, system)
    choice = Random(seed)
    waited = deeper = interrupts = 0
    for number in range(150):
        memory = supply.memory()
        sequence = supply.sequence(STEPS)
        modes = number + 1 if system else 0
        whole = start(memory, sequence, modes)
        going = run(whole, STEPS)
        waited += not going
        deeper += whole.priv != 3
        interrupts += whole.interrupts_taken
        expected = snapshot(whole)
        for split in range(SPLITS):
            hart = start(memory, sequence, modes)
            left = STEPS
            while left:
                part = 1 if split == 0 else choice.randrange(1, left + 1)
                if not run(hart, part):
                    break
                left -= part
            assert (left == 0) == going
            assert snapshot(hart) == expected, f"seed {seed}, sequence {number}, split {split}"
    if system:
        assert waited > 0
        assert deeper > 20
        assert interrupts > 20


def test_budget_of_a_loop_on_itself() -> None:
    """``j .`` at the end of a page, as the instruction that reaches into the next one, and inside."""
    supply = WildSequences(3)
    base = supply.sequence(1)
    jump = (0x6F).to_bytes(4, "little")
    for at in (RAM_BASE + 0xFFC, RAM_BASE + 0xFFE, RAM_BASE + 0x100):
        hart = start(bytes(RAM_SIZE), Sequence(at, jump, base.x, base.f, 0, 1, RAM_BASE, at, 1000))
        for budget in (1, 2, 997):
            assert run(hart, budget)
            assert hart.pc == at
        assert hart.steps == 1000
        assert hart.traps == 0
