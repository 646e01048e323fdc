"""Which attributes of a hart are state that a guest can see, and which are bookkeeping."""

from __future__ import annotations

from typing import Any

from asyncvmm.arch.hart import Hart

# Scalars and vectors that make up a hart's architectural state, in the order of the digest.
SCALARS = (
    "pc",
    "priv",
    "state",
    "mstatus",
    "medeleg",
    "mideleg",
    "mie",
    "mip_lines",
    "mip_soft",
    "mtvec",
    "mcounteren",
    "mcountinhibit",
    "menvcfg",
    "mscratch",
    "mepc",
    "mcause",
    "mtval",
    "stvec",
    "scounteren",
    "senvcfg",
    "sscratch",
    "sepc",
    "scause",
    "stval",
    "satp",
    "pmp_active",
    "reservation",
    "steps",
    "traps",
    "cycle_base",
    "instret_base",
    "slice_start_ns",
    "slice_start_steps",
    "waiting",
)
VECTORS = ("x", "f", "pmpcfg", "pmpaddr")
# Derived, transient, host-side or wiring: not part of the state.
OTHER = frozenset(
    {
        "hart_id",
        "ram",
        "bus",
        "code",
        "environment",
        "tlb",
        "cross_page",
        "fp",
        "data_priv",
        "pmp_open",
        "steps_end",
        "event",
        "trap_cause",
        "trap_value",
        "walk_whole_page",
        "stop",
        "mmio_accesses",
        "tlb_misses",
        "interrupts_taken",
    }
)
# Counters and lines go on through a reset: they belong to the machine's time and its controllers.
KEPT_BY_RESET = frozenset({"steps", "traps", "slice_start_ns", "slice_start_steps", "mip_lines"})


def hart_values(hart: Hart) -> list[int]:
    """All state of a hart as integers; x0's sink register is left out."""
    values = [int(getattr(hart, name)) for name in SCALARS]
    values += [int(hart.fp.flags), int(hart.fp.frm)]
    for name in VECTORS:
        vector: Any = getattr(hart, name)
        length = 32 if name == "x" else len(vector)
        values += [int(vector[i]) for i in range(length)]
    return values


def reset_hart(hart: Hart) -> None:
    """Give ``hart`` the state of a new one, except what a reset keeps."""
    fresh = Hart(hart.hart_id, hart.ram, hart.bus, hart.code)
    for name in SCALARS:
        if name not in KEPT_BY_RESET:
            setattr(hart, name, getattr(fresh, name))
    for name in VECTORS:
        vector: Any = getattr(hart, name)
        values: Any = getattr(fresh, name)
        for i in range(len(values)):  # x may have an engine's words behind it
            vector[i] = values[i]
    hart.fp.flags = 0
    hart.fp.frm = 0
    hart.cycle_base = -hart.steps
    hart.instret_base = -(hart.steps - hart.traps)
    hart.stop = False
    hart.pmp_open = False
