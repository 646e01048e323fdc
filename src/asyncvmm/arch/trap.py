"""Taking traps and returning from them (privileged architecture, 3.1.6 to 3.1.8 and 4.1)."""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

from asyncvmm.arch.hart import EVENT_CHECK, EVENT_TRAP, MACHINE, SUPERVISOR, USER, Hart
from asyncvmm.arch.mmu import sfence_vma, update_context
from asyncvmm.arch.status import (
    ILLEGAL,
    INTERRUPT,
    MEI,
    MIE,
    MPIE,
    MPP,
    MPP_SHIFT,
    MPRV,
    MSI,
    MTI,
    SEI,
    SIE,
    SPIE,
    SPP,
    SSI,
    TSR,
    TVM,
    TW,
)

# Highest priority first (3.1.9).
_M_EXTERNAL: Final = 11
_M_SOFTWARE: Final = 3
_M_TIMER: Final = 7
_S_EXTERNAL: Final = 9
_S_SOFTWARE: Final = 1
_S_TIMER: Final = 5


def illegal(hart: Hart) -> None:
    """Note an illegal-instruction trap; the engine fills in the instruction's bits for xtval."""
    hart.event |= EVENT_TRAP
    hart.trap_cause = ILLEGAL
    hart.trap_value = 0


def take_exception(hart: Hart, pc: i64) -> None:
    """Enter the handler for the noted trap; ``pc`` is the address of the instruction that trapped."""
    hart.event &= ~EVENT_TRAP
    cause = hart.trap_cause
    delegated = hart.priv != MACHINE and ((hart.medeleg >> cause) & 1) != 0
    _enter(hart, pc, cause, hart.trap_value, delegated)


def take_interrupt(hart: Hart, pc: i64) -> bool:
    """Enter the handler of the most urgent enabled interrupt, if there is one; says whether."""
    pending = hart.pending_interrupts()
    if pending == 0:
        return False
    machine = pending & ~hart.mideleg
    if machine != 0 and (hart.priv != MACHINE or (hart.mstatus & MIE) != 0):
        _enter(hart, pc, INTERRUPT | _most_urgent(machine), 0, False)
        hart.interrupts_taken += 1
        return True
    supervisor = pending & hart.mideleg
    if supervisor == 0 or hart.priv == MACHINE:
        return False
    if hart.priv == USER or (hart.mstatus & SIE) != 0:
        _enter(hart, pc, INTERRUPT | _most_urgent(supervisor), 0, True)
        hart.interrupts_taken += 1
        return True
    return False


def _most_urgent(pending: i64) -> i64:
    if (pending & MEI) != 0:
        return _M_EXTERNAL
    if (pending & MSI) != 0:
        return _M_SOFTWARE
    if (pending & MTI) != 0:
        return _M_TIMER
    if (pending & SEI) != 0:
        return _S_EXTERNAL
    if (pending & SSI) != 0:
        return _S_SOFTWARE
    return _S_TIMER


def _enter(hart: Hart, pc: i64, cause: i64, value: i64, delegated: bool) -> None:
    status = hart.mstatus
    hart.traps += 1
    hart.reservation = -1
    hart.waiting = False
    if delegated:
        hart.sepc = pc
        hart.scause = cause
        hart.stval = value
        status &= ~(SPP | SPIE)
        if hart.priv != USER:
            status |= SPP
        if (status & SIE) != 0:
            status |= SPIE
        status &= ~SIE
        hart.priv = SUPERVISOR
        vector = hart.stvec
    else:
        hart.mepc = pc
        hart.mcause = cause
        hart.mtval = value
        status &= ~(MPP | MPIE)
        status |= hart.priv << MPP_SHIFT
        if (status & MIE) != 0:
            status |= MPIE
        status &= ~MIE
        hart.priv = MACHINE
        vector = hart.mtvec
    hart.mstatus = status
    target = vector & -4
    if (vector & 1) != 0 and cause < 0:
        target += (cause & 0x7FFFFFFFFFFFFFFF) << 2
    hart.pc = target
    update_context(hart)


def mret(hart: Hart) -> None:
    """MRET (3.3.2): back to MPP at mepc; illegal below M-mode."""
    if hart.priv != MACHINE:
        illegal(hart)
        return
    status = hart.mstatus
    hart.priv = (status & MPP) >> MPP_SHIFT
    if (status & MPIE) != 0:
        status |= MIE
    else:
        status &= ~MIE
    status = (status | MPIE) & ~MPP
    if hart.priv != MACHINE:
        status &= ~MPRV
    hart.mstatus = status
    hart.pc = hart.mepc
    update_context(hart)


def sret(hart: Hart) -> None:
    """SRET (3.3.2): back to SPP at sepc; illegal in U-mode, and in S-mode under TSR."""
    status = hart.mstatus
    if hart.priv == USER or (hart.priv == SUPERVISOR and (status & TSR) != 0):
        illegal(hart)
        return
    hart.priv = SUPERVISOR if (status & SPP) != 0 else USER
    if (status & SPIE) != 0:
        status |= SIE
    else:
        status &= ~SIE
    status = (status | SPIE) & ~(SPP | MPRV)
    hart.mstatus = status
    hart.pc = hart.sepc
    update_context(hart)


def wfi(hart: Hart) -> None:
    """WFI (3.3.3): wait unless an enabled interrupt is pending; illegal in U-mode, or under TW."""
    if hart.priv == USER or (hart.priv != MACHINE and (hart.mstatus & TW) != 0):
        illegal(hart)
        return
    if hart.pending_interrupts() == 0:
        hart.waiting = True
    hart.event |= EVENT_CHECK


def fence_vma(hart: Hart, address: i64, asid: i64, has_address: bool, has_asid: bool) -> None:
    """SFENCE.VMA as an instruction: illegal in U-mode, and in S-mode under TVM (3.1.6.5)."""
    if hart.priv == USER or (hart.priv == SUPERVISOR and (hart.mstatus & TVM) != 0):
        illegal(hart)
        return
    sfence_vma(hart, address, asid, has_address, has_asid)
