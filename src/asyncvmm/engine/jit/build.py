"""Builds the engine: compiles support code and stencils with LLVM and puts them into memory."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any, Final

from librt.vecs import append, vec
from mypy_extensions import i64

from asyncvmm.arch.hart import Hart
from asyncvmm.engine.jit import state_words as at
from asyncvmm.engine.jit import translator as tr
from asyncvmm.engine.jit.engine import Attacher, TranslatingEngine
from asyncvmm.engine.jit.layout import Layout, address_of
from asyncvmm.engine.jit.llvm import Object, compile_ir, parse_object
from asyncvmm.engine.jit.lowerings import LOWERINGS
from asyncvmm.engine.jit.stencil_ir import COLDS, HOLES, stencils_ir
from asyncvmm.engine.jit.support import support_ir
from asyncvmm.engine.jit.translator import CodeMemory, Stencils, Translator
from asyncvmm.isa import opcodes

ARENA_BYTES: Final = 64 << 20
_PLACES: Final = {"next": tr.NEXT, "taken": tr.TAKEN, "again": tr.AGAIN, "cold": tr.COLD, "back": tr.BACK}
_OWN: Final = {"block": tr.BLOCK, "slow": tr.SLOW, "stub": tr.STUB, "leave": tr.LEAVE, "cross": tr.CROSS}
_COLD: Final = {name: tr.COLDS + number for number, name in enumerate(COLDS)}


class Arena(CodeMemory):
    """Executable memory of one engine."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._map = mmap.mmap(-1, size, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._view = (ctypes.c_char * size).from_buffer(self._map)
        self.address = ctypes.addressof(self._view)
        self.size = size

    def put(self, position: i64, code: Any, length: i64) -> None:
        """See CodeMemory."""
        ctypes.memmove(self.address + position, address_of(code), length)

    def write(self, position: int, data: bytes) -> None:
        """Put bytes there."""
        self._map[position : position + len(data)] = data

    def patch(self, position: i64, value: i64) -> None:
        """See CodeMemory."""
        self._map[position : position + 4] = (value & 0xFFFFFFFF).to_bytes(4, "little")

    def table_address(self, table: Any) -> i64:
        """See CodeMemory."""
        return address_of(table)


class Native(Attacher):
    """Support code and stencils in an arena, ready to be used by the harts of one guest."""

    def __init__(self, arena_bytes: int = ARENA_BYTES) -> None:
        layout = Layout()
        self.arena = Arena(arena_bytes)
        self.symbols: dict[str, int] = {}
        support = parse_object(compile_ir(layout.fill(support_ir()), passes=True, relocation="pic"))
        self._load(support)
        text, colds, ends = stencils_ir()
        part = parse_object(compile_ir(layout.fill(text), passes=True))
        self.stencils = self._stencils(part, colds, ends)
        self.missing = self.symbols["missing"] - self.arena.address
        prototype = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
        self.enter = prototype(self.symbols["enter"])
        self._kept: list[Any] = []

    def _load(self, part: Object) -> int:
        """Put an object into the arena; its functions become symbols."""
        start = self.arena.used
        address = self.arena.address + start
        self.arena.write(start, part.link(address, self.symbols))
        for name, function in part.functions.items():
            self.symbols[name] = address + function.start
        self.arena.used = start + (len(part.image) + 63 & -64)
        return address

    def _stencils(self, part: Object, colds: dict[str, str], ends: set[str]) -> Stencils:
        """Cut the object into stencils."""
        # Constants that stencils refer to stay where the whole object is loaded.
        start = self.arena.used
        home = self.arena.address + start
        self.arena.write(start, part.image)
        self.arena.used = start + (len(part.image) + 63 & -64)
        numbers = {f"op.{name}": self._number(name) for name in LOWERINGS} | _OWN | _COLD
        numbers |= {f"tail.{name}": tr.TAILS + self._number(name) for name in LOWERINGS}
        addresses: list[int] = []
        rows: list[tuple[int, int, int, int, int]] = []
        holes: list[int] = []
        for name, function in part.functions.items():
            found = [
                r
                for r in part.relocations
                if function.start <= r.position < function.start + function.size
            ]
            size = function.size
            last = [r for r in found if r.position + 4 == function.start + size]
            if last and last[0].symbol in ("next",) and part.image[last[0].position - 1] == 0xE9:
                size -= 5
                found.remove(last[0])
            rows.append((numbers[name], function.start, size, len(holes) // 5, len(found)))
            for r in found:
                if r.symbol.startswith("h."):
                    symbol = HOLES.index(r.symbol[2:])
                elif r.symbol in _PLACES:
                    symbol = _PLACES[r.symbol]
                else:
                    symbol = tr.FIXED + len(addresses)
                    if r.symbol in part.sections:
                        addresses.append(home + part.sections[r.symbol])
                    else:
                        addresses.append(self.symbols[r.symbol])
                holes += [r.position - function.start, r.size, int(r.relative), symbol, r.addend]
        stencils = Stencils(part.image, rows, holes)
        for address in addresses:
            stencils.addresses = append(stencils.addresses, address)
        for name, cold in colds.items():
            number = self._number(name)
            if cold:
                stencils.cold[number] = _COLD[cold]
            lines = LOWERINGS[name].split("\n")
            if any(line.startswith("goto if") for line in lines):
                stencils.ends[number] = 2
            elif name in ends:
                stencils.ends[number] = 1
        return stencils

    @staticmethod
    def _number(name: str) -> int:
        return opcodes.NAMES.index(name)

    def attach(self, hart: Hart) -> Translator:
        """See Attacher."""
        words = vec[i64]([0] * (at.WORDS + 1))
        for i in range(33):
            words[i] = hart.x[i]
        hart.x = words
        translator = hart.code.listener
        if not isinstance(translator, Translator):
            translator = Translator(
                self.stencils, self.arena, self.missing, hart.ram.first_ppn, hart.ram.page_count
            )
            hart.code.listener = translator
        words[at.HART] = id(hart)
        words[at.F] = address_of(hart.f)
        words[at.TABLES] = address_of(translator.tables)
        words[at.ARENA] = self.arena.address
        words[at.WORDS] = address_of(words)
        hart.tlb.native = words
        hart.tlb.has_native = True
        hart.tlb.clear_native()
        self._kept.append(hart)
        return translator


def make_engine() -> TranslatingEngine:
    """A translating engine for the harts of one guest."""
    native = Native()
    return TranslatingEngine(native, native.enter)
