"""Finds equal pages among the RAMs of one trust group, a few at a time, and lets them share.

A guest's memory holds the same bytes before and after, so nothing that a guest can see depends on when
this runs, or on whether it does.
"""

from __future__ import annotations

from typing import Final

from librt.vecs import vec
from mypy_extensions import i64

from asyncvmm.memory.pages import PRESENT, Ram
from asyncvmm.memory.shared import NONE, SharedPages, is_zero, page_hash, pages_equal

# Pages met lately that were like no shared one, by their hash: the next equal one finds its twin here.
CANDIDATES: Final = 1 << 14


class Merger:
    """The group's store, and what was met on the way."""

    def __init__(self) -> None:
        self.shared_pages: SharedPages = SharedPages()
        self.looked: i64 = 0  # pages looked at, ever
        self.merged: i64 = 0  # own pages given up for shared ones, ever
        self.zeros: i64 = 0  # own pages found to be zero and given up, ever
        self._hashes: vec[i64] = vec[i64]([0] * CANDIDATES)
        self._pages: vec[i64] = vec[i64]([0] * CANDIDATES)
        self._rams: list[Ram | None] = [None] * CANDIDATES

    def scan(self, ram: Ram, start: i64, pages: i64) -> i64:
        """Look at up to ``pages`` of ``ram``'s own pages, from page ``start`` on.

        Returns where to go on, or -1 when the end was reached. Absent and shared pages do not count.
        """
        index = start
        kind = ram.kind
        end = ram.page_count
        while index < end and pages > 0:
            if kind[index] == PRESENT:
                self._look(ram, index)
                pages -= 1
            index += 1
        return index if index < end else -1

    def share_all(self, ram: Ram) -> None:
        """Put all own pages of ``ram`` into the store: what a guest is loaded with is often another's."""
        index: i64 = 0
        while index < ram.page_count:
            if ram.kind[index] == PRESENT:
                page = ram.pages[index]
                code = page_hash(page)
                number = self.shared_pages.find(page, code)
                if number == NONE:
                    number = self.shared_pages.keep(page, code)
                else:
                    self.merged += 1
                ram.share_page(index, number)
            index += 1

    def forget(self, ram: Ram) -> None:
        """``ram`` leaves the group: its pages are nobody's twins any more."""
        i: i64 = 0
        while i < CANDIDATES:
            if self._rams[i] is ram:
                self._rams[i] = None
            i += 1
        ram.leave_store()

    def _look(self, ram: Ram, index: i64) -> None:
        """Give up one own page, when it is all zero, or like a shared one or like another own one."""
        self.looked += 1
        page = ram.pages[index]
        if page[0] == 0 and is_zero(page):
            self.zeros += 1
            ram.drop_page(index)
            return
        code = page_hash(page)
        number = self.shared_pages.find(page, code)
        if number != NONE:
            self.merged += 1
            ram.share_page(index, number)
            return
        slot = code & (CANDIDATES - 1)
        twin = self._rams[slot]
        if twin is not None and self._hashes[slot] == code:
            other = self._pages[slot]
            if twin is ram and other == index:
                return
            if twin.kind[other] == PRESENT and pages_equal(twin.pages[other], page):
                number = self.shared_pages.keep(twin.pages[other], code)
                twin.share_page(other, number)
                ram.share_page(index, number)
                self.merged += 1
                self._rams[slot] = None
                return
        self._hashes[slot] = code
        self._pages[slot] = index
        self._rams[slot] = ram
