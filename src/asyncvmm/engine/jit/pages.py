"""What is translated, by page, and the memory that the code is in: of one guest, or shared.

A page of a guest's own is found by its physical number and follows its changes. A shared one is found
by the name of its 4096 bytes and never changes: a guest that stores into its page leaves the shared one
to the others. Code depends on the bytes only, so whoever has the same bytes may run it.

Other guests may be running the shared code while some is added. New code goes where nobody is, and is
in place before an entry table leads there; code that is there is changed while nobody runs any.
"""

from __future__ import annotations

import threading
from typing import Any, Final

from librt.vecs import vec
from mypy_extensions import i32, i64, mypyc_attr, u8

from asyncvmm.arch.code import LENGTH

SLOTS: Final = 2048


@mypyc_attr(allow_interpreted_subclasses=True)
class CodeMemory:
    """Where translated code is put. Positions are offsets from ``address``."""

    def __init__(self) -> None:
        self.address: i64 = 0
        self.origin: i64 = 0  # the position where it begins
        self.used: i64 = 0  # up to which position
        self.size: i64 = 0  # the position where it ends
        self.start: i64 = 0  # of what may be thrown away
        self.generation: i64 = 0  # how often it was
        self.highest: i64 = 0  # the most that was ever used
        self.running: i64 = 0  # threads that run code of it
        self.late: i64 = 0  # changes that wait until there are none

    def reset(self) -> None:
        """Throw everything away. No code may be running; translators ``catch_up`` before any runs."""
        if self.used > self.highest:
            self.highest = self.used
        self.used = self.start
        self.generation += 1
        self.forget_late()

    def most(self) -> i64:
        """The most that was ever used, now included."""
        return max(self.used, self.highest)

    def put(self, position: i64, code: vec[u8], length: i64) -> None:
        """Copy the first ``length`` bytes to ``position``, where no code is."""
        raise NotImplementedError

    def patch(self, position: i64, value: i64) -> None:
        """Put a 32-bit value there as soon as no code runs."""
        raise NotImplementedError

    def settle(self) -> None:
        """Make the changes that wait, if no code runs."""
        raise NotImplementedError

    def forget_late(self) -> None:
        """Never make the changes that wait."""
        raise NotImplementedError

    def table_address(self, table: vec[i32]) -> i64:
        """The host address of an entry table."""
        raise NotImplementedError

    def segment(self) -> CodeMemory | None:
        """A part of the same space for one guest alone, or None when all are taken."""
        raise NotImplementedError


class Page:
    """The translation of a physical page, or of all pages with the same bytes."""

    def __init__(self, code: vec[i64], missing: i64, memory: CodeMemory, key: str) -> None:
        """``key`` is the name of a shared page's bytes; a guest's own page has none."""
        self.code: vec[i64] = code
        self.key: str = key
        self.memory: CodeMemory = memory
        # Where blocks are: as translators know it, and as running code reads it, which of shared code
        # is told of a block when that is in place.
        self.table: vec[i32] = vec[i32]([i32(missing)] * SLOTS)
        self.entries: vec[i32] = self.table
        if key:
            self.entries = vec[i32]([i32(missing)] * SLOTS)
        # Direct jumps to slots that have no code yet: where their 32-bit distance is.
        self.link_slots: vec[i64] = vec[i64]()
        self.link_places: vec[i64] = vec[i64]()
        # How often a slot was wanted before it had code, by earlier runs too.
        self.seen: vec[u8] = vec[u8]([u8(0)] * SLOTS)
        self.version: i64 = 0  # how often its code was forgotten
        self.table_address: i64 = memory.table_address(self.entries)
        self.tried: set[int] = set()  # slots from which this version was optimised, or could not be
        self.hot: set[int] = set()  # slots where harts were seen often in this version
        self.placed: i64 = 0  # how many of the regions known for its bytes are in place
        self.looked: i64 = -1  # the version for whose bytes regions were looked up
        self.learnt: list[int] = []  # slots of blocks, for the next run of the same bytes

    def enter_at(self, slot: i64, place: i64) -> None:
        """Let everybody find the code at ``place``, where it is already."""
        self.table[slot] = i32(place)
        self.entries[slot] = i32(place)


class SharedPages:
    """Pages of all guests of a process, by the names of their bytes. Whoever calls has the ``lock``."""

    def __init__(self, memory: CodeMemory, missing: i64, limit: i64, quota_bytes: i64) -> None:
        """At most ``limit`` pages; a guest adds at most ``quota_bytes`` until all is thrown away."""
        self.memory: CodeMemory = memory
        self.missing: i64 = missing
        self.limit: i64 = limit
        self.quota_bytes: i64 = quota_bytes
        self.lock: Any = threading.RLock()
        self.pages: dict[str, Page] = {}
        self.by_table: dict[int, Page] = {}

    def find(self, key: str) -> Page:
        """The page of that name, new when there is none."""
        found = self.pages.get(key)
        if found is not None:
            return found
        page = Page(vec[i64]([0] * LENGTH), self.missing, self.memory, key)
        self.pages[key] = page
        self.by_table[int(page.table_address)] = page
        return page

    def make_room(self, block_bytes: i64) -> bool:
        """Whether there is room for a page and a block: throw all away for it, if nobody runs any."""
        memory = self.memory
        if memory.used + block_bytes <= memory.size and len(self.pages) < self.limit:
            return True
        if memory.running != 0:
            return False
        memory.reset()
        for page in self.pages.values():
            page.version += 1  # optimised code that is still being made finds nothing to go to
        self.pages = {}
        self.by_table = {}
        return True
