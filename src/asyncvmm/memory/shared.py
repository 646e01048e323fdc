"""Pages that several guests refer to: kept once, never written, counted by use.

A store belongs to one trust group (or to one guest): whoever may learn that two pages are equal. Pages
with known contents are found by a hash of their words and then compared word by word. The
hash only says where to look, so two pages of one hash cost a chance to share, nothing else.
"""

from __future__ import annotations

from typing import Final

from librt.vecs import append, vec
from mypy_extensions import i64

from asyncvmm.base.errors import InternalError
from asyncvmm.base.units import PAGE_WORDS

NONE: Final = 0  # the number of no page: those that a store has are 1 and up

_ODD: Final = 0x1E3779B97F4A7C15  # near 2**61 times the golden section


def page_hash(page: vec[i64]) -> i64:
    """64 bits that depend on every word of a page."""
    state: i64 = PAGE_WORDS
    i: i64 = 0
    while i < PAGE_WORDS:
        state = (state ^ page[i]) * _ODD
        state ^= state >> 29
        i += 1
    return state


def pages_equal(one: vec[i64], other: vec[i64]) -> bool:
    """Whether two pages hold the same words."""
    i: i64 = 0
    while i < PAGE_WORDS:
        if one[i] != other[i]:
            return False
        i += 1
    return True


def is_zero(page: vec[i64]) -> bool:
    """Whether a page holds nothing but zeros."""
    i: i64 = 0
    while i < PAGE_WORDS:
        if page[i] != 0:
            return False
        i += 1
    return True


class SharedPages:
    """The pages that a group's guests share. Whoever refers to one has called ``use`` for it."""

    def __init__(self) -> None:
        nothing: vec[i64] = vec[i64]()
        # By number. ``hashes`` holds for pages that ``find`` may find.
        self._pages: vec[vec[i64]] = vec[vec[i64]]([nothing])
        self._hashes: vec[i64] = vec[i64]([0])
        self._findable: vec[i64] = vec[i64]([0])
        self._uses: vec[i64] = vec[i64]([0])
        self._free: list[i64] = []
        self._numbers: dict[int, i64] = {}
        self._nothing: vec[i64] = nothing
        # Pages held, and references to them: what sharing saves is the difference.
        self.count: i64 = 0
        self.references: i64 = 0

    def find(self, page: vec[i64], page_hash: i64) -> i64:
        """The number of the page with these words, or NONE."""
        key: int = page_hash
        if key not in self._numbers:
            return NONE
        number = self._numbers[key]
        if pages_equal(self._pages[number], page):
            return number
        return NONE

    def keep(self, page: vec[i64], page_hash: i64) -> i64:
        """Take ``page``, which nobody writes from now on, to be found by its contents.

        Its number, used by nobody yet; where its hash is another page's, it is kept but not found.
        """
        number = self.adopt(page)
        key: int = page_hash
        if key not in self._numbers:
            self._numbers[key] = number
            self._hashes[number] = page_hash
            self._findable[number] = 1
        return number

    def adopt(self, page: vec[i64]) -> i64:
        """Take ``page``, which nobody writes from now on; its number. Nobody finds it by contents."""
        self.count += 1
        if len(self._free) > 0:
            number = self._free.pop()
            self._pages[number] = page
            return number
        number = len(self._pages)
        self._pages = append(self._pages, page)
        self._hashes = append(self._hashes, i64(0))
        self._findable = append(self._findable, i64(0))
        self._uses = append(self._uses, i64(0))
        return number

    def page(self, number: i64) -> vec[i64]:
        """The page; not to be written."""
        return self._pages[number]

    def uses(self, number: i64) -> i64:
        """How many references to a page there are."""
        return self._uses[number]

    def use(self, number: i64) -> None:
        """One more reference to a page."""
        self._uses[number] += 1
        self.references += 1

    def release(self, number: i64) -> None:
        """One reference less; the page is dropped with the last one."""
        left = self._uses[number] - 1
        if left < 0:
            raise InternalError(f"shared page {int(number)} was released too often")
        self._uses[number] = left
        self.references -= 1
        if left == 0:
            if self._findable[number] != 0:
                self._findable[number] = 0
                self._numbers.pop(int(self._hashes[number]), None)
            self._pages[number] = self._nothing
            self._free.append(number)
            self.count -= 1
