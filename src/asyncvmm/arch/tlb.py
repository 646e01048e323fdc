"""The TLB: three direct-mapped tables (load, store, fetch), and the pages that their entries stand for.

A guest can tell a TLB's hits from its misses: a miss walks the page tables and sets A and D bits, which
software may clear without a fence (privileged architecture, 4.3.1). So what is in the TLB is decided by
what the guest executes and by nothing else, is the same under every engine, and is part of snapshots:
these are the ``*_walked`` tags with their ``*_ppns``. ``load_tags`` and ``load_pages`` and so on are the
part of it that an engine can use at once. The host may forget any of those at any time, at the cost
of a slow path which finds the entry still walked; ``native`` likewise. A walked entry that goes takes
them with it.

A tag is the virtual page address with a context number in bits 3..11. A context stands for everything
else that a translation depends on: ASID, privilege, SUM, MXR. Flushing takes a new context number, so it
costs nothing; the tables are cleared only when the 511 numbers are used up. Bits 0..2 of a tag are
zero: the engine compares them with the low bits of an address, so a misaligned access misses.
"""

from __future__ import annotations

from typing import Final

from librt.vecs import vec
from mypy_extensions import i64

ENTRIES: Final = 1024
INDEX_MASK: Final = 1023
FETCH_ENTRIES: Final = 256
FETCH_MASK: Final = 255
NO_TAG: Final = 1  # matches no address: bit 0 of a tag is never set
CONTEXTS: Final = 511
ASID_SLOTS: Final = 64

# The translating engine's own tables in ``Tlb.native``, as indices of words.
NATIVE_FETCH: Final = 64  # FETCH_ENTRIES of (tag, entry table)
NATIVE_DATA: Final = NATIVE_FETCH + 2 * FETCH_ENTRIES
# ENTRIES of (load tag, store tag, host minus virtual address, physical page number)
NATIVE_END: Final = NATIVE_DATA + 4 * ENTRIES


class Tlb:
    """Translations of one hart. ``context`` is the current context number, already shifted left by 3."""

    def __init__(self) -> None:
        nothing: vec[i64] = vec[i64]([0] * 0)
        self._nothing: vec[i64] = nothing
        self.load_tags: vec[i64] = vec[i64]([1] * ENTRIES)
        self.load_pages: vec[vec[i64]] = vec[vec[i64]]([nothing] * ENTRIES)
        self.store_tags: vec[i64] = vec[i64]([1] * ENTRIES)
        self.store_pages: vec[vec[i64]] = vec[vec[i64]]([nothing] * ENTRIES)
        self.fetch_tags: vec[i64] = vec[i64]([1] * FETCH_ENTRIES)
        self.fetch_pages: vec[vec[i64]] = vec[vec[i64]]([nothing] * FETCH_ENTRIES)
        # The entries themselves: tags, and which physical page (number) each stands for.
        self.load_walked: vec[i64] = vec[i64]([1] * ENTRIES)
        self.store_walked: vec[i64] = vec[i64]([1] * ENTRIES)
        self.fetch_walked: vec[i64] = vec[i64]([1] * FETCH_ENTRIES)
        self.load_ppns: vec[i64] = vec[i64]([0] * ENTRIES)
        self.store_ppns: vec[i64] = vec[i64]([0] * ENTRIES)
        self.fetch_ppns: vec[i64] = vec[i64]([0] * FETCH_ENTRIES)
        self.context: i64 = 0
        self.fetch_context: i64 = 0
        self.next_context: i64 = 1
        # Contexts by (address space slot, mode): 0 means none allocated.
        self.spaces: vec[i64] = vec[i64]([-1] * ASID_SLOTS)
        self.contexts: vec[i64] = vec[i64]([0] * (ASID_SLOTS * 8))
        # Superpages of which slices may be in the tables, by virtual address: their FENCE of one
        # address must take all slices with it. Sets of region numbers, direct-mapped.
        self.mega: vec[i64] = vec[i64]([-1] * 256)  # 2 MiB regions
        self.giga: vec[i64] = vec[i64]([-1] * 64)  # 1 GiB regions
        self.overflow: bool = False
        self.flushes: i64 = 0
        # The same translations once more as host addresses, or nothing: words of engine.jit.
        self.native: vec[i64] = nothing
        self.has_native: bool = False

    def empty(self) -> None:
        """As new: no entries, no contexts."""
        self._start_over()
        self.flush_all()
        self.context = 0
        self.fetch_context = 0

    def select(self, data_space: i64, data_mode: i64, fetch_space: i64, fetch_mode: i64) -> None:
        """Make current the contexts of two (address space >= 0, mode 0..7) pairs."""
        if self.next_context + 2 > CONTEXTS:
            self._start_over()
        self.context = self._context_of(data_space, data_mode) << 3
        self.fetch_context = self._context_of(fetch_space, fetch_mode) << 3

    def _context_of(self, space: i64, mode: i64) -> i64:
        slot = space & (ASID_SLOTS - 1)
        if self.spaces[slot] != space:
            self.spaces[slot] = space
            self._forget(slot)
        context = self.contexts[slot * 8 + mode]
        if context == 0:
            context = self.next_context
            self.next_context += 1
            self.contexts[slot * 8 + mode] = context
        return context

    def enter_load(self, virtual: i64, ppn: i64) -> None:
        """Loads from the page at ``virtual`` have been found to go to physical page ``ppn``."""
        i = (virtual >> 12) & INDEX_MASK
        self.load_walked[i] = (virtual & -4096) | self.context
        self.load_ppns[i] = ppn
        self.load_tags[i] = NO_TAG
        if self.has_native:
            native = self.native
            native[NATIVE_DATA + 4 * i] = NO_TAG

    def enter_store(self, virtual: i64, ppn: i64) -> None:
        """Stores to the page at ``virtual`` have been found to go to physical page ``ppn``."""
        i = (virtual >> 12) & INDEX_MASK
        self.store_walked[i] = (virtual & -4096) | self.context
        self.store_ppns[i] = ppn
        self.store_tags[i] = NO_TAG
        if self.has_native:
            native = self.native
            native[NATIVE_DATA + 4 * i + 1] = NO_TAG

    def enter_fetch(self, virtual: i64, ppn: i64) -> None:
        """Instructions of the page at ``virtual`` have been found to be in physical page ``ppn``."""
        i = (virtual >> 12) & FETCH_MASK
        self.fetch_walked[i] = (virtual & -4096) | self.fetch_context
        self.fetch_ppns[i] = ppn
        self.fetch_tags[i] = NO_TAG
        if self.has_native:
            native = self.native
            native[NATIVE_FETCH + 2 * i] = NO_TAG

    def note_superpage(self, virtual: i64, level: i64) -> None:
        """A slice of a superpage is about to be entered: level 1 is 2 MiB, 2 is 1 GiB, 3 512 GiB."""
        if level == 1:
            mega = virtual >> 21
            old = self.mega[mega & 255]
            if old != -1 and old != mega:
                self.overflow = True
            self.mega[mega & 255] = mega
        elif level == 3:
            self.overflow = True  # too large for the tables below: every flush is of all
        else:
            giga = virtual >> 30
            old = self.giga[giga & 63]
            if old != -1 and old != giga:
                self.overflow = True
            self.giga[giga & 63] = giga

    def _forget(self, slot: i64) -> None:
        i: i64 = slot * 8
        end = i + 8
        while i < end:
            self.contexts[i] = 0
            i += 1

    def _start_over(self) -> None:
        """All context numbers are used: clear the tables and begin again."""
        i: i64 = 0
        while i < ENTRIES:
            self.load_walked[i] = NO_TAG
            self.store_walked[i] = NO_TAG
            i += 1
        i = 0
        while i < FETCH_ENTRIES:
            self.fetch_walked[i] = NO_TAG
            i += 1
        self._clear_tags()
        i = 0
        while i < ASID_SLOTS * 8:
            self.contexts[i] = 0
            i += 1
        self.next_context = 1

    def _clear_tags(self) -> None:
        i: i64 = 0
        while i < ENTRIES:
            self.load_tags[i] = NO_TAG
            self.store_tags[i] = NO_TAG
            i += 1
        i = 0
        while i < FETCH_ENTRIES:
            self.fetch_tags[i] = NO_TAG
            i += 1
        self.clear_native()

    def drop_all(self) -> None:
        """Let every access come by the slow path once, which no guest can tell."""
        self._clear_tags()
        i: i64 = 0
        while i < ENTRIES:
            self.load_pages[i] = self._nothing
            self.store_pages[i] = self._nothing
            i += 1
        self.drop_fetches()

    def clear_native(self) -> None:
        """Forget what the translating engine has entered."""
        native = self.native
        if not self.has_native:
            return
        i: i64 = NATIVE_DATA
        while i < NATIVE_END:
            native[i] = NO_TAG
            native[i + 1] = NO_TAG
            i += 4
        self.clear_native_fetches()

    def clear_native_fetches(self) -> None:
        """Forget where the translating engine has found code."""
        native = self.native
        if not self.has_native:
            return
        i: i64 = NATIVE_FETCH
        while i < NATIVE_DATA:
            native[i] = NO_TAG
            i += 2

    def drop_fetches(self) -> None:
        """Forget where any code is."""
        i: i64 = 0
        while i < FETCH_ENTRIES:
            self.fetch_tags[i] = NO_TAG
            self.fetch_pages[i] = self._nothing
            i += 1
        self.clear_native_fetches()

    def flush_all(self) -> None:
        """Forget all translations. The caller selects contexts again."""
        self.flushes += 1
        i: i64 = 0
        while i < 256:
            self.mega[i] = -1
            i += 1
        i = 0
        while i < 64:
            self.giga[i] = -1
            i += 1
        self.overflow = False
        slot: i64 = 0
        while slot < ASID_SLOTS:
            if self.spaces[slot] != -1:
                self.spaces[slot] = -1
                self._forget(slot)
            slot += 1

    def flush_space(self, space: i64) -> None:
        """Forget all translations of one address space. The caller selects contexts again."""
        self.flushes += 1
        slot = space & (ASID_SLOTS - 1)
        if self.spaces[slot] == space:
            self._forget(slot)

    def flush_page(self, virtual: i64) -> None:
        """Forget the translations of the virtual page at ``virtual``, in every address space.

        The caller selects contexts again: inside a superpage this is ``flush_all``.
        """
        mega = virtual >> 21
        giga = virtual >> 30
        if self.overflow or self.mega[mega & 255] == mega or self.giga[giga & 63] == giga:
            self.flush_all()
            return
        self.flushes += 1
        i = (virtual >> 12) & INDEX_MASK
        page = virtual & -4096
        if (self.load_walked[i] & -4096) == page:
            self.load_walked[i] = NO_TAG
            self.load_tags[i] = NO_TAG
        if (self.store_walked[i] & -4096) == page:
            self.store_walked[i] = NO_TAG
            self.store_tags[i] = NO_TAG
        j = (virtual >> 12) & FETCH_MASK
        if (self.fetch_walked[j] & -4096) == page:
            self.fetch_walked[j] = NO_TAG
            self.fetch_tags[j] = NO_TAG
        native = self.native
        if self.has_native:
            native[NATIVE_DATA + 4 * i] = NO_TAG
            native[NATIVE_DATA + 4 * i + 1] = NO_TAG
            native[NATIVE_FETCH + 2 * j] = NO_TAG

    def drop_physical(self, ppn: i64, loads: bool, stores: bool, fetches: bool) -> None:
        """Forget entries of one kind or more that stand for physical page ``ppn``.

        A forgotten entry must not keep a page alive that its RAM has given up.
        """
        i: i64 = 0
        while i < ENTRIES:
            if loads and self.load_ppns[i] == ppn:
                self.load_tags[i] = NO_TAG
                self.load_pages[i] = self._nothing
            if stores and self.store_ppns[i] == ppn:
                self.store_tags[i] = NO_TAG
                self.store_pages[i] = self._nothing
            i += 1
        if fetches:
            i = 0
            while i < FETCH_ENTRIES:
                if self.fetch_ppns[i] == ppn:
                    self.fetch_tags[i] = NO_TAG
                i += 1
            self.clear_native_fetches()
        native = self.native
        if self.has_native and (loads or stores):
            i = NATIVE_DATA
            while i < NATIVE_END:
                if native[i + 3] == ppn:
                    if loads:
                        native[i] = NO_TAG
                    if stores:
                        native[i + 1] = NO_TAG
                i += 4

    def drop_pages(self, ppn: i64, count: i64) -> None:
        """Forget how to load and fetch from ``count`` physical pages from ``ppn``, and their objects."""
        i: i64 = 0
        while i < ENTRIES:
            if self.load_ppns[i] >= ppn and self.load_ppns[i] < ppn + count:
                self.load_tags[i] = NO_TAG
                self.load_pages[i] = self._nothing
            i += 1
        i = 0
        while i < FETCH_ENTRIES:
            if self.fetch_ppns[i] >= ppn and self.fetch_ppns[i] < ppn + count:
                self.fetch_tags[i] = NO_TAG
            i += 1
        self.clear_native_fetches()
        native = self.native
        if self.has_native:
            i = NATIVE_DATA
            while i < NATIVE_END:
                if native[i + 3] >= ppn and native[i + 3] < ppn + count:
                    native[i] = NO_TAG
                i += 4

    def drop_stores(self) -> None:
        """Forget every right to store in place."""
        i: i64 = 0
        while i < ENTRIES:
            self.store_tags[i] = NO_TAG
            self.store_pages[i] = self._nothing
            i += 1
        native = self.native
        if self.has_native:
            i = NATIVE_DATA
            while i < NATIVE_END:
                native[i + 1] = NO_TAG
                i += 4
