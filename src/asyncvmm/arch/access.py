"""The slow path of loads, stores and atomics: TLB misses, misaligned and MMIO accesses.

Every function may note a trap in ``hart.event``; its result is then meaningless. The engine has put
``steps`` up to date before it calls. Values are zero-extended unless they are 64 bits wide.
"""

from __future__ import annotations

from mypy_extensions import i64

from asyncvmm.arch.guard import READS, WRITES
from asyncvmm.arch.hart import EVENT_CHECK, EVENT_TRAP, Hart
from asyncvmm.arch.mmu import LOAD, STORE, access_fault, fault, load_address, store_address
from asyncvmm.arch.status import LOAD_MISALIGNED, STORE_MISALIGNED
from asyncvmm.arch.tlb import INDEX_MASK
from asyncvmm.base.bits import shr
from asyncvmm.memory.pages import PRESENT


def load(hart: Hart, address: i64, size: i64) -> i64:
    """Load ``size`` (1, 2, 4, 8) bytes at a virtual address."""
    if (address & (size - 1)) != 0:
        return _load_misaligned(hart, address, size)
    hart.tlb_misses += 1
    physical = load_address(hart, address, size)
    if physical == -1:
        return 0
    ram = hart.ram
    if hart.guard.watching:
        _watch(hart, address, size, READS)
    index = ram.readable(physical, size)
    if index == -1:
        return _load_mmio(hart, address, physical, size)
    _enter_load(hart, address, index)
    return ram.page_bits(index, physical, size)


def _watch(hart: Hart, address: i64, size: i64, how: i64) -> None:
    """Let the slice end after an access that a debugger watches for."""
    if hart.guard.watches(hart.hart_id, address, size, how):
        hart.end_slice_at(hart.steps + 1)


def _withheld(hart: Hart, address: i64, how: i64) -> bool:
    """Whether every access to the page has to come by here."""
    return hart.guard.watching and hart.guard.withholds(address, how)


def _enter_load(hart: Hart, address: i64, index: i64) -> None:
    """Put the page into the load table, where its rights hold for all of it."""
    if hart.walk_whole_page and not _withheld(hart, address, READS):
        ram = hart.ram
        tlb = hart.tlb
        i = (address >> 12) & INDEX_MASK
        tlb.load_tags[i] = (address & -4096) | tlb.context
        tlb.load_pages[i] = ram.pages[index]


def _load_misaligned(hart: Hart, address: i64, size: i64) -> i64:
    """Within a page that the table holds: from two words. Otherwise byte by byte."""
    tlb = hart.tlb
    offset = address & 4095
    i = (address >> 12) & INDEX_MASK
    if offset + size <= 4096 and tlb.load_tags[i] == ((address & -4096) | tlb.context):
        page = tlb.load_pages[i]
        k = offset >> 3
        shift = (offset & 7) << 3
        value = shr(page[k], shift)
        if shift + (size << 3) > 64:
            value |= page[k + 1] << (64 - shift)
        if size == 8:
            return value
        one: i64 = 1
        return value & ((one << (size << 3)) - 1)
    return _load_bytes(hart, address, size)


def _load_bytes(hart: Hart, address: i64, size: i64) -> i64:
    """Bytes in ascending order; the first that faults names the address in xtval."""
    hart.tlb_misses += 1
    value: i64 = 0
    i: i64 = 0
    while i < size:
        physical = load_address(hart, address + i, 1)
        if physical == -1:
            return 0
        index = hart.ram.readable(physical, 1)
        if index == -1:
            if hart.bus.find(physical, 1) is None:
                return access_fault(hart, address + i, LOAD)
            return fault(hart, LOAD_MISALIGNED, address)  # devices take aligned accesses only
        _enter_load(hart, address + i, index)
        value |= hart.ram.page_bits(index, physical, 1) << (i << 3)
        i += 1
    if hart.guard.watching:
        _watch(hart, address, size, READS)
    return value


def _load_mmio(hart: Hart, address: i64, physical: i64, size: i64) -> i64:
    hart.mmio_accesses += 1
    hart.event |= EVENT_CHECK
    value = hart.bus.read(physical, size)
    if hart.bus.fault:
        return access_fault(hart, address, LOAD)
    return value


def store(hart: Hart, address: i64, size: i64, value: i64) -> None:
    """Store the low ``size`` (1, 2, 4, 8) bytes of ``value`` at a virtual address."""
    if (address & (size - 1)) != 0:
        _store_misaligned(hart, address, size, value)
        return
    hart.tlb_misses += 1
    physical = store_address(hart, address, size)
    if physical == -1:
        return
    ram = hart.ram
    if hart.guard.watching:
        _watch(hart, address, size, WRITES)
    if not ram.contains(physical, size):
        _store_mmio(hart, address, physical, size, value)
        return
    _enter_store(hart, address, physical)
    if size == 8:
        ram.store64(physical, value)
        return
    offset = physical - ram.base
    word = ram.pages[offset >> 12][(offset & 4095) >> 3]
    one: i64 = 1
    shift = (offset & 7) << 3
    mask = ((one << (size << 3)) - 1) << shift
    ram.store64(physical & -8, (word & ~mask) | ((value << shift) & mask))


def _enter_store(hart: Hart, address: i64, physical: i64) -> None:
    """Put the page into the store table, unless it has code, which must see its stores."""
    ram = hart.ram
    index = (physical - ram.base) >> 12
    if (
        not hart.walk_whole_page
        or (ram.code_bits[index >> 6] >> (index & 63)) & 1 != 0
        or _withheld(hart, address, READS | WRITES)
    ):
        return
    page = ram.pages[index]
    if ram.kind[index] != PRESENT:
        page = ram.materialize(index)
    tlb = hart.tlb
    i = (address >> 12) & INDEX_MASK
    tlb.store_tags[i] = (address & -4096) | tlb.context
    tlb.store_pages[i] = page


def _store_misaligned(hart: Hart, address: i64, size: i64, value: i64) -> None:
    """Within a page that the table holds: into two words. Otherwise byte by byte."""
    tlb = hart.tlb
    offset = address & 4095
    i = (address >> 12) & INDEX_MASK
    if offset + size <= 4096 and tlb.store_tags[i] == ((address & -4096) | tlb.context):
        page = tlb.store_pages[i]
        k = offset >> 3
        shift = (offset & 7) << 3
        one: i64 = 1
        mask: i64 = -1
        if size < 8:
            mask = (one << (size << 3)) - 1
        value &= mask
        page[k] = (page[k] & ~(mask << shift)) | (value << shift)
        if shift + (size << 3) > 64:
            high = 64 - shift
            page[k + 1] = (page[k + 1] & ~shr(mask, high)) | shr(value, high)
        return
    _store_bytes(hart, address, size, value)


def _store_bytes(hart: Hart, address: i64, size: i64, value: i64) -> None:
    """All bytes are translated before any is written, so a fault leaves memory as it was."""
    hart.tlb_misses += 1
    i: i64 = 0
    while i < size:
        physical = store_address(hart, address + i, 1)
        if physical == -1:
            return
        if not hart.ram.contains(physical, 1):
            if hart.bus.find(physical, 1) is None:
                access_fault(hart, address + i, STORE)
            else:
                fault(hart, STORE_MISALIGNED, address)
            return
        i += 1
    i = 0
    while i < size:
        physical = store_address(hart, address + i, 1)
        _enter_store(hart, address + i, physical)
        hart.ram.store(physical, 1, value >> (i << 3))
        i += 1
    if hart.guard.watching:
        _watch(hart, address, size, WRITES)


def _store_mmio(hart: Hart, address: i64, physical: i64, size: i64, value: i64) -> None:
    hart.mmio_accesses += 1
    hart.event |= EVENT_CHECK
    hart.bus.write(physical, size, value)
    if hart.bus.fault:
        access_fault(hart, address, STORE)


def amo_load(hart: Hart, address: i64, size: i64) -> i64:
    """The load half of an AMO: natural alignment, and the rights of a store (Zaamo)."""
    tlb = hart.tlb
    i = (address >> 12) & INDEX_MASK
    if tlb.store_tags[i] == ((address & (-4096 | (size - 1))) | tlb.context):
        word = tlb.store_pages[i][(address & 4095) >> 3]
        if size == 8:
            return word
        return (word >> ((address & 4) << 3)) & 0xFFFFFFFF
    if (address & (size - 1)) != 0:
        fault(hart, STORE_MISALIGNED, address)
        return 0
    physical = store_address(hart, address, size)
    if physical == -1:
        return 0
    if not hart.ram.contains(physical, size):
        access_fault(hart, address, STORE)
        return 0
    if hart.guard.watching:
        _watch(hart, address, size, READS | WRITES)
    _enter_store(hart, address, physical)
    return hart.ram.load(physical, size)


def amo_store(hart: Hart, address: i64, size: i64, value: i64) -> None:
    """The store half of an AMO, right after ``amo_load``: it cannot fault."""
    tlb = hart.tlb
    i = (address >> 12) & INDEX_MASK
    if tlb.store_tags[i] == ((address & (-4096 | (size - 1))) | tlb.context):
        page = tlb.store_pages[i]
        slot = (address & 4095) >> 3
        if size == 8:
            page[slot] = value
            return
        shift = (address & 4) << 3
        low: i64 = 0xFFFFFFFF
        page[slot] = (page[slot] & ~(low << shift)) | ((value & low) << shift)
        return
    store(hart, address, size, value)


def load_reserved(hart: Hart, address: i64, size: i64) -> i64:
    """LR: natural alignment, main memory only (Zalrsc)."""
    if (address & (size - 1)) != 0:
        fault(hart, LOAD_MISALIGNED, address)
        return 0
    physical = load_address(hart, address, size)
    if physical == -1:
        return 0
    if not hart.ram.contains(physical, size):
        access_fault(hart, address, LOAD)
        return 0
    if hart.guard.watching:
        _watch(hart, address, size, READS)
    hart.reservation = address
    return hart.ram.load(physical, size)


def store_conditional(hart: Hart, address: i64, size: i64, value: i64) -> i64:
    """SC: 0 when it stored, 1 when the reservation was gone (Zalrsc)."""
    if (address & (size - 1)) != 0:
        fault(hart, STORE_MISALIGNED, address)
        return 1
    reserved = hart.reservation
    hart.reservation = -1
    if reserved != address:
        return 1
    store(hart, address, size, value)
    return 1 if (hart.event & EVENT_TRAP) != 0 else 0
