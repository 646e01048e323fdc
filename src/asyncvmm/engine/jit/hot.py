"""Pages that stay hot, of one engine: what is wanted, being made and made.

Who may touch what decides whether this is safe. Everything of a guest (harts, pages, the translator,
the arena) belongs to the thread that runs the guest; it calls ``serve`` between two runs of its code,
when nothing executes in the arena. The background thread gets copies that cannot change and hands
back objects, through deques. Before code is put into place, its page must still be in the version that
it was made of, so code for what was overwritten, dropped or evicted meanwhile is thrown away.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from asyncvmm.arch.code import PPN_SLOT
from asyncvmm.arch.tlb import FETCH_MASK
from asyncvmm.engine.jit import state_words as at
from asyncvmm.engine.jit.pages import SLOTS, Page
from asyncvmm.engine.jit.regions import CachedRegion, RegionStore, page_key
from asyncvmm.engine.jit.space import Arena
from asyncvmm.engine.jit.translator import BLOCK_BYTES, Translator

INTERVAL_S: Final = 0.002
MAX_WAITING: Final = 64  # requests of one engine; what does not fit is asked for again
MAX_WANTED: Final = 1024  # hints
SAMPLES: Final = 10  # of one page before it is compiled: about 20 ms of its time
PAGE_SHARE: Final = (
    8  # the regions known for a page may fill one part in so many of the memory for code
)
STUB_BYTES: Final = 11
_ALIGN: Final = 16  # of the arena, for other code
_WORDS: Final = struct.Struct(f"<{SLOTS}q")


@dataclass(frozen=True)
class Request:
    """What a region is made of: ``words`` are the page's decoded words, eight bytes each.

    It is made for ``roots``, and has what other slots lead to, that were ``hot`` before, if that fits.
    """

    translator: Translator
    page: Page
    version: int
    key: str
    words: bytes
    entries: tuple[int, ...]
    roots: tuple[int, ...]
    hot: tuple[int, ...]


@dataclass(frozen=True)
class Made:
    """A region that waits to be put into place."""

    request: Request
    region: CachedRegion
    compile_ns: int


def compile_request(request: Request, rounds: Mapping[int, int]) -> Made | None:
    """What hangs together with the roots as one function, or None when they cannot be optimised.

    Any thread may call.
    """
    from asyncvmm.engine.jit.llvm import compile_region
    from asyncvmm.engine.jit.region_ir import Region

    began = time.perf_counter_ns()
    region = Region(
        _WORDS.unpack(request.words), request.entries, request.roots, rounds, request.hot
    )
    if not region.entries:
        return None
    data = compile_region(region.text())
    slots = sorted({slot for block in region.blocks.values() for slot in block})
    made = CachedRegion(tuple(region.entries), tuple(slots), data)
    return Made(request, made, time.perf_counter_ns() - began)


class HotPages:
    """One engine's hot pages: all methods are for the thread that runs the guest.

    ``samples`` looks, ``interval_s`` apart, at which a hart is in a page make the page hot. Regions come
    from and go to ``store``.
    """

    def __init__(
        self,
        interval_s: float = INTERVAL_S,
        samples: int = SAMPLES,
        store: RegionStore | None = None,
    ) -> None:
        self.interval_s = interval_s
        self.samples = samples
        self.store = store if store is not None else RegionStore(None)
        # Known regions wait until a hart is seen in their page: most pages run for a moment only.
        self.waits = True
        # Between the threads; what goes through is not changed any more.
        self.watched: tuple[tuple[Any, Translator], ...] = ()
        self.wanted: deque[tuple[Translator, int, tuple[int, ...]]] = deque(maxlen=MAX_WANTED)
        self.requests: deque[Request] = deque()
        self.made: deque[Made] = deque()
        # Statistics.
        self.regions = 0
        self.instructions = 0
        self.compile_ns = 0
        self.hits = 0
        self.misses = 0
        self.stale = 0
        self.homeless = 0

    def watch(self, words: Any, translator: Translator) -> None:
        """Look at this hart too."""
        self.watched = (*self.watched, (words, translator))

    def serve(self, runs: Translator, symbols: Mapping[str, int]) -> None:
        """Ask for what was found hot; put into place what was made, now or at another time.

        ``runs`` is the translator of the hart that runs: there may be regions for its new pages.
        Of shared pages the caller has the lock.
        """
        newcomers, runs.newcomers = runs.newcomers, []
        if runs.resets > 0:
            # All that is known did not fit: what comes back has only what it is run for, or it would
            # drive out the others, and they it, with hardly a step in between.
            newcomers = []
        runs.catch_up()
        for page in newcomers:
            if page.looked != page.version:
                continue  # it changed, or was evicted, before anybody came here
            entries = self.store.entries.of(_key(runs, page))
            page.learnt = entries.used
            runs.expect(page, entries.known())
            if not self.waits:
                self.look_up(runs, page, symbols)
        while self.wanted:
            translator, table, roots = self.wanted.popleft()
            translator.catch_up()
            page_there = translator.page_at(table)
            if page_there is None or page_there.looked != page_there.version:
                continue
            self.look_up(translator, page_there, symbols)
            if not roots or len(self.requests) >= MAX_WAITING:
                continue
            request = self.request(translator, page_there, roots)
            if request is not None:
                self.misses += 1
                self.requests.append(request)
        while self.made:
            made = self.made.popleft()
            request = made.request
            self.compile_ns += made.compile_ns
            request.translator.catch_up()
            if request.page.version != request.version:
                self.stale += 1
            elif self.install(made.region, request.translator, request.page, symbols):
                request.page.placed = len(self.store.find(request.key))

    def look_up(self, translator: Translator, page: Page, symbols: Mapping[str, int]) -> None:
        """Put into place what is known for a page's bytes and is not there yet."""
        found = self.store.find(_key(translator, page))
        if len(found) > page.placed:
            memory = page.memory
            assert isinstance(memory, Arena)
            for region in worth_placing(found[int(page.placed) :], int(memory.size) // PAGE_SHARE):
                self.hits += self.install(region, translator, page, symbols)
            page.placed = len(found)

    def request(
        self, translator: Translator, page: Page, roots: Iterable[int] | None = None
    ) -> Request | None:
        """A copy of the page, or None when all of ``roots`` have had their turn; default all."""
        entries = [slot for slot in range(SLOTS) if page.table[slot] != translator.missing]
        wanted = set(entries if roots is None else roots).intersection(entries) - page.tried
        if not wanted:
            return None
        page.tried |= wanted
        # One region of all that is hot is better than several that leave for each other.
        hot = page.hot - wanted
        page.hot |= wanted
        words = bytes(memoryview(page.code))[: _WORDS.size]
        return Request(
            translator,
            page,
            int(page.version),
            _key(translator, page),
            words,
            tuple(entries),
            tuple(sorted(wanted)),
            tuple(sorted(hot)),
        )

    def install(
        self,
        region: CachedRegion,
        translator: Translator,
        page: Page,
        symbols: Mapping[str, int],
    ) -> bool:
        """Put a region into memory and let the page's entries lead there; False without room.

        The page's bytes are those that the region was made of.
        """
        code = region.code
        memory = page.memory
        assert isinstance(memory, Arena)
        start = int(memory.used) + -int(memory.used) % code.align
        place = start + len(code.image)
        place += -place % _ALIGN
        end = place + STUB_BYTES * len(region.entries)
        if end + BLOCK_BYTES > memory.size:
            self.homeless += 1  # the next block that is translated makes room
            return False
        if not page.key:
            # Only of what is decoded is it noticed that it changes.
            for slot in region.slots:
                translator.decode(page, slot)
        self.regions += 1
        self.instructions += len(region.slots)
        memory.write(start, code.link(memory.address + start, symbols))
        target = start + code.functions["region"].start
        memory.used = end + -end % _ALIGN
        for slot in region.entries:
            stub = b"\x41\xbd" + slot.to_bytes(4, "little")  # mov r13d, slot
            memory.write(place, stub + _jump(place + len(stub), target))
            old = page.table[slot]
            if old != translator.missing:
                memory.change(old, _jump(old, place))
            page.enter_at(slot, place)
            place += STUB_BYTES
        page.tried |= set(region.slots)
        return True


def worth_placing(regions: tuple[CachedRegion, ...], room_bytes: int) -> tuple[CachedRegion, ...]:
    """Of a page's regions, the newest last: those that newer ones leave entries to, in their order.

    They take at most ``room_bytes``: a page that fills the memory for code would drive out all others, and
    itself, at every turn.
    """
    chosen: list[CachedRegion] = []
    covered: set[int] = set()
    for region in reversed(regions):
        if len(region.data) <= room_bytes and not covered.issuperset(region.entries):
            chosen.append(region)
            covered.update(region.entries)
            room_bytes -= len(region.data)
    return tuple(reversed(chosen))


def _key(translator: Translator, page: Page) -> str:
    """The name of what is made of the page's bytes."""
    if page.key:
        return page.key
    ram = translator.harts[0].ram
    return page_key(bytes(memoryview(ram.pages[page.code[PPN_SLOT] - ram.first_ppn])))


def _jump(place: int, target: int) -> bytes:
    return b"\xe9" + (target - (place + 5)).to_bytes(4, "little", signed=True)


class Session(Protocol):
    """What the background thread knows of an engine: engine.jit.build.Native."""

    hot: HotPages | None
    pending: Any
    asleep: Any


def sample(session: Session, hot: HotPages, counts: dict[int, list[int]]) -> tuple[bool, bool]:
    """Look where the engine's harts are; whether any runs, and in code that is not optimised.

    The background thread's.

    Words of a running hart are read while it changes them. What comes of it is no more than the address
    of an entry table and slots, which the guest's own thread looks up: wrong ones cost time only.
    """
    running = news = False
    for words, translator in hot.watched:
        if words[at.REASON] != at.RUNNING:
            continue
        running = True
        base, offset = words[at.BASE], words[at.WHERE]
        place = at.FETCH_TLB + 2 * ((base >> 12) & FETCH_MASK)
        table = words[place + 1]
        if offset < 0 or words[place] & -4096 != base:
            continue  # it is in optimised code, or has just gone elsewhere
        news = True
        seen = counts.setdefault(table, [])
        seen.append(offset >> 1)
        if len(seen) >= hot.samples:
            del counts[table]
            hot.wanted.append((translator, table, tuple(seen)))
            session.pending = 1
        elif len(seen) == 1:
            hot.wanted.append((translator, table, ()))  # there may be regions for it
            session.pending = 1
    return running, news
