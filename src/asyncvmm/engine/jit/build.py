"""Builds the engine: compiles support code and stencils with LLVM and puts them into memory."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
from bisect import bisect_left
from pathlib import Path
from typing import Final

from asyncvmm.arch.hart import Hart
from asyncvmm.engine.jit import state_words as at
from asyncvmm.engine.jit import translator as tr
from asyncvmm.engine.jit.background import background
from asyncvmm.engine.jit.engine import Attacher, TranslatingEngine
from asyncvmm.engine.jit.float_ir import TRUNCATING
from asyncvmm.engine.jit.hot import HotPages
from asyncvmm.engine.jit.layout import Layout, address_of
from asyncvmm.engine.jit.lowerings import LOWERINGS
from asyncvmm.engine.jit.object_cache import compile_cached
from asyncvmm.engine.jit.objects import Object, parse_object
from asyncvmm.engine.jit.pages import CodeMemory, SharedPages
from asyncvmm.engine.jit.regions import region_store
from asyncvmm.engine.jit.space import Arena, Space
from asyncvmm.engine.jit.stencil_ir import COLDS, HOLES, stencils_ir
from asyncvmm.engine.jit.support import support_ir
from asyncvmm.engine.jit.translator import Stencils, Translator
from asyncvmm.isa.opcodes import NAMES

ARENA_BYTES: Final = 64 << 20  # of an engine that shares nothing
SHARED_BYTES: Final = 256 << 20
SHARED_PAGES: Final = 8192  # 34 KiB each, without their code
GUEST_BYTES: Final = 64 << 20  # what one guest may add to shared code: nobody fills it alone
SEGMENTS: Final = 128
_PLACES: Final = {
    "next": tr.NEXT, "taken": tr.TAKEN, "again": tr.AGAIN, "cold": tr.COLD, "back": tr.BACK,
    "refuse": tr.REFUSE,
}  # fmt: skip
_OWN: Final = {
    "block": tr.BLOCK, "slow": tr.SLOW, "leave": tr.LEAVE, "cross": tr.CROSS, "mode": tr.MODE,
}  # fmt: skip
_COLD: Final = {name: tr.COLDS + number for number, name in enumerate(COLDS)}


_EXACT: Final = ("i32_to_f64", "u32_to_f64")


class Parts:
    """What all engines of a process share: the compiled support code and stencils."""

    def __init__(self, cache: Path | None) -> None:
        layout = Layout()
        self.support = parse_object(
            compile_cached(layout.fill(support_ir()), cache, relocation="pic")
        )
        text, colds, ends = stencils_ir()
        self.object = parse_object(compile_cached(layout.fill(text), cache, thread=True))
        self.symbols: list[str] = []
        self.rounds: dict[int, int] = {}
        self.stencils = self._stencils(colds, ends)

    def _stencils(self, colds: dict[str, str], ends: set[str]) -> Stencils:
        """Cut the object into stencils; ``symbols`` are what their fixed holes refer to."""
        part = self.object
        numbers = {f"op.{name}": NAMES.index(name) for name in LOWERINGS} | _OWN | _COLD
        numbers |= {f"tail.{name}": tr.TAILS + NAMES.index(name) for name in LOWERINGS}
        rows: list[tuple[int, int, int, int, int]] = []
        holes: list[int] = []
        relocations = sorted(part.relocations, key=lambda item: item.position)
        positions = [item.position for item in relocations]
        for name, function in part.functions.items():
            first = bisect_left(positions, function.start)
            found = relocations[first : bisect_left(positions, function.start + function.size)]
            size = function.size
            if found:
                last = found[-1]
                ends_here = last.position + 4 == function.start + size
                if ends_here and last.symbol == "next" and part.image[last.position - 1] == 0xE9:
                    size -= 5
                    found.pop()
            rows.append((numbers[name], function.start, size, len(holes) // 5, len(found)))
            for r in found:
                if r.symbol.startswith("h."):
                    symbol = HOLES.index(r.symbol[2:])
                elif r.symbol in _PLACES:
                    symbol = _PLACES[r.symbol]
                else:
                    symbol = tr.FIXED + len(self.symbols)
                    self.symbols.append(r.symbol)
                holes += [r.position - function.start, r.size, int(r.relative), symbol, r.addend]
        stencils = Stencils(part.image, rows, holes)
        for name, cold in colds.items():
            number = NAMES.index(name)
            if cold:
                stencils.cold[number] = _COLD[cold]
            if any(word in LOWERINGS[name] for word in TRUNCATING):
                stencils.rounds[number] = self.rounds[number] = 2
            elif "{rm}" in LOWERINGS[name] and not any(w in LOWERINGS[name] for w in _EXACT):
                stencils.rounds[number] = self.rounds[number] = 1
            if "goto if" in LOWERINGS[name]:
                stencils.ends[number] = 2
            elif name in ends:
                stencils.ends[number] = 1
        return stencils


_building: Final = threading.Lock()  # Parts are shared by engines of all threads, and never changed
_sharing: Final = threading.Lock()


@functools.cache
def _cached_parts(cache: Path | None) -> Parts:
    return Parts(cache)


def _parts(cache: Path | None) -> Parts:
    with _building:
        return _cached_parts(cache)


class Ground:
    """A space with what all code in it uses: support code, and constants of stencils."""

    def __init__(self, parts: Parts, space: Space) -> None:
        self.parts = parts
        self.arena = Arena(space)
        self.symbols: dict[str, int] = {}
        self._load(parts.support)
        # Constants that stencils refer to stay where the whole object is.
        part = parts.object
        home = self.arena.address + self.arena.used
        self.arena.write(self.arena.used, part.image)
        self._advance(len(part.image))
        self.addresses = [
            home + part.sections[name] if name in part.sections else self.symbols[name]
            for name in parts.symbols
        ]
        self.arena.start = self.arena.used
        self.missing = self.symbols["missing"] - self.arena.address
        prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        self.enter = prototype(self.symbols["enter"])

    def _advance(self, length: int) -> None:
        self.arena.used = self.arena.used + (length + 63 & -64)

    def _load(self, part: Object) -> None:
        """Put an object into the arena; its functions become symbols."""
        address = self.arena.address + self.arena.used
        self.arena.write(self.arena.used, part.link(address, self.symbols))
        for name, function in part.functions.items():
            self.symbols[name] = address + function.start
        self._advance(len(part.image))


class SharedCode:
    """Code that all guests of a process run, and the ground that it stands on."""

    def __init__(
        self,
        cache: Path | None = None,
        size: int = SHARED_BYTES,
        pages: int = SHARED_PAGES,
        quota_bytes: int = GUEST_BYTES,
        segments: int = SEGMENTS,
    ) -> None:
        """``size`` bytes and ``pages`` at most, of which a guest may fill ``quota_bytes``."""
        self.ground = Ground(_parts(cache), Space(size, segments))
        self.pages = SharedPages(self.ground.arena, self.ground.missing, pages, quota_bytes)


@functools.cache
def _cached_shared(cache: Path | None) -> SharedCode:
    return SharedCode(cache)


def shared_code(cache: Path | None) -> SharedCode:
    """The process's, whose object code is kept below ``cache``. Any thread may call."""
    with _sharing:
        return _cached_shared(cache)


class Native(Attacher):
    """What makes code for the harts of one guest."""

    def __init__(
        self,
        cache: Path | None = None,
        arena_bytes: int = ARENA_BYTES,
        hot: HotPages | None = None,
        watch: bool = True,
        threshold: int = tr.THRESHOLD,
        shared: SharedCode | None = None,
    ) -> None:
        """With ``hot``, pages are compiled again; without ``watch``, only when it is told to.

        ``threshold`` (0 to 255) is how often a block is interpreted before it is translated. Code is
        put where ``shared`` is, or into an arena of the engine's own.
        """
        super().__init__()
        self.hot = hot
        self.threshold = threshold
        self.shared = None if shared is None else shared.pages
        ground = Ground(_parts(cache), Space(arena_bytes)) if shared is None else shared.ground
        self.ground = ground
        self.parts = ground.parts
        self.arena = ground.arena
        self.enter = ground.enter
        self.translators: list[Translator] = []
        self.watched = background().add(self) if hot is not None and watch else None
        if hot is not None:
            hot.waits = watch

    def statistics(self) -> dict[str, int]:
        """See Attacher."""
        each = self.translators
        memories: dict[int, CodeMemory] = {id(self.arena): self.arena}
        for translator in each:
            if translator.own is not None:
                memories[id(translator.own)] = translator.own
        found = {
            "blocks": sum(int(translator.blocks) for translator in each),
            "translated": sum(int(translator.instructions) for translator in each),
            "changed": sum(int(translator.changed) for translator in each),
            "evictions": sum(int(translator.evicted) for translator in each),
            "reused": sum(int(translator.reused) for translator in each),
            "resets": int(sum(memory.generation for memory in memories.values())),
            "code_bytes": int(sum(memory.used - memory.origin for memory in memories.values())),
            "code_bytes_most": int(
                sum(memory.most() - memory.origin for memory in memories.values())
            ),
        }
        if self.hot is not None:
            found["regions"] = self.hot.regions
            found["optimised"] = self.hot.instructions
            found["optimising_ns"] = self.hot.compile_ns
            found["cache_hits"] = self.hot.hits
            found["cache_misses"] = self.hot.misses
            found["stale"] = self.hot.stale
            found["homeless"] = self.hot.homeless
        return found

    def wake(self) -> None:
        """See Attacher."""
        self.asleep = False
        if self.watched is not None:
            background().wake(self.watched)

    def install(self, runs: Translator) -> None:
        """See Attacher."""
        self.pending = 0  # first: what comes later sets it again
        with self.shared.lock if self.shared is not None else contextlib.nullcontext():
            if self.hot is not None:
                self.hot.serve(runs, self.ground.symbols)
            runs.newcomers.clear()

    def attach(self, hart: Hart) -> Translator:
        """See Attacher."""
        translator = hart.code.listener
        if not isinstance(translator, Translator):
            translator = Translator(
                self.parts.stencils,
                self.ground.addresses,
                self.arena,
                self.ground.missing,
                hart.ram.first_ppn,
                hart.ram.table_size,
                self.shared,
            )
            translator.threshold = self.threshold
            hart.code.listener = translator
            self.translators.append(translator)
        translator.add_hart(hart)
        words = hart.x
        words[at.HART] = id(hart)
        words[at.F] = address_of(hart.f)
        words[at.TABLES] = address_of(translator.tables)
        words[at.ARENA] = self.arena.address
        words[at.WORDS] = address_of(words)
        hart.tlb.has_native = True
        hart.tlb.clear_native()
        if self.hot is not None:
            self.hot.watch(words, translator)
        return translator


def make_engine(
    cache: Path | None = None, hot: bool = True, threshold: int = tr.THRESHOLD
) -> TranslatingEngine:
    """A translating engine for the harts of one guest; ``cache`` is a folder for object code.

    ``hot`` says whether pages that stay hot are compiled again, with more optimisation, and
    ``threshold`` how often a block is interpreted first.
    """
    native = Native(
        cache,
        hot=HotPages(store=region_store(cache)) if hot else None,
        threshold=threshold,
        shared=shared_code(cache),
    )
    return TranslatingEngine(native, native.enter)
