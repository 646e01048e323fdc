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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from asyncvmm.arch.tlb import FETCH_MASK
from asyncvmm.engine.jit import state_words as at
from asyncvmm.engine.jit.llvm import Object, compile_region, parse_object
from asyncvmm.engine.jit.region_ir import Region
from asyncvmm.engine.jit.translator import BLOCK_BYTES, SLOTS, Page, Translator

INTERVAL_S: Final = 0.002
SAMPLES: Final = 10  # of one page before it is compiled: about 20 ms of its time
GROWTH: Final = 1.3  # how much more of the page has to be translated for another try
STUB_BYTES: Final = 11
_ALIGN: Final = 16  # of the arena, for other code
_WORDS: Final = struct.Struct(f"<{SLOTS}q")


class Memory(Protocol):
    """Where code goes: engine.jit.build.Arena."""

    address: Any
    used: Any
    size: Any

    def write(self, position: int, data: bytes) -> None:
        """Put bytes there."""


@dataclass(frozen=True)
class Request:
    """What a region is made of: ``words`` are the page's decoded words, eight bytes each."""

    translator: Translator
    page: Page
    version: int
    words: bytes
    entries: tuple[int, ...]


@dataclass(frozen=True)
class Made:
    """A region that waits to be put into place."""

    request: Request
    entries: list[int]
    instructions: int
    code: Object
    compile_ns: int


def compile_request(request: Request, rounds: Mapping[int, int]) -> Made | None:
    """All blocks of a page as one function; None when none of them can be optimised. Any thread."""
    began = time.perf_counter_ns()
    region = Region(list(_WORDS.unpack(request.words)), list(request.entries), rounds)
    if not region.entries:
        return None
    code = parse_object(compile_region(region.text()))
    took = time.perf_counter_ns() - began
    return Made(request, region.entries, region.instructions, code, took)


class HotPages:
    """One engine's hot pages: all methods are for the thread that runs the guest.

    ``samples`` looks, ``interval_s`` apart, at which a hart is in a page make the page hot.
    """

    def __init__(self, interval_s: float = INTERVAL_S, samples: int = SAMPLES) -> None:
        self.interval_s = interval_s
        self.samples = samples
        # Between the threads; what goes through is not changed any more.
        self.watched: tuple[tuple[Any, Translator], ...] = ()
        self.wanted: deque[tuple[Translator, int]] = deque()
        self.requests: deque[Request] = deque()
        self.made: deque[Made] = deque()
        # Statistics.
        self.regions = 0
        self.instructions = 0
        self.compile_ns = 0
        self.stale = 0
        self.homeless = 0

    def watch(self, words: Any, translator: Translator) -> None:
        """Look at this hart too."""
        self.watched = (*self.watched, (words, translator))

    def serve(self, memory: Memory, symbols: Mapping[str, int]) -> None:
        """Ask for what the background thread found hot; put into place what it made."""
        while self.wanted:
            translator, table = self.wanted.popleft()
            translator.catch_up()
            page = translator.page_at(table)
            if page is not None:
                request = self.request(translator, page)
                if request is not None:
                    self.requests.append(request)
        while self.made:
            self.install(self.made.popleft(), memory, symbols)

    def request(self, translator: Translator, page: Page) -> Request | None:
        """A copy of the page, or None when it was made already and has not grown by much."""
        entries = [slot for slot in range(SLOTS) if page.table[slot] != translator.missing]
        version = int(page.version)
        if page.made_version == version and len(entries) < int(page.made_entries) * GROWTH + 1:
            return None
        page.made_version, page.made_entries = version, len(entries)
        words = bytes(memoryview(page.code))[: _WORDS.size]
        return Request(translator, page, version, words, tuple(entries))

    def install(self, made: Made, memory: Memory, symbols: Mapping[str, int]) -> None:
        """Put a region into memory, and let the page's entries lead there."""
        self.compile_ns += made.compile_ns
        translator, page, code = made.request.translator, made.request.page, made.code
        translator.catch_up()
        if page.version != made.request.version:
            self.stale += 1
            return
        start = int(memory.used) + -int(memory.used) % code.align
        place = start + len(code.image)
        place += -place % _ALIGN
        end = place + STUB_BYTES * len(made.entries)
        if end + BLOCK_BYTES > memory.size:
            self.homeless += 1  # the next block that is translated makes room
            return
        self.regions += 1
        self.instructions += made.instructions
        memory.write(start, code.link(memory.address + start, symbols))
        region = start + code.functions["region"].start
        for slot in made.entries:
            stub = b"\x41\xbd" + slot.to_bytes(4, "little")  # mov r13d, slot
            memory.write(place, stub + _jump(place + len(stub), region))
            old = page.table[slot]
            if old != translator.missing:
                memory.write(old, _jump(old, place))
            page.table[slot] = place
            place += STUB_BYTES
        memory.used = end + -end % _ALIGN


def _jump(place: int, target: int) -> bytes:
    return b"\xe9" + (target - (place + 5)).to_bytes(4, "little", signed=True)


class Session(Protocol):
    """What the background thread knows of an engine: engine.jit.build.Native."""

    hot: HotPages | None
    pending: Any
    asleep: Any


def sample(session: Session, hot: HotPages, counts: dict[int, int]) -> bool:
    """Look where the engine's harts are; whether any runs. The background thread's.

    Words of a running hart are read while it changes them. What comes of it is no more than the number of
    an entry table, which the guest's own thread looks up.
    """
    running = False
    for words, translator in hot.watched:
        if words[at.REASON] != at.RUNNING:
            continue
        running = True
        base = words[at.BASE]
        place = at.FETCH_TLB + 2 * ((base >> 12) & FETCH_MASK)
        table = words[place + 1]
        if words[place] & -4096 != base:
            continue
        counts[table] = counts.get(table, 0) + 1
        if counts[table] >= hot.samples:
            del counts[table]
            hot.wanted.append((translator, table))
            session.pending = 1
    return running
