"""Physical memory protection (privileged architecture, 3.7)."""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

from asyncvmm.arch.hart import MACHINE, PMP_ENTRIES, Hart
from asyncvmm.arch.status import PMP_A, PMP_A_SHIFT, PMP_LOCK, PMP_R, PMP_W, PMP_X
from asyncvmm.base.bits import shr, ult

OFF: Final = 0
TOR: Final = 1
NA4: Final = 2
NAPOT: Final = 3
ALL_RIGHTS: Final = PMP_R | PMP_W | PMP_X
MIXED: Final = -1  # the bytes asked about do not all have the same rights
_NAPOT_ALL: Final = (1 << 53) - 1
_ADDRESS_END: Final = 1 << 56


def rights(hart: Hart, address: i64, length: i64, priv: i64) -> i64:
    """Rights (PMP_R | PMP_W | PMP_X) of ``length`` bytes at ``address``, or MIXED.

    The lowest-numbered entry that matches any byte decides, and must match all bytes (3.7.1.3).
    """
    if hart.pmp_open:
        return ALL_RIGHTS
    if not hart.pmp_active:
        return ALL_RIGHTS if priv == MACHINE else 0
    last = address + length - 1
    i: i64 = 0
    below: i64 = 0  # the TOR entry's lower bound: the address of the entry before
    while i < PMP_ENTRIES:
        config = hart.pmpcfg[i]
        mode = (config & PMP_A) >> PMP_A_SHIFT
        field = hart.pmpaddr[i]
        if mode != OFF:
            if mode == TOR:
                low = below
                high = (field << 2) - 1
            elif mode == NA4:
                low = field << 2
                high = low + 3
            else:
                low, high = napot_range(field)
            if low <= high and low <= last and address <= high:
                if address < low or last > high:
                    return MIXED
                if priv == MACHINE and (config & PMP_LOCK) == 0:
                    return ALL_RIGHTS
                return config & ALL_RIGHTS
        below = field << 2
        i += 1
    return ALL_RIGHTS if priv == MACHINE else 0


def napot_range(field: i64) -> tuple[i64, i64]:
    """First and last byte address of a NAPOT pmpaddr value."""
    ones: i64 = 0
    rest = field
    while (rest & 1) == 1 and ones < 54:
        ones += 1
        rest = shr(rest, 1)
    one: i64 = 1
    size = one << (ones + 3)
    if ones >= 53:
        return 0, _ADDRESS_END - 1
    low = (field & ~((one << (ones + 1)) - 1)) << 2
    return low, low + size - 1


def allowed(hart: Hart, address: i64, length: i64, need: i64, priv: i64) -> bool:
    """Whether ``priv`` may access all the bytes with the rights in ``need``."""
    got = rights(hart, address, length, priv)
    return got != MIXED and (got & need) == need


def write_config(hart: Hart, first: i64, value: i64) -> None:
    """Write eight configuration bytes from entry ``first``; locked ones stay (3.7.1.2)."""
    i: i64 = 0
    while i < 8:
        byte = (value >> (i << 3)) & 0x9F
        entry = first + i
        if entry < PMP_ENTRIES and (hart.pmpcfg[entry] & PMP_LOCK) == 0:
            if (byte & (PMP_R | PMP_W)) != PMP_W:  # W without R is reserved: keep the old value
                hart.pmpcfg[entry] = byte
        i += 1
    refresh(hart)


def write_address(hart: Hart, entry: i64, value: i64) -> None:
    """Write pmpaddr ``entry``; ignored when it is locked, or the next is a locked TOR (3.7.1.2)."""
    if entry >= PMP_ENTRIES or (hart.pmpcfg[entry] & PMP_LOCK) != 0:
        return
    if entry + 1 < PMP_ENTRIES:
        following = hart.pmpcfg[entry + 1]
        if (following & PMP_LOCK) != 0 and ((following & PMP_A) >> PMP_A_SHIFT) == TOR:
            return
    hart.pmpaddr[entry] = value & 0x3FFFFFFFFFFFFF
    refresh(hart)


def read_config(hart: Hart, first: i64) -> i64:
    """Eight configuration bytes from entry ``first`` as one word."""
    value: i64 = 0
    i: i64 = 0
    while i < 8:
        if first + i < PMP_ENTRIES:
            value |= hart.pmpcfg[first + i] << (i << 3)
        i += 1
    return value


def refresh(hart: Hart) -> None:
    """Recompute what depends on the entries, after they were changed."""
    hart.pmp_active = False
    hart.pmp_open = False
    i: i64 = 0
    while i < PMP_ENTRIES:
        config = hart.pmpcfg[i]
        mode = (config & PMP_A) >> PMP_A_SHIFT
        if mode != OFF:
            hart.pmp_active = True
            everywhere = mode == NAPOT and (hart.pmpaddr[i] & _NAPOT_ALL) == _NAPOT_ALL
            hart.pmp_open = everywhere and (config & ALL_RIGHTS) == ALL_RIGHTS
            return
        i += 1


def physical_limit_exceeded(address: i64) -> bool:
    """Whether an address does not fit the 56 bits of the physical address space."""
    return not ult(address, _ADDRESS_END)
