"""Which attributes of a hart are state that a guest can see, and which are bookkeeping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asyncvmm.arch.hart import MACHINE, STARTED, STOPPED, SUPERVISOR, USER, Hart
from asyncvmm.arch.mmu import flush_all
from asyncvmm.arch.pmp import refresh
from asyncvmm.base.errors import ConfigError

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
        "guard",
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


def value_names(count: int) -> list[str]:
    """What each of the ``count`` integers of ``hart_values`` is: ``pc``, ``x10``, ``pmpaddr3``."""
    names = [*SCALARS, "fflags", "frm"]
    left = count - len(names) - 64
    names += [f"{letter}{number}" for letter in "xf" for number in range(32)]
    names += [f"{name}{number}" for name in VECTORS[2:] for number in range(left // 2)]
    return names[:count]


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


def restore_hart(hart: Hart, values: Sequence[int]) -> None:
    """Give a new hart the state that ``hart_values`` told (signed 64-bit words).

    ConfigError, with nothing changed, for what no hart can be in; whatever else is in CSRs is the
    guest's own affair.
    """
    lengths = {"x": 32, **{name: len(getattr(hart, name)) for name in VECTORS if name != "x"}}
    scalars = len(SCALARS)
    if len(values) != scalars + 2 + sum(lengths.values()):
        raise ConfigError(f"saved hart {hart.hart_id}: {len(values)} values")
    named = dict(zip(SCALARS, values, strict=False))
    flags, frm = values[scalars : scalars + 2]
    vectors: dict[str, Sequence[int]] = {}
    at = scalars + 2
    for name, length in lengths.items():
        vectors[name] = values[at : at + length]
        at += length
    possible = (
        named["priv"] in (USER, SUPERVISOR, MACHINE)
        and named["state"] in (STOPPED, STARTED)
        and named["waiting"] in (0, 1)
        and named["pmp_active"] in (0, 1)
        and 0 <= named["slice_start_steps"] <= named["steps"] < 1 << 62
        and 0 <= named["traps"] <= named["steps"]
        and 0 <= named["slice_start_ns"] < 1 << 62
        and named["pc"] & 1 == 0
        and 0 <= flags < 32
        and 0 <= frm < 8
        and vectors["x"][0] == 0
        and all(0 <= config < 256 for config in vectors["pmpcfg"])
    )
    if not possible:
        raise ConfigError(f"saved hart {hart.hart_id}: its state is not possible")
    for name, value in named.items():
        boolean = isinstance(getattr(hart, name), bool)
        setattr(hart, name, bool(value) if boolean else value)
    hart.fp.flags = flags
    hart.fp.frm = frm
    for name, part in vectors.items():
        vector: Any = getattr(hart, name)
        for i, value in enumerate(part):
            vector[i] = value
    refresh(hart)
    flush_all(hart)
