"""Decoded code, by physical page: shared by the harts of a guest, kept coherent with every store.

A code page is ``vec[i64]`` with one slot per halfword (0..2047): 0 until decoded, then the packed word
of ``isa.decode``. Slots 2048 and 2049 hold the "next page" marker, so that running off the end needs no
check; slot 2050 is the physical page number, slot 2051 counts stores since the page last ran, and slot
2052 is 1 when the listener may run code that was made of other slots than the decoded ones: it hears
of the next store, wherever that goes.

While a page is here no store TLB entry points at it: stores come through the slow path, which
forgets the slots that they touch. So stores are seen by fetches at once and FENCE.I has nothing to do.
"""

from __future__ import annotations

from typing import Final

from librt.vecs import vec
from mypy_extensions import i64, mypyc_attr

SLOTS: Final = 2048
NEXT_PAGE_SLOT: Final = 2048
PPN_SLOT: Final = 2050
STORES_SLOT: Final = 2051
WHOLE_SLOT: Final = 2052
LENGTH: Final = 2053
NEXT_PAGE: Final = 511  # op number of the marker at the end of a page: no instruction has it
REFETCH: Final = 510  # op number in a hart's cross page: look the page up again
STORES_BEFORE_DROP: Final = 64
MAX_PAGES: Final = 8192  # 128 MiB


@mypyc_attr(allow_interpreted_subclasses=True)
class CodeListener:
    """Hears that decoded code is gone; the translating engine forgets what it made of it."""

    def code_changed(self, ppn: i64) -> None:
        """Something that had been decoded in page ``ppn`` was overwritten."""

    def code_dropped(self, ppn: i64) -> None:
        """All that had been decoded in page ``ppn`` was dropped."""
        self.code_changed(ppn)


class CodeCache:
    """The code pages of one guest's RAM, at most ``max_pages`` of 16 KiB each (see Coherence)."""

    def __init__(self) -> None:
        self.max_pages: i64 = MAX_PAGES
        self.evictions: i64 = 0  # pages that were dropped to make room
        self.listener: CodeListener = CodeListener()
        self._pages: dict[int, vec[i64]] = {}
        self.empty: vec[i64] = vec[i64]([0] * 0)

    def page(self, ppn: i64) -> vec[i64]:
        """The code page of physical page ``ppn``, or an empty vec when there is none."""
        key: int = ppn
        if key in self._pages:
            return self._pages[key]
        return self.empty

    def create(self, ppn: i64) -> vec[i64]:
        """A code page for ``ppn`` with nothing decoded yet."""
        page: vec[i64] = vec[i64]([0] * LENGTH)
        page[NEXT_PAGE_SLOT] = NEXT_PAGE
        page[NEXT_PAGE_SLOT + 1] = NEXT_PAGE
        page[PPN_SLOT] = ppn
        self._pages[int(ppn)] = page
        return page

    def cross_page(self) -> vec[i64]:
        """A hart's own page for the one instruction that reaches from slot 2047 into the next page.

        Such an instruction is not kept in the shared page, since the next virtual page may change.
        """
        page: vec[i64] = vec[i64]([REFETCH] * LENGTH)
        page[NEXT_PAGE_SLOT] = NEXT_PAGE
        page[NEXT_PAGE_SLOT + 1] = NEXT_PAGE
        return page

    def drop(self, ppn: i64) -> None:
        """Forget the code page; whoever drops it also drops the harts' fetch entries."""
        self._pages.pop(int(ppn), None)
        self.listener.code_dropped(ppn)

    def forget(self, page: vec[i64], offset: i64, length: i64) -> None:
        """Bytes ``offset`` .. ``offset + length - 1`` were written: decode them anew when next fetched.

        An instruction that begins in the halfword before may reach into the first byte written.
        """
        i = (offset >> 1) - 1
        if i < 0:
            i = 0
        end = (offset + length - 1) >> 1
        known: i64 = 0
        while i <= end:
            known |= page[i]
            page[i] = 0
            i += 1
        page[STORES_SLOT] += 1
        if known != 0 or page[WHOLE_SLOT] != 0:
            page[WHOLE_SLOT] = 0
            self.listener.code_changed(page[PPN_SLOT])

    def forget_slot(self, slot: i64) -> None:
        """Decode what is at halfword ``slot`` of any page anew; the bytes are what they were."""
        for page in self._pages.values():
            if page[slot] != 0:
                page[slot] = 0
                page[WHOLE_SLOT] = 1  # what was made of it goes on to be right

    def numbers(self) -> list[int]:
        """The physical numbers of all pages that are here."""
        return list(self._pages)

    def __len__(self) -> int:
        return len(self._pages)
