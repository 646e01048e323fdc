"""Keeps the TLBs of a guest's harts and its decoded code in step with its RAM."""

from __future__ import annotations

from mypy_extensions import i64

from asyncvmm.arch.code import DECODED, STORES_BEFORE_DROP, STORES_SLOT, CodeCache
from asyncvmm.arch.hart import EVENT_CHECK, Hart
from asyncvmm.memory.pages import PageWatcher, Ram


class Coherence(PageWatcher):
    """The one watcher of a guest's RAM. Create it after the RAM, then add every hart."""

    def __init__(self, ram: Ram, code: CodeCache) -> None:
        self.ram: Ram = ram
        self.code: CodeCache = code
        self.harts: list[Hart] = []
        ram.watcher = self

    def add(self, hart: Hart) -> None:
        """Keep ``hart``'s TLB in step from now on."""
        self.harts.append(hart)

    def page_replaced(self, ppn: i64) -> None:
        """Another page object, the same bytes: loads and stores must find the new one."""
        for hart in self.harts:
            hart.tlb.drop_physical(self.ram.physical_page(ppn), True, True, False)

    def view_closed(self, ppn: i64, count: i64) -> None:
        """Loads and fetches of these pages must come and ask: they go to a device, or fault."""
        for hart in self.harts:
            hart.tlb.drop_pages(self.ram.physical_page(ppn), count)
            hart.event |= EVENT_CHECK

    def pages_frozen(self) -> None:
        """The same page objects, shared from now on: loads may go on, stores must come and ask."""
        for hart in self.harts:
            hart.tlb.drop_stores()

    def code_created(self, ppn: i64) -> None:
        """Stores to ``ppn`` go through the slow path from now on.

        With one code page too many, all others are dropped: what is still wanted is soon back.
        """
        if len(self.code) > self.code.max_pages:
            self._drop_all_but(ppn)
        self.ram.set_code(ppn - self.ram.first_ppn, True)
        for hart in self.harts:
            hart.tlb.drop_physical(self.ram.physical_page(ppn), False, True, False)

    def _drop_all_but(self, kept: i64) -> None:
        keep: int = kept
        for ppn in self.code.numbers():
            if ppn != keep:
                self.code.drop(ppn)
                self.code.evictions += 1
                self.code_gone(ppn)
        for hart in self.harts:
            hart.tlb.drop_fetches()

    def keep_code_private(self) -> None:
        """Let no other guest decode what this one runs: see ``CodeCache.keep_private``."""
        for ppn in self.code.keep_private():
            self.code.drop(ppn)
            self.code_gone(ppn)
        for hart in self.harts:
            hart.tlb.drop_fetches()

    def code_gone(self, ppn: i64) -> None:
        """There is no code page for ``ppn`` any more: stores may be made in place."""
        self.ram.set_code(ppn - self.ram.first_ppn, False)

    def page_written(self, ppn: i64, offset: i64, length: i64) -> None:
        """Forget what was decoded in the bytes; a page that is mostly data loses its code page."""
        page = self.code.page(ppn)
        if len(page) == 0:
            return
        decoded = page[STORES_SLOT] == DECODED
        if not decoded:
            self.code.forget(page, offset, length)
        if decoded or page[STORES_SLOT] >= STORES_BEFORE_DROP:
            self.code.drop(ppn)
            self.code_gone(ppn)
            for hart in self.harts:
                hart.tlb.drop_physical(self.ram.physical_page(ppn), False, False, True)
                hart.event |= EVENT_CHECK
