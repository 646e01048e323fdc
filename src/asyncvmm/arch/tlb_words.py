"""A TLB as words: everything by which a guest could tell it from another, and back."""

from __future__ import annotations

from typing import Final

from librt.vecs import vec
from mypy_extensions import i64

from asyncvmm.arch.tlb import ASID_SLOTS, CONTEXTS, NO_TAG, Tlb

_MODES: Final = 8  # of an address space: each has a context
_EACH: Final = 2 + _MODES  # words of an address space: its slot, its number, its contexts


def tlb_words(tlb: Tlb) -> list[int]:
    """What ``restore_tlb`` takes. Entries of contexts that are not in use any more are left out."""
    found: list[int] = [int(tlb.next_context), 1 if tlb.overflow else 0]
    found += [int(tlb.context), int(tlb.fetch_context)]
    alive: vec[i64] = vec[i64]([0] * (CONTEXTS + 1))
    part: list[int] = []
    slot: i64 = 0
    while slot < ASID_SLOTS:
        if tlb.spaces[slot] != -1:
            part += [int(slot), int(tlb.spaces[slot])]
            mode: i64 = 0
            while mode < _MODES:
                context = tlb.contexts[slot * _MODES + mode]
                alive[context] = 1
                part.append(int(context))
                mode += 1
        slot += 1
    alive[0] = 0
    found.append(len(part) // _EACH)
    found += part
    for regions in (tlb.mega, tlb.giga):
        part = [int(regions[i]) for i in range(len(regions)) if regions[i] != -1]
        found.append(len(part))
        found += part
    found += _entries(tlb.load_walked, tlb.load_ppns, alive)
    found += _entries(tlb.store_walked, tlb.store_ppns, alive)
    found += _entries(tlb.fetch_walked, tlb.fetch_ppns, alive)
    return found


def restore_tlb(tlb: Tlb, words: list[int]) -> bool:
    """Make it the TLB that ``tlb_words`` told of; False, and empty, when there can be no such one.

    Any 64-bit words will do as ``words``. The contexts that were current are so again.
    """
    tlb.empty()
    at = _read_contexts(tlb, words)
    at = _read_regions(words, at, tlb.mega)
    at = _read_regions(words, at, tlb.giga)
    at = _read_entries(words, at, tlb.load_walked, tlb.load_ppns)
    at = _read_entries(words, at, tlb.store_walked, tlb.store_ppns)
    at = _read_entries(words, at, tlb.fetch_walked, tlb.fetch_ppns)
    if at == len(words):
        return True
    tlb.empty()
    return False


def _entries(tags: vec[i64], ppns: vec[i64], alive: vec[i64]) -> list[int]:
    found: list[int] = [0]
    i: i64 = 0
    while i < len(tags):
        if tags[i] != NO_TAG and alive[(tags[i] & 4095) >> 3] != 0:
            found.append(int(tags[i]))
            found.append(int(ppns[i]))
        i += 1
    found[0] = len(found) // 2
    return found


def _count(words: list[int], at: i64, most: i64, each: i64) -> i64:
    """The number at ``at`` of things of ``each`` words that follow, or -1 when they cannot be there."""
    end: i64 = len(words)
    if at < 0 or at >= end:
        return -1
    count: i64 = words[at]
    if count < 0 or count > most or at + 1 + each * count > end:
        return -1
    return count


def _read_contexts(tlb: Tlb, words: list[int]) -> i64:
    """Where in ``words`` the next part begins, or -1, as in what follows."""
    count = _count(words, 4, ASID_SLOTS, _EACH)
    if count < 0:
        return -1
    last: i64 = words[0]
    if last < 1 or last > CONTEXTS:
        return -1
    tlb.next_context = last
    tlb.overflow = words[1] != 0
    tlb.context = words[2]
    tlb.fetch_context = words[3]
    for current in (tlb.context, tlb.fetch_context):
        if (current & 7) != 0 or current < 0 or current >> 3 >= last:
            return -1
    at: i64 = 5
    while count > 0:
        slot: i64 = words[at]
        space: i64 = words[at + 1]
        if space < 0 or slot != space & (ASID_SLOTS - 1):
            return -1
        tlb.spaces[slot] = space
        mode: i64 = 0
        while mode < _MODES:
            context: i64 = words[at + 2 + mode]
            if context < 0 or context >= last:
                return -1
            tlb.contexts[slot * _MODES + mode] = context
            mode += 1
        at += _EACH
        count -= 1
    return at


def _read_regions(words: list[int], at: i64, regions: vec[i64]) -> i64:
    size: i64 = len(regions)
    count = _count(words, at, size, 1)
    if count < 0:
        return -1
    at += 1
    end = at + count
    while at < end:
        region: i64 = words[at]
        regions[region & (size - 1)] = region
        at += 1
    return at


def _read_entries(words: list[int], at: i64, tags: vec[i64], ppns: vec[i64]) -> i64:
    size: i64 = len(tags)
    count = _count(words, at, size, 2)
    if count < 0:
        return -1
    at += 1
    end = at + 2 * count
    while at < end:
        tag: i64 = words[at]
        ppn: i64 = words[at + 1]
        if (tag & 7) != 0 or (tag & 4095) >> 3 == 0 or ppn < 0 or ppn >> 44 != 0:
            return -1
        i = (tag >> 12) & (size - 1)
        tags[i] = tag
        ppns[i] = ppn
        at += 2
    return at
