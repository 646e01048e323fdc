"""What translated code calls, in the Python that ``tools/gen/native.py`` compiles to LLVM IR.

These functions run natively only: the file is the source of ``native_ir.py``.
"""

from __future__ import annotations

from librt.vecs import vec
from mypy_extensions import i64

from asyncvmm.arch.hart import Hart
from asyncvmm.arch.mmu import FETCH, LOAD, STORE, translate
from asyncvmm.engine.jit.state_words import FETCH_TLB, TABLES, TLB
from asyncvmm.memory.pages import PRESENT


def address_of(words: vec[i64]) -> i64:
    """The host address of the first word."""
    raise NotImplementedError


def peek(address: i64) -> i64:
    """The word at a host address."""
    raise NotImplementedError


def fill_load(hart: Hart, address: i64, size: i64) -> bool:
    """Enter the page of ``address`` for loads; False when the interpreter must do the access."""
    if (address & (size - 1)) != 0:
        return False
    physical = translate(hart, address, LOAD, size)
    if hart.event != 0:
        hart.event = 0
        return False
    ram = hart.ram
    if not ram.contains(physical, size) or not hart.walk_whole_page:
        return False
    x = hart.x
    e = TLB + (((address >> 12) & 1023) << 2)
    page = address & -4096
    addend = address_of(ram.pages[(physical - ram.base) >> 12]) - page
    tag = page | hart.tlb.context
    if x[e + 1] != tag or x[e + 2] != addend:
        x[e + 1] = 1
    x[e] = tag
    x[e + 2] = addend
    x[e + 3] = physical >> 12
    return True


def fill_store(hart: Hart, address: i64, size: i64) -> bool:
    """Enter the page of ``address`` for stores; False when the interpreter must do the access."""
    if (address & (size - 1)) != 0:
        return False
    physical = translate(hart, address, STORE, size)
    if hart.event != 0:
        hart.event = 0
        return False
    ram = hart.ram
    if not ram.contains(physical, size) or not hart.walk_whole_page:
        return False
    index = (physical - ram.base) >> 12
    if ram.has_code[index] != 0 or ram.kind[index] != PRESENT:
        return False
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
    return True


def fill_fetch(hart: Hart, address: i64) -> bool:
    """Enter the page of ``address`` for jumps; False when it has no translation yet."""
    physical = translate(hart, address, FETCH, 2)
    if hart.event != 0:
        hart.event = 0
        return False
    ram = hart.ram
    if not ram.contains(physical, 2) or not hart.walk_whole_page:
        return False
    x = hart.x
    table = peek(x[TABLES] + (((physical - ram.base) >> 12) << 3))
    if table == 0:
        return False
    e = FETCH_TLB + (((address >> 12) & 255) << 1)
    x[e] = (address & -4096) | hart.tlb.fetch_context
    x[e + 1] = table
    return True
