"""Finds pages that stay hot and has them compiled in the background.

A thread looks every few milliseconds where each hart is. That costs the guest nothing, and which
tier runs what never changes a result, so that it depends on the wall clock does no harm. Compiled
regions wait until the engine is between two runs of its code, and are thrown away when the page has
changed meanwhile.
"""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from dataclasses import dataclass
from typing import Any, Final

from asyncvmm.arch.tlb import FETCH_MASK
from asyncvmm.engine.jit import state_words as at
from asyncvmm.engine.jit.llvm import Object, compile_region, parse_object
from asyncvmm.engine.jit.region_ir import Region
from asyncvmm.engine.jit.translator import SLOTS, Page, Translator

INTERVAL_S: Final = 0.002
SAMPLES: Final = 25  # of one page before it is compiled: about 50 ms of its time
GROWTH: Final = 1.3  # how much more of the page has to be translated for another try
IDLE_LOOKS: Final = 50  # in vain before the thread sleeps until a hart runs
STUB_BYTES: Final = 11


@dataclass
class _State:
    """What is known about one page."""

    samples: int = 0
    version: int = -1
    blocks: int = 0


def entries_of(translator: Translator, page: Page) -> list[int]:
    """The slots of a page that have code."""
    return [slot for slot in range(SLOTS) if page.table[slot] != translator.missing]


@dataclass
class _Made:
    """A region that waits to be installed."""

    translator: Translator
    page: Page
    version: int
    entries: list[int]
    code: Object


class HotPages:
    """The background work of one engine."""

    def __init__(self, interval_s: float = INTERVAL_S, samples: int = SAMPLES) -> None:
        self.interval_s = interval_s
        self.samples = samples
        self.regions = 0
        self.instructions = 0
        self.compile_s = 0.0
        self._watched: list[tuple[Any, Translator]] = []
        self._states: dict[int, _State] = {}
        self._made: list[_Made] = []
        self._over = False
        self._awake = threading.Event()

    def watch(self, words: Any, translator: Translator) -> None:
        """Look at this hart too."""
        self._watched.append((words, translator))

    def start(self, native: Any) -> None:
        """Start the thread; it ends when the engine is gone."""
        thread = threading.Thread(
            target=self._run, args=(weakref.ref(native),), daemon=True, name="asyncvmm-jit"
        )
        thread.start()
        # LLVM must not be at work when the process takes it down.
        atexit.register(self._finish, thread)

    def _finish(self, thread: threading.Thread) -> None:
        self._over = True
        self._awake.set()
        thread.join()

    def wake(self) -> None:
        """Look again: a hart runs."""
        self._awake.set()

    def _run(self, owner: weakref.ref[Any]) -> None:
        idle = 0
        while not self._over:
            time.sleep(self.interval_s)
            native = owner()
            if native is None:
                break
            running = [pair for pair in self._watched if pair[0][at.REASON] == at.RUNNING]
            for words, translator in running:
                self._look(native, words, translator)
            idle = 0 if running else idle + 1
            if idle == IDLE_LOOKS:
                idle = 0
                self._awake.clear()
                native.asleep = True
                del native, running
                while not self._awake.wait(1.0) and not self._over and owner() is not None:
                    pass
        atexit.unregister(self._finish)

    def _look(self, native: Any, words: Any, translator: Translator) -> None:
        base = words[at.BASE]
        place = at.FETCH_TLB + 2 * ((base >> 12) & FETCH_MASK)
        if words[place] & -4096 != base:
            return
        page = translator.page_at(words[place + 1])
        if page is None:
            return
        state = self._states.setdefault(int(page.table_address), _State())
        state.samples += 1
        if state.samples < self.samples:
            return
        state.samples = 0
        entries = entries_of(translator, page)
        if state.version == page.version and len(entries) < state.blocks * GROWTH + 1:
            return
        state.version, state.blocks = int(page.version), len(entries)
        self.compile(native, translator, page)

    def compile(self, native: Any, translator: Translator, page: Page) -> None:
        """Make a region of all blocks of ``page`` that have been executed; it is installed later."""
        began = time.perf_counter()
        version = int(page.version)
        region = Region(list(page.code)[:SLOTS], entries_of(translator, page), native.parts.rounds)
        if not region.entries:
            return
        code = parse_object(compile_region(region.text()))
        self.compile_s += time.perf_counter() - began
        self.regions += 1
        self.instructions += region.instructions
        self._made.append(_Made(translator, page, version, region.entries, code))
        native.pending = 1

    def install(self, native: Any) -> None:
        """Put what has been made into the engine's memory, and let the entries lead there."""
        while self._made:
            made = self._made.pop()
            translator, page, memory = made.translator, made.page, native.arena
            translator.catch_up()
            need = len(made.code.image) + STUB_BYTES * len(made.entries) + 64
            if page.version != made.version or memory.used + need + 65536 > memory.size:
                continue
            start = memory.used
            memory.write(start, made.code.link(memory.address + start, native.symbols))
            place = start + (len(made.code.image) + 15 & -16)
            region = start + made.code.functions["region"].start
            for slot in made.entries:
                stub = b"\x41\xbd" + slot.to_bytes(4, "little")  # mov r13d, slot
                stub += b"\xe9" + (region - (place + STUB_BYTES)).to_bytes(4, "little", signed=True)
                memory.write(place, stub)
                old = page.table[slot]
                if old != translator.missing:
                    distance = place - (old + 5)
                    memory.write(old, b"\xe9" + distance.to_bytes(4, "little", signed=True))
                page.table[slot] = place
                place += STUB_BYTES
            memory.used = place + 63 & -64
