"""Decoded code, by physical page: shared by the harts of a guest, kept coherent with every store.

A code page is ``vec[i64]`` with one slot per halfword (0..2047): 0 until decoded, then the packed word
of ``isa.decode``. Slots 2048 and 2049 hold the "next page" marker, so that running off the end needs no
check; slot 2050 is the physical page number, slot 2051 counts stores since the page last ran, and slot
2052 is 1 when the listener may run code that was made of other slots than the decoded ones: it hears
of the next store, wherever that goes.

Guests that share pages of RAM share what is decoded of them (``DecodedPages``); -1 in slot 2051 marks
such a code page. Decoding always gives the same, so whoever decodes a slot first decodes it for all; but
nothing in it is ever forgotten: a guest that writes to the page drops it for itself.

While a page is here no store TLB entry points at it: stores come through the slow path, which
forgets the slots that they touch. So stores are seen by fetches at once and FENCE.I has nothing to do.
"""

from __future__ import annotations

from typing import Final

from librt.vecs import vec
from mypy_extensions import i64, mypyc_attr

from asyncvmm.memory.pages import SHARED, Ram

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
DECODED: Final = -1  # in STORES_SLOT: the page is not this guest's alone


class DecodedPages:
    """Code pages, by physical page, of RAM that was frozen once: of all guests whose page that still is."""

    def __init__(self) -> None:
        self.pages: dict[int, vec[i64]] = {}


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
        self._decoded: DecodedPages | None = None
        self._private: bool = False

    def page(self, ppn: i64) -> vec[i64]:
        """The code page of physical page ``ppn``, or an empty vec when there is none."""
        key: int = ppn
        if key in self._pages:
            return self._pages[key]
        return self.empty

    def keep_private(self) -> list[int]:
        """Share no code page from now on: the physical numbers of those that others may use, too.

        Where a breakpoint is, nothing may be decoded by anybody. The caller drops those pages.
        """
        self._private = True
        self._decoded = None
        return [number for number, page in self._pages.items() if page[STORES_SLOT] == DECODED]

    def adopt(self, decoded: DecodedPages) -> None:
        """Use what is decoded of the RAM that this guest's has just become equal to."""
        if not self._private:
            self._decoded = decoded

    def share(self, ram: Ram) -> DecodedPages:
        """What is decoded of RAM that is about to be frozen, for those who thaw it and for this guest."""
        made = DecodedPages()
        if self._private:
            return made
        known = self._decoded
        if known is not None:
            for number, page in known.pages.items():
                ppn: i64 = number
                # Not written since; and no more than a guest has itself.
                if ram.kind[ppn - ram.first_ppn] >= SHARED and len(made.pages) < MAX_PAGES:
                    made.pages[number] = page
        for number, page in self._pages.items():
            own: i64 = number
            if own - ram.first_ppn < ram.page_count:  # not of a view, which nothing freezes
                page[STORES_SLOT] = DECODED
                made.pages[number] = page
        self._decoded = made
        return made

    def create(self, ppn: i64, frozen: bool = False) -> vec[i64]:
        """A code page for ``ppn``, with nothing decoded yet; or one that others use too, when the
        page of RAM is ``frozen``: the same as when RAM was frozen as a whole.
        """
        key: int = ppn
        decoded = self._decoded
        if not frozen or decoded is None:
            return self._fresh(ppn)
        if key in decoded.pages:
            self._pages[key] = decoded.pages[key]
        else:
            page = self._fresh(ppn)
            page[STORES_SLOT] = DECODED
            if len(decoded.pages) < MAX_PAGES:
                decoded.pages[key] = page
        return self._pages[key]

    def _fresh(self, ppn: i64) -> vec[i64]:
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
