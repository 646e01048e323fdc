"""Address translation: Bare, Sv39 and Sv48 (privileged architecture, 4.3 to 4.5)."""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

from asyncvmm.arch.hart import (
    EVENT_CHECK,
    EVENT_HALT,
    EVENT_TRAP,
    MACHINE,
    SUPERVISOR,
    USER,
    Hart,
)
from asyncvmm.arch.pmp import MIXED, physical_limit_exceeded, rights
from asyncvmm.arch.status import (
    ADUE,
    FETCH_ACCESS,
    FETCH_PAGE,
    LOAD_ACCESS,
    LOAD_PAGE,
    MPP,
    MPP_SHIFT,
    MPRV,
    MXR,
    PMP_R,
    PMP_W,
    PMP_X,
    SATP_BARE,
    SATP_SV39,
    STORE_ACCESS,
    STORE_PAGE,
    SUM,
)
from asyncvmm.arch.tlb import FETCH_MASK, INDEX_MASK

LOAD: Final = 0
STORE: Final = 1  # AMOs too
FETCH: Final = 2

PTE_V: Final = 1
PTE_R: Final = 2
PTE_W: Final = 4
PTE_X: Final = 8
PTE_U: Final = 16
PTE_A: Final = 64
PTE_D: Final = 128
_PTE_RESERVED: Final = -(1 << 54)  # N, PBMT and reserved bits: none of these extensions is here
_PPN_MASK: Final = (1 << 44) - 1

PHYSICAL_SPACE: Final = 0


def update_context(hart: Hart) -> None:
    """Recompute what depends on privilege, mstatus and satp. Call after any of them changed."""
    status = hart.mstatus
    priv = hart.priv
    data_priv = priv
    if (status & MPRV) != 0:
        data_priv = (status & MPP) >> MPP_SHIFT
    hart.data_priv = data_priv
    mode = (hart.satp >> 60) & 15
    asid = (hart.satp >> 44) & 0xFFFF
    data_mode = data_priv
    if data_priv == SUPERVISOR and (status & SUM) != 0:
        data_mode = 2
    if (status & MXR) != 0:
        data_mode += 4
    fetch_space: i64 = PHYSICAL_SPACE
    data_space: i64 = PHYSICAL_SPACE
    if mode != SATP_BARE:
        if priv != MACHINE:
            fetch_space = 1 + asid
        if data_priv != MACHINE:
            data_space = 1 + asid
    hart.tlb.select(data_space, data_mode, fetch_space, priv)
    hart.event |= EVENT_CHECK


def fault(hart: Hart, cause: i64, address: i64) -> i64:
    """Note a trap for the engine's loop; returns -1, which no physical address is."""
    hart.event |= EVENT_TRAP
    hart.trap_cause = cause
    hart.trap_value = address
    return -1


def _page_fault(hart: Hart, address: i64, access: i64) -> i64:
    if access == LOAD:
        return fault(hart, LOAD_PAGE, address)
    if access == STORE:
        return fault(hart, STORE_PAGE, address)
    return fault(hart, FETCH_PAGE, address)


def access_fault(hart: Hart, address: i64, access: i64) -> i64:
    """An access fault of the kind that fits ``access``; returns -1."""
    if access == LOAD:
        return fault(hart, LOAD_ACCESS, address)
    if access == STORE:
        return fault(hart, STORE_ACCESS, address)
    return fault(hart, FETCH_ACCESS, address)


def translate(hart: Hart, virtual: i64, access: i64, length: i64) -> i64:
    """The physical address of ``length`` bytes that lie in one page, or -1 with a trap noted.

    ``walk_whole_page`` says afterwards whether the answer, rights included, holds for the whole page.
    """
    priv = hart.priv if access == FETCH else hart.data_priv
    mode = (hart.satp >> 60) & 15
    if priv == MACHINE or mode == SATP_BARE:
        if physical_limit_exceeded(virtual):
            return access_fault(hart, virtual, access)
        return _protect(hart, virtual, virtual, access, length, priv)
    physical = _walk(hart, virtual, access, priv, mode)
    if physical == -1:
        return -1
    return _protect(hart, physical, virtual, access, length, priv)


def load_address(hart: Hart, virtual: i64, length: i64) -> i64:
    """``translate`` for a load, from the TLB when it is there, else into it."""
    tlb = hart.tlb
    i = (virtual >> 12) & INDEX_MASK
    if tlb.load_walked[i] == ((virtual & -4096) | tlb.context):
        hart.walk_whole_page = True
        return (tlb.load_ppns[i] << 12) | (virtual & 4095)
    physical = translate(hart, virtual, LOAD, length)
    if physical != -1 and hart.walk_whole_page and (hart.event & EVENT_HALT) == 0:
        tlb.enter_load(virtual, physical >> 12)
    return physical


def store_address(hart: Hart, virtual: i64, length: i64) -> i64:
    """``translate`` for a store or AMO, from the TLB when it is there, else into it."""
    tlb = hart.tlb
    i = (virtual >> 12) & INDEX_MASK
    if tlb.store_walked[i] == ((virtual & -4096) | tlb.context):
        hart.walk_whole_page = True
        return (tlb.store_ppns[i] << 12) | (virtual & 4095)
    physical = translate(hart, virtual, STORE, length)
    if physical != -1 and hart.walk_whole_page and (hart.event & EVENT_HALT) == 0:
        tlb.enter_store(virtual, physical >> 12)
    return physical


def fetch_address(hart: Hart, pc: i64) -> i64:
    """``translate`` for what is executed at ``pc``, from the TLB when it is there, else into it."""
    tlb = hart.tlb
    i = (pc >> 12) & FETCH_MASK
    if tlb.fetch_walked[i] == ((pc & -4096) | tlb.fetch_context):
        hart.walk_whole_page = True
        return (tlb.fetch_ppns[i] << 12) | (pc & 4095)
    physical = translate(hart, pc, FETCH, 2)
    if physical != -1 and hart.walk_whole_page and (hart.event & EVENT_HALT) == 0:
        tlb.enter_fetch(pc, physical >> 12)
    return physical


def _protect(hart: Hart, physical: i64, virtual: i64, access: i64, length: i64, priv: i64) -> i64:
    need: i64 = PMP_R
    if access == STORE:
        need = PMP_W
    elif access == FETCH:
        need = PMP_X
    got = rights(hart, physical & -4096, 4096, priv)
    hart.walk_whole_page = got != MIXED
    if got == MIXED:
        got = rights(hart, physical, length, priv)
    if got == MIXED or (got & need) == 0:
        return access_fault(hart, virtual, access)
    return physical


def _walk(hart: Hart, virtual: i64, access: i64, priv: i64, mode: i64) -> i64:
    """The translation algorithm of 4.3.2, for Sv39 and Sv48."""
    level: i64 = 2 if mode == SATP_SV39 else 3
    spare = 64 - (12 + 9 * (level + 1))
    if ((virtual << spare) >> spare) != virtual:
        return _page_fault(hart, virtual, access)
    table = (hart.satp & _PPN_MASK) << 12
    ram = hart.ram
    while True:
        address = table + (((virtual >> (12 + 9 * level)) & 511) << 3)
        got = rights(hart, address, 8, SUPERVISOR)
        if got == MIXED or (got & PMP_R) == 0 or not ram.contains(address, 8):
            return access_fault(hart, virtual, access)
        pte = ram.load64(address)
        if (pte & PTE_V) == 0 or (pte & (PTE_R | PTE_W)) == PTE_W or (pte & _PTE_RESERVED) != 0:
            return _page_fault(hart, virtual, access)
        if (pte & (PTE_R | PTE_X)) != 0:
            break
        if (pte & (PTE_A | PTE_D | PTE_U)) != 0 or level == 0:
            return _page_fault(hart, virtual, access)
        table = ((pte >> 10) & _PPN_MASK) << 12
        level -= 1
    if not _permitted(hart, pte, access, priv):
        return _page_fault(hart, virtual, access)
    ppn = (pte >> 10) & _PPN_MASK
    one: i64 = 1
    low = (one << (9 * level)) - 1
    if (ppn & low) != 0:
        return _page_fault(hart, virtual, access)  # misaligned superpage
    wanted: i64 = PTE_A
    if access == STORE:
        wanted = PTE_A | PTE_D
    if (pte & wanted) != wanted:
        if (hart.menvcfg & ADUE) == 0:
            return _page_fault(hart, virtual, access)
        if got == MIXED or (got & PMP_W) == 0:
            return access_fault(hart, virtual, access)
        ram.store64(address, pte | wanted)
    if level > 0:
        hart.tlb.note_superpage(virtual, level)
    return ((ppn | ((virtual >> 12) & low)) << 12) | (virtual & 4095)


def _permitted(hart: Hart, pte: i64, access: i64, priv: i64) -> bool:
    """Steps 6 and 7 of 4.3.2: R, W, X and U bits against SUM and MXR."""
    if access == FETCH:
        if (pte & PTE_X) == 0:
            return False
    elif access == STORE:
        if (pte & PTE_W) == 0:
            return False
    elif (pte & PTE_R) == 0 and not ((pte & PTE_X) != 0 and (hart.mstatus & MXR) != 0):
        return False
    if priv == USER:
        return (pte & PTE_U) != 0
    if (pte & PTE_U) != 0:
        return access != FETCH and (hart.mstatus & SUM) != 0
    return True


def sfence_vma(hart: Hart, address: i64, asid: i64, has_address: bool, has_asid: bool) -> None:
    """SFENCE.VMA (4.2.1) on ``hart``: forget translations by address, by ASID, both or all."""
    if has_address:
        hart.tlb.flush_page(address)
    elif has_asid:
        hart.tlb.flush_space(1 + (asid & 0xFFFF))
    else:
        hart.tlb.flush_all()
    update_context(hart)


def flush_all(hart: Hart) -> None:
    """Forget every translation: PMP or the translation mode changed."""
    hart.tlb.flush_all()
    update_context(hart)
