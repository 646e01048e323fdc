"""What translated code calls, in the Python that ``tools/gen/native.py`` compiles to LLVM IR.

These functions run natively only: the file is the source of ``native_ir.py``.
"""

from __future__ import annotations

from typing import Final

from librt.vecs import vec
from mypy_extensions import i64

from asyncvmm.arch.csr import access
from asyncvmm.arch.hart import SUPERVISOR, Hart
from asyncvmm.arch.hart_time import HartTime
from asyncvmm.arch.mmu import (
    FETCH,
    fault,
    fetch_address,
    load_address,
    store_address,
    translate,
)
from asyncvmm.arch.status import ECALL_USER, FS
from asyncvmm.arch.trap import fence_vma, mret, sret, take_exception, take_interrupt, wfi
from asyncvmm.engine.jit.state_words import (
    CLOCK,
    CONTEXT,
    END,
    EVENT_BAIL,
    FETCH_CONTEXT,
    FETCH_TLB,
    FLOAT_READY,
    FRM,
    LAST_HOST_MODE,
    LEFT,
    TABLES,
    TLB,
)
from asyncvmm.memory.pages import PRESENT
from asyncvmm.timeline.clock import TICK_NS

NOT_HERE: Final = 0  # the interpreter must do the access
ENTERED: Final = 1
TRAPPED: Final = 2  # a trap is noted
MISALIGNED: Final = 3  # its page is entered; the access, within that page, must be made piecemeal


def address_of(words: vec[i64]) -> i64:
    """The host address of the first word."""
    raise NotImplementedError


def peek(address: i64) -> i64:
    """The word at a host address."""
    raise NotImplementedError


def hart_time_at(address: i64) -> HartTime:
    """The object at a host address."""
    raise NotImplementedError


def time_ticks(hart: Hart) -> i64:
    """Environment.time_ticks where that is Clock.mtime, and this hart is what the clock runs by."""
    address = hart.x[CLOCK]
    if address == 0:
        hart.event |= EVENT_BAIL
        return 0
    source = hart_time_at(address)
    clock = source.clock
    now = source.time_ns()
    if now < clock.highest_ns:
        now = clock.highest_ns
    clock.highest_ns = now
    return now // TICK_NS + clock.mtime_offset


def _refused(hart: Hart, wanted: i64) -> i64:
    """What a failed translation means: the interpreter's, or a trap that is noted."""
    if (hart.event & EVENT_BAIL) != 0 or wanted == MISALIGNED:
        hart.event = 0
        return NOT_HERE
    return TRAPPED


def fill_load(hart: Hart, address: i64, size: i64, misaligned: bool) -> i64:
    """Enter the page of ``address`` for loads: ENTERED, TRAPPED, MISALIGNED (if wanted) or NOT_HERE."""
    result: i64 = ENTERED
    if (address & (size - 1)) != 0:
        if not misaligned or (address & 4095) + size > 4096:
            return NOT_HERE
        result = MISALIGNED
    physical = load_address(hart, address, size)
    if hart.event != 0:
        return _refused(hart, result)
    ram = hart.ram
    index = ram.readable(physical, size)
    if index == -1 or not hart.walk_whole_page:
        return NOT_HERE
    x = hart.x
    e = TLB + (((address >> 12) & 1023) << 2)
    page = address & -4096
    addend = address_of(ram.pages[index]) - page
    tag = page | hart.tlb.context
    if x[e + 1] != tag or x[e + 2] != addend:
        x[e + 1] = 1
    x[e] = tag
    x[e + 2] = addend
    x[e + 3] = physical >> 12
    return result


def fill_store(hart: Hart, address: i64, size: i64, misaligned: bool) -> i64:
    """Enter the page of ``address`` for stores: ENTERED, TRAPPED, MISALIGNED (if wanted) or NOT_HERE."""
    result: i64 = ENTERED
    if (address & (size - 1)) != 0:
        if not misaligned or (address & 4095) + size > 4096:
            return NOT_HERE
        result = MISALIGNED
    physical = store_address(hart, address, size)
    if hart.event != 0:
        return _refused(hart, result)
    ram = hart.ram
    if not ram.contains(physical, size) or not hart.walk_whole_page:
        return NOT_HERE
    index = (physical - ram.base) >> 12
    if (ram.code_bits[index >> 6] >> (index & 63)) & 1 != 0 or ram.kind[index] != PRESENT:
        return NOT_HERE
    x = hart.x
    e = TLB + (((address >> 12) & 1023) << 2)
    page = address & -4096
    addend = address_of(ram.pages[index]) - page
    tag = page | hart.tlb.context
    if x[e] != tag or x[e + 2] != addend:
        x[e] = 1
    x[e + 1] = tag
    x[e + 2] = addend
    x[e + 3] = physical >> 12
    return result


def fill_fetch(hart: Hart, address: i64) -> bool:
    """Enter the page of ``address`` for jumps; False when it has no translation yet.

    At the end of a slice nothing is fetched: an interrupt may come first.
    """
    if hart.x[LEFT] <= 0:
        return False
    physical = fetch_address(hart, address)
    if hart.event != 0:
        hart.event = 0
        return False
    index = hart.ram.readable(physical, 2)
    if index == -1 or not hart.walk_whole_page:
        return False
    x = hart.x
    table = peek(x[TABLES] + (index << 3))
    if table == 0:
        return False
    e = FETCH_TLB + (((address >> 12) & 255) << 1)
    x[e] = (address & -4096) | hart.tlb.fetch_context
    x[e + 1] = table
    return True


def follows(hart: Hart, address: i64, half: i64) -> bool:
    """Whether the page at ``address`` begins with this half of an instruction."""
    physical = translate(hart, address, FETCH, 2)
    if hart.event != 0:
        hart.event = 0
        return False
    ram = hart.ram
    index = ram.readable(physical, 2)
    return index != -1 and (ram.pages[index][0] & 0xFFFF) == half


def csr(hart: Hart, number: i64, how: i64, value: i64, reads: bool, writes: bool) -> i64:
    """One CSR instruction; ``hart.event`` says afterwards what else there is to do."""
    return access(hart, number, how, value, reads, writes)


def system_ecall(hart: Hart) -> None:
    """ECALL; the host serves those of S-mode, or declines to."""
    if hart.priv == SUPERVISOR:
        hart.event = EVENT_BAIL
        return
    fault(hart, ECALL_USER + hart.priv, 0)


def system_sret(hart: Hart) -> None:
    """SRET."""
    sret(hart)


def system_mret(hart: Hart) -> None:
    """MRET."""
    mret(hart)


def system_wfi(hart: Hart) -> None:
    """WFI."""
    wfi(hart)


def system_sfence_vma(
    hart: Hart, address: i64, asid: i64, has_address: bool, has_asid: bool
) -> None:
    """SFENCE.VMA."""
    fence_vma(hart, address, asid, has_address, has_asid)


def trap(hart: Hart, pc: i64) -> None:
    """Enter the handler of the noted trap."""
    take_exception(hart, pc)


def settle(hart: Hart) -> bool:
    """After an event, with ``hart.pc`` up to date: whether translated code can go on there."""
    x = hart.x
    if hart.stop or hart.waiting or hart.steps_end != x[END] or x[LEFT] <= 0:
        return False
    hart.event = 0
    if take_interrupt(hart, hart.pc):
        x[LEFT] -= 1
        hart.event = 0
    hart.steps = x[END] - x[LEFT]
    x[FRM] = hart.fp.frm
    if (hart.mstatus & FS) == FS and hart.fp.frm <= LAST_HOST_MODE:
        x[FLOAT_READY] = 1
    else:
        x[FLOAT_READY] = 0
    x[CONTEXT] = hart.tlb.context
    x[FETCH_CONTEXT] = hart.tlb.fetch_context
    return True
