"""One operation of a region as LLVM IR, with registers, constants and labels still to be filled in.

An access looks its page up in the TLB, or first tries one that an earlier access found.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

from asyncvmm.engine.jit import state_words as at
from asyncvmm.engine.jit.lowerings import LOWERINGS
from asyncvmm.engine.jit.native import ENTERED, MISALIGNED, NOT_HERE, TRAPPED
from asyncvmm.engine.jit.stencil_ir import Expander, UnsupportedError, hole
from asyncvmm.engine.jit.support import THERE, word
from asyncvmm.isa.opcodes import NAMES

# Success is odd, see _unless_filled.
assert (NOT_HERE | TRAPPED) & 1 == 0 and ENTERED & MISALIGNED & THERE & 1 == 1

# Stands where an entry may have left the TLB for another.
FORGET: Final = " FORGET unless "
# How likely an access is to hit the page of an earlier one: a miss is a call, or looked up in place.
LIKELY: Final = 1
MAYBE: Final = 2
_OUTSIDE: Final = frozenset(("lr", "sc", "amo_load", "amo_store"))


def leaving(way: str, a: str, b: str = "") -> list[str]:
    """Lines that go out by a way, with its arguments."""
    lines = [f" store i64 {a}, ptr %a.out"]
    if b:
        lines.append(f" store i64 {b}, ptr %b.out")
    return [*lines, f" br label %out.{way}"]


class Template(Expander):
    """One operation's lines, with constants and labels still to be filled in.

    With ``near`` (LIKELY, MAYBE or 0), PAGE and ADDEND stand for those of an earlier access. ``page`` and
    ``addend`` name this one's.
    """

    def __init__(self, lowering: str, near: int) -> None:
        self.near = near
        self.page = ""
        self.addend = ""
        super().__init__(lowering)

    def leave(self, target: str, a: str = "poison") -> None:
        """Jumps: inside the function where that is possible."""
        if target == "@next":
            self.emit("br label %NEXT")
        elif target == "@taken":
            self.emit("br label %TAKEN")
        elif target == "@refuse":
            self.go_out("slow", hole("fix"))
        elif target == "@dispatch":
            self.go_out("dispatch", a)
        else:
            raise UnsupportedError(target)

    def go_out(self, way: str, a: str, b: str = "") -> None:
        """Out of the function by one of the ways that all instructions share."""
        self.lines += leaving(way, a, b)

    def read(self, target: str, register: str) -> None:
        """See Expander."""
        self.emit(f"{target} = READ {register}")

    def write(self, value: str) -> None:
        """See Expander."""
        self.emit(f"WRITE {value}")

    def read_float(self, target: str, register: str) -> None:
        """See Expander."""
        self.emit(f"{target} = FREAD {register}")

    def write_float(self, value: str) -> None:
        """See Expander."""
        self.emit(f"FWRITE {value}")

    def guard(self) -> None:
        """See Expander; nothing in a region changes what it depends on, so it is read once."""
        go = self.fresh()
        self.emit(f"br i1 %fpu, label {go}, label %float.slow, !prof !1")
        self.lines.append(f"{go[1:]}:")
        self.leaves = True

    def csr(self, target: str, how: int, value: str) -> None:
        """Left to the first tier."""
        raise UnsupportedError("csr")

    def system(self, name: str, arguments: list[str]) -> None:
        """Left to the first tier."""
        raise UnsupportedError(name)

    def lookup(self, address: str, bits: int, tag_offset: int, cold: str) -> str:
        """The host pointer; on a miss the entry is made here."""
        kind = "store" if tag_offset else "load"
        if self.near:
            self._near(address, bits, kind, tag_offset)
        else:
            self._whole(address, bits, kind, tag_offset)
        host, pointer = self.fresh(), self.fresh()
        self.emit(
            f"{host} = add i64 {self.addend}, {address}",
            f"{pointer} = inttoptr i64 {host} to ptr",
        )
        return pointer

    def _whole(self, address: str, bits: int, kind: str, tag_offset: int) -> str:
        """Look the address up in the TLB; the label where that ends."""
        tag, mask, pc, context, want, hit, te = (self.fresh() for _ in range(7))
        yes, no, near, ph, hart, how, filled, far, join = (self.fresh() for _ in range(9))
        self.page, self.addend = self.fresh(), self.fresh()
        e, pa = self._entry(address)
        self.emit(
            f"{te} = getelementptr i8, ptr {e}, i64 {8 * at.TLB + tag_offset}",
            f"{tag} = load i64, ptr {te} ;T",
            f"{mask} = and i64 {address}, {-4096 | (bits // 8 - 1)}",
            f"{pc} = {word(at.CONTEXT)}",
            f"{context} = load i64, ptr {pc} ;S",
            f"{want} = or i64 {mask}, {context}",
            f"{hit} = icmp eq i64 {want}, {tag}",
            f"br i1 {hit}, label {yes}, label {no}, !prof !1",
        )
        self.lines.append(f"{no[1:]}:")
        self.emit(
            f"{ph} = {word(at.HART)}",
            f"{hart} = load ptr, ptr {ph} ;S",
            # It changes the TLB, and nothing else that this function reads: without the mark, code
            # after it could pair a tag read before it with an addend read after it.
            f"{how} = call FILL_{kind}(ptr {hart}, i64 {address}, i64 {bits // 8}, i1 true) ;T",
        )
        self._unless_filled(how, filled)
        self.emit(f"{far} = load i64, ptr {pa} ;T", f"br label {join}")
        self.lines.append(f"{yes[1:]}:")
        self.emit(f"{near} = load i64, ptr {pa} ;T", f"br label {join}")
        self.lines.append(f"{join[1:]}:")
        self.emit(
            f"{self.addend} = phi i64 [ {near}, {yes} ], [ {far}, {filled} ]",
            f"{self.page} = and i64 {address}, -4096",
        )
        return join

    def _near(self, address: str, bits: int, kind: str, tag_offset: int) -> None:
        """Try the page of an earlier access first."""
        want, inside, same, whole = (self.fresh() for _ in range(4))
        how, end, join, page, addend = (self.fresh() for _ in range(5))
        self.emit(
            f"{want} = and i64 {address}, {-4096 | (bits // 8 - 1)}",
            f"{inside} = icmp eq i64 {want}, PAGE",
            f"br i1 {inside}, label {same}, label {whole}, !prof !1",
        )
        self.lines.append(f"{whole[1:]}:")
        if self.near == MAYBE:
            end = self._whole(address, bits, kind, tag_offset)
        else:
            self.emit(
                f"{how} = call FILL_near_{kind}(ptr %s, i64 {address}, i64 {bits // 8}) ;T",
            )
            self._unless_filled(how, end)
            self.page, self.addend = self.fresh(), self.fresh()
            _, pa = self._entry(address)
            self.emit(
                f"{self.addend} = load i64, ptr {pa} ;T", f"{self.page} = and i64 {address}, -4096"
            )
        self.emit(f"br label {join}")
        self.lines.append(f"{same[1:]}:")
        self.emit(f"br label {join}")
        self.lines.append(f"{join[1:]}:")
        self.emit(
            f"{addend} = phi i64 [ {self.addend}, {end} ], [ ADDEND, {same} ]",
            f"{page} = phi i64 [ {self.page}, {end} ], [ PAGE, {same} ]",
        )
        self.page, self.addend = page, addend

    def _entry(self, address: str) -> tuple[str, str]:
        """Pointers: to an address's place in the TLB (less the TLB's own), and to its addend."""
        t0, t1, e, pa = (self.fresh() for _ in range(4))
        self.emit(
            f"{t0} = lshr i64 {address}, 7",
            f"{t1} = and i64 {t0}, {1023 << 5}",
            f"{e} = getelementptr i8, ptr %s, i64 {t1}",
            f"{pa} = getelementptr i8, ptr {e}, i64 {8 * at.TLB + 16}",
        )
        return e, pa

    def _unless_filled(self, how: str, filled: str) -> None:
        """Leave by what became of a fill, or go on at a label that is placed here."""
        failed, good = self.fresh(), self.fresh()
        self.emit(
            f"{good} = trunc i64 {how} to i1",  # of what fills say, only success is odd
            f"br i1 {good}, label {filled}, label {failed}, !prof !1",
        )
        self.lines.append(f"{failed[1:]}:")
        self.emit(f"store i64 {how}, ptr %how.out")
        self.go_out("fill", hole("fix"), hole("done"))
        kept = self.fresh()
        self.lines.append(f"{filled[1:]}:")
        self.emit(f"{kept} = icmp eq i64 {how}, {THERE}", f"FORGET unless {kept}")


@dataclass(frozen=True)
class Operation:
    """A supported operation. ``ends`` says whether it ends a block: 1 always, 2 may."""

    lines: tuple[str, ...]
    declared: frozenset[str]
    ends: int
    page: str  # names of what an access found, "" where there is none
    addend: str

    @functools.cached_property
    def jumps(self) -> bool:
        """Whether it goes to a fixed distance."""
        return any("TAKEN" in line for line in self.lines)

    @functools.cached_property
    def writes(self) -> bool:
        """Whether it changes an integer register."""
        return any(line.lstrip().startswith("WRITE") for line in self.lines)


@functools.cache
def template(op: int, near: int = 0) -> Operation | None:
    """What is known of an operation; None when it is not supported."""
    name = NAMES[op] if op < len(NAMES) else ""
    lowering = LOWERINGS.get(name)
    if lowering is None or any(word in lowering for word in _OUTSIDE):
        return None
    try:
        made = Template(lowering, near)
    except UnsupportedError:
        return None
    ends = 2 if "goto if" in lowering else int(made.ended)
    text = "\n".join(made.lines)
    lines = [line for line in text.split("\n") if line.strip()]
    return Operation(tuple(lines), frozenset(made.declared), ends, made.page, made.addend)


def known_template(op: int, near: int = 0) -> Operation:
    """A supported operation."""
    found = template(op, near)
    assert found is not None
    return found


def is_store(op: int) -> bool:
    """Whether a supported operation stores."""
    return any("FILL_store" in line for line in known_template(op).lines)
