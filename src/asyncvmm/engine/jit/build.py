"""Builds the engine: compiles support code and stencils with LLVM and puts them into memory."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import mmap
import threading
from bisect import bisect_left
from pathlib import Path
from typing import Any, Final

from mypy_extensions import i64

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
from asyncvmm.engine.jit.regions import region_store
from asyncvmm.engine.jit.stencil_ir import COLDS, HOLES, stencils_ir
from asyncvmm.engine.jit.support import support_ir
from asyncvmm.engine.jit.translator import CodeMemory, Stencils, Translator
from asyncvmm.isa.opcodes import NAMES

ARENA_BYTES: Final = 64 << 20
_PLACES: Final = {
    "next": tr.NEXT, "taken": tr.TAKEN, "again": tr.AGAIN, "cold": tr.COLD, "back": tr.BACK,
    "refuse": tr.REFUSE,
}  # fmt: skip
_OWN: Final = {
    "block": tr.BLOCK, "slow": tr.SLOW, "stub": tr.STUB, "leave": tr.LEAVE, "cross": tr.CROSS,
    "mode": tr.MODE,
}  # fmt: skip
_COLD: Final = {name: tr.COLDS + number for number, name in enumerate(COLDS)}


_EXACT: Final = ("i32_to_f64", "u32_to_f64")


class Arena(CodeMemory):
    """Executable memory of one engine."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._map = mmap.mmap(
            -1,
            size,
            flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,
            prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC,
        )
        # Code jumps about: with small pages the host's own TLB would be in the way.
        with contextlib.suppress(OSError):
            self._map.madvise(mmap.MADV_HUGEPAGE)
        self._bytes = memoryview(self._map)
        self._view = (ctypes.c_char * size).from_buffer(self._map)
        self.address = ctypes.addressof(self._view)
        self.size = size

    def put(self, position: i64, code: Any, length: i64) -> None:
        """See CodeMemory."""
        # No ctypes here: it would hand over the interpreter's lock for each block.
        self._bytes[position : position + length] = memoryview(code)[:length]

    def write(self, position: int, data: bytes) -> None:
        """Put bytes there."""
        self._map[position : position + len(data)] = data

    def patch(self, position: i64, value: i64) -> None:
        """See CodeMemory."""
        self._map[position : position + 4] = int(value & 0xFFFFFFFF).to_bytes(4, "little")

    def table_address(self, table: Any) -> i64:
        """See CodeMemory."""
        return address_of(table)


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


@functools.cache
def _cached_parts(cache: Path | None) -> Parts:
    return Parts(cache)


def _parts(cache: Path | None) -> Parts:
    with _building:
        return _cached_parts(cache)


class Native(Attacher):
    """Support code in an arena, ready for the harts of one guest."""

    def __init__(
        self,
        cache: Path | None = None,
        arena_bytes: int = ARENA_BYTES,
        hot: HotPages | None = None,
        watch: bool = True,
        threshold: int = tr.THRESHOLD,
    ) -> None:
        """With ``hot``, pages are compiled again; without ``watch``, only when it is told to.

        ``threshold`` (0 to 255) is how often a block is interpreted before it is translated.
        """
        super().__init__()
        self.hot = hot
        self.threshold = threshold
        self.parts = _parts(cache)
        self.arena = Arena(arena_bytes)
        self.translators: list[Translator] = []
        self.symbols: dict[str, int] = {}
        self._load(self.parts.support)
        # Constants that stencils refer to stay where the whole object is.
        part = self.parts.object
        home = self.arena.address + self.arena.used
        self.arena.write(self.arena.used, part.image)
        self._advance(len(part.image))
        self.addresses = [
            home + part.sections[name] if name in part.sections else self.symbols[name]
            for name in self.parts.symbols
        ]
        self.arena.start = self.arena.used
        self.missing = self.symbols["missing"] - self.arena.address
        prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        self.enter = prototype(self.symbols["enter"])
        self.watched = background().add(self) if hot is not None and watch else None

    def statistics(self) -> dict[str, int]:
        """See Attacher."""
        each = self.translators
        found = {
            "blocks": sum(int(translator.blocks) for translator in each),
            "translated": sum(int(translator.instructions) for translator in each),
            "changed": sum(int(translator.changed) for translator in each),
            "evictions": sum(int(translator.evicted) for translator in each),
            "resets": int(self.arena.generation),
            "code_bytes": int(self.arena.used),
            "code_bytes_most": int(max(self.arena.highest, self.arena.used)),
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
        if self.hot is not None:
            self.hot.serve(runs, self.arena, self.symbols)
        runs.newcomers.clear()

    def _advance(self, length: int) -> None:
        self.arena.used = self.arena.used + (length + 63 & -64)

    def _load(self, part: Object) -> None:
        """Put an object into the arena; its functions become symbols."""
        address = self.arena.address + self.arena.used
        self.arena.write(self.arena.used, part.link(address, self.symbols))
        for name, function in part.functions.items():
            self.symbols[name] = address + function.start
        self._advance(len(part.image))

    def attach(self, hart: Hart) -> Translator:
        """See Attacher."""
        translator = hart.code.listener
        if not isinstance(translator, Translator):
            translator = Translator(
                self.parts.stencils,
                self.addresses,
                self.arena,
                self.missing,
                hart.ram.first_ppn,
                hart.ram.table_size,
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
        cache, hot=HotPages(store=region_store(cache)) if hot else None, threshold=threshold
    )
    return TranslatingEngine(native, native.enter)
