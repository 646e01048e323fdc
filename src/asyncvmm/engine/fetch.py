"""Instruction fetch: from a virtual address to a page of decoded words."""

from __future__ import annotations

from typing import Final

from librt.vecs import vec
from mypy_extensions import i64

from asyncvmm.arch.code import PPN_SLOT, SLOTS, STORES_SLOT
from asyncvmm.arch.hart import EVENT_CHECK, EVENT_HALT, EVENT_TRAP, Hart
from asyncvmm.arch.mmu import FETCH, access_fault, fetch_address, translate
from asyncvmm.arch.tlb import FETCH_MASK
from asyncvmm.isa.decode import decode
from asyncvmm.isa.opcodes import (
    OP_BEQ,
    OP_BGE,
    OP_BGEU,
    OP_BLT,
    OP_BLTU,
    OP_BNE,
    OP_JAL,
)
from asyncvmm.memory.pages import SHARED

_LAST: Final = SLOTS - 1
_IMMEDIATE: Final = 0xFFFFFFFF


def fetch_page(hart: Hart, pc: i64) -> vec[i64]:
    """The decoded page that holds ``pc``; with a trap noted the answer is meaningless.

    Where PMP rights differ inside the page the loop is told to come back after one instruction.
    """
    physical = fetch_address(hart, pc)
    if physical == -1:
        return hart.cross_page
    ram = hart.ram
    index = ram.readable(physical, 2)
    if index == -1:
        access_fault(hart, pc, FETCH)
        return hart.cross_page
    ppn = ram.first_ppn + index
    code = hart.code.page(ppn)
    if len(code) == 0:
        code = hart.code.create(ppn, ram.kind[ppn - ram.first_ppn] >= SHARED)
        ram.watcher.code_created(ppn)
    if code[STORES_SLOT] > 0:
        code[STORES_SLOT] = 0
    if hart.walk_whole_page:
        tlb = hart.tlb
        i = (pc >> 12) & FETCH_MASK
        tlb.fetch_tags[i] = (pc & -4096) | tlb.fetch_context
        tlb.fetch_pages[i] = code
    else:
        hart.event |= EVENT_CHECK
        if (pc & 4095) < 4094 and (ram.page_bits(index, physical, 2) & 3) == 3:
            translate(hart, pc + 2, FETCH, 2)  # a boundary may lie inside the instruction
    return code


def decode_slot(hart: Hart, code: vec[i64], pc: i64) -> vec[i64]:
    """Decode the instruction at ``pc`` into its slot; returns the page to go on with.

    That is ``code``, or the hart's cross page for an instruction that reaches into the next page. A trap
    may be noted: the second page's fetch fault.

    Where a breakpoint may be, nothing stays decoded: the loop comes back for each instruction, and stops
    before it when it is to.
    """
    guard = hart.guard
    guarded = guard.breaking and guard.slots[(pc & 4095) >> 1] != 0
    if guarded and guard.stops(hart.hart_id, pc, hart.steps):
        hart.event |= EVENT_HALT
        hart.steps_end = hart.steps
        return code
    ram = hart.ram
    offset = pc & 4095
    slot = offset >> 1
    page = ram.pages[code[PPN_SLOT] - ram.first_ppn]
    bits = (page[offset >> 3] >> ((offset & 7) << 3)) & 0xFFFF
    if (bits & 3) == 3:
        if slot == _LAST:
            high = _fetch_half(hart, pc + 2)
            if (hart.event & EVENT_TRAP) != 0:
                return code
            if guarded:
                hart.event |= EVENT_CHECK
            hart.cross_page[slot] = _relative(decode(bits | (high << 16)))
            return hart.cross_page
        offset += 2
        bits |= ((page[offset >> 3] >> ((offset & 7) << 3)) & 0xFFFF) << 16
    if guarded:
        hart.event |= EVENT_CHECK
        hart.cross_page[slot] = _relative(decode(bits))
        return hart.cross_page
    code[slot] = _relative(decode(bits))
    return code


def instruction_bits(hart: Hart, pc: i64) -> i64:
    """The 16 or 32 bits at ``pc``, which has just been fetched: what xtval shows when it is illegal."""
    bits = _fetch_half(hart, pc)
    if (bits & 3) == 3:
        bits |= _fetch_half(hart, pc + 2) << 16
    return bits


def second_half(hart: Hart, pc: i64) -> i64:
    """The upper 16 bits of the instruction at ``pc``, which may be in the next page.

    That page is looked up, and nothing else: the lower ones have been fetched, and a look at where they
    are might set an A bit.
    """
    return _fetch_half(hart, pc + 2)


def _fetch_half(hart: Hart, address: i64) -> i64:
    physical = translate(hart, address, FETCH, 2)
    if physical == -1:
        return 0
    index = hart.ram.readable(physical, 2)
    if index == -1:
        access_fault(hart, address, FETCH)
        return 0
    return hart.ram.page_bits(index, physical, 2)


def _relative(word: i64) -> i64:
    """Let the offset of a branch or JAL count from the next instruction, where the loop is.

    Not AUIPC's: its lowest, less four, would not fit the word's 32 bits.
    """
    op = word & 511
    if (
        op == OP_JAL
        or op == OP_BEQ
        or op == OP_BNE
        or op == OP_BLT
        or op == OP_BGE
        or op == OP_BLTU
        or op == OP_BGEU
    ):
        offset = (word >> 32) - ((word >> 25) & 7)
        return (word & _IMMEDIATE) | (offset << 32)
    return word
