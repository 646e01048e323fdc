"""A page's hot code as one LLVM function: all its blocks, jumping to each other directly.

Registers and what is left of the slice are locals: read when the function is entered, stored whenever
it is left, by a few ways that all instructions share. LLVM is told that the guest's memory, the hart's
words, the floating-point registers and the TLB do not overlap. Jumps to where a register says go through
one switch, if they stay among the function's blocks.

Where an access is likely to hit the page of an earlier one, that is tried before the TLB: after an access
with the same base register, and in a block that jumps to itself, after the same access the last time.
Nothing that a region does changes what an address means: whatever does leaves it. The guest cannot
tell: a page is remembered as long as the TLB has its entry for that kind of access.
"""

from __future__ import annotations

import functools
import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from asyncvmm.engine.jit import state_words as at
from asyncvmm.engine.jit.native import TRAPPED
from asyncvmm.engine.jit.region_template import (
    FORGET,
    LIKELY,
    MAYBE,
    is_store,
    known_template,
    leaving,
    template,
)
from asyncvmm.engine.jit.support import CODE, SIGNATURE, jump, word
from asyncvmm.isa.opcodes import OP_ADDI, OP_AUIPC, OP_JALR

SLOTS: Final = 2048
MAX_INSTRUCTIONS: Final = 600
MAX_BLOCK: Final = 64
SWITCH_SLOTS: Final = 256  # how far from a switch its cases are looked for, in either direction
NO_PAGE: Final = 1
NO_REGISTER: Final = 32  # what an instruction that writes x0 has for a destination
_METADATA: Final = {"S": "!10", "F": "!11", "G": "!12", "T": "!13"}

# What fills the TLB keeps all registers that a region uses, so that the hot path has no spills.
_FILL: Final = {False: "preserve_mostcc i64 @region_", True: "preserve_allcc i64 @region_float_"}

# Ways out of a function.
_WAYS: Final = {
    "slow": "@exit_slow",
    "trap": "@system_done",
    "budget": "@exit_budget",
    "far": "@dispatch",
}


def _text(lines: list[str]) -> str:
    return "\n".join(lines)


class _Leaders:
    """Where the blocks of a page begin, as far as its decoded words tell.

    The first tier also enters code in the middle of blocks, wherever the interpreter happened to stop;
    here that would only cost more checks of the budget. Being wrong about it does no harm.
    """

    def __init__(self, words: Sequence[int]) -> None:
        self.before: dict[int, int] = {}  # the instruction that goes on at a slot
        self.targets: set[int] = set()
        self.returns: set[int] = set()  # where a branch or a call goes on
        for slot, w in enumerate(words):
            if w == 0:
                continue
            found = template(w & 511)
            if found is not None and not found.ends:
                self.before[slot + ((w >> 26) & 3)] = slot
            elif found is not None:
                if found.jumps:
                    self.targets.add(((slot << 1) + ((w >> 25) & 7) + (w >> 32)) >> 1)
                if found.ends == 2 or (w >> 9) & 63 != NO_REGISTER:
                    self.returns.add(slot + ((w >> 26) & 3))

    def is_one(self, slot: int) -> bool:
        """Whether a block begins there."""
        return slot in self.targets or slot not in self.before

    def is_lone(self, slot: int) -> bool:
        """Whether only jumps to registers lead there."""
        return not (slot in self.targets or slot in self.before or slot in self.returns)

    def of(self, slot: int) -> int:
        """Where the block begins that holds the instruction at ``slot``."""
        while not self.is_one(slot):
            slot = self.before[slot]
        return slot


@dataclass(frozen=True)
class _At:
    """An instruction where it is emitted: the ``k``-th of ``block``, after which ``following`` comes."""

    unique: str
    block: list[int]
    k: int
    following: str
    near: int  # how likely the page is that is remembered at ``first``
    first: str | None
    site: str | None  # where to remember the page that is found
    others: tuple[str, ...]  # sites of this block that a fill may have made wrong


class _Pages:
    """By base register and kind of access, the place that remembers the page of a block's first one."""

    def __init__(self) -> None:
        self._sites: dict[tuple[int, bool], str] = {}

    def of(self, w: int) -> str | None:
        """Of the page that is likely to be this access's."""
        return self._sites.get(((w >> 15) & 31, is_store(w & 511)))

    def note(self, w: int, site: str | None) -> None:
        """An instruction comes; what it finds is remembered at ``site``."""
        if site is not None:
            self._sites.setdefault(((w >> 15) & 31, is_store(w & 511)), site)
        if known_template(w & 511).writes:
            for store in (False, True):
                self._sites.pop(((w >> 9) & 63, store), None)


class Region:
    """Blocks of one page. ``words`` are its decoded words by slot, ``entries`` where blocks start.

    Of these it takes the ones that ``roots`` lead to, and then ``others``, the nearest first, up to
    MAX_INSTRUCTIONS; a root's straight line is taken to its end, however long that is.
    """

    def __init__(
        self,
        words: Sequence[int],
        entries: Iterable[int],
        roots: Iterable[int],
        rounds: Mapping[int, int],
        others: Iterable[int] = (),
    ) -> None:
        self.words = words
        self.rounds = rounds
        self.declared: set[str] = set()
        self.parts: list[str] = []
        self.instructions = 0
        self.entries: list[int] = []
        self.used: set[int] = set()  # registers
        self.written: set[int] = set()
        self.floats: set[int] = set()  # floating-point registers
        self.written_floats: set[int] = set()
        self.sites: set[str] = set()  # places that remember pages
        budget = MAX_INSTRUCTIONS
        self.blocks: dict[int, list[int]] = {}
        leaders = _Leaders(words)
        first = [leaders.of(slot) for slot in roots]
        starts = {slot for slot in entries if leaders.is_one(slot)}.union(
            first, map(leaders.of, others)
        )
        near = deque(dict.fromkeys((*first, *map(leaders.of, others))))
        met = set(near)
        while near:
            slot = near.popleft()
            block = self._block(slot, starts)
            if block and (len(block) <= budget or slot in first):
                self.blocks[slot] = block
                budget -= len(block)
                if len(block) == MAX_BLOCK:
                    # Cut for its length: what follows was no leader, and is not far from a root.
                    starts.add(block[-1] + ((words[block[-1]] >> 26) & 3))
                    first += self._after(block) if slot in first else []
                found = [place for place in self._after(block) if place in starts - met]
                if self._is_switch(block):
                    lone = (place for place in starts - met if leaders.is_lone(place))
                    found += sorted(place for place in lone if abs(place - slot) < SWITCH_SLOTS)
                met.update(found)
                near.extend(found)
        entered = self._entered().union(first, map(leaders.of, others))
        for slot, block in self.blocks.items():
            self._emit(slot, block)
            if slot in self.loops:
                self._emit(slot, block, again=True)
            self.instructions += len(block)
        self.entries = [slot for slot in self.blocks if slot in entered]

    def _supported(self, w: int) -> bool:
        op = w & 511
        if template(op) is None:
            return False
        return self.rounds.get(op, 0) != 2 or (w >> 28) & 7 == 1

    def _block(self, slot: int, starts: set[int]) -> list[int]:
        block: list[int] = []
        while slot < SLOTS and len(block) < MAX_BLOCK and (slot not in starts or not block):
            w = self.words[slot]
            if w == 0 or not self._supported(w) or slot + ((w >> 26) & 3) > SLOTS:
                break
            block.append(slot)
            slot += (w >> 26) & 3
            found = template(w & 511)
            if found is not None and found.ends:
                break
        return block

    def _after(self, block: list[int]) -> list[int]:
        """The slots of this page where a block may go on, and those where a call of it comes back."""
        slot = block[-1]
        w = self.words[slot]
        found = template(w & 511)
        assert found is not None
        npc = (slot << 1) + ((w >> 25) & 7)
        offsets = [npc]
        if found.ends:
            fixed = self._fixed(block, len(block) - 1)
            if found.jumps:
                fixed = npc + (w >> 32)
            offsets = [] if fixed is None else [fixed]
            if found.ends == 2 or (w >> 9) & 63 != NO_REGISTER:
                offsets.append(npc)
        return [offset >> 1 for offset in offsets if 0 <= offset < 4096 and offset % 2 == 0]

    def _is_switch(self, block: list[int]) -> bool:
        """Whether a block ends with a jump to a register that is no return."""
        w = self.words[block[-1]]
        return w & 511 == OP_JALR and (w >> 9) & 63 == NO_REGISTER and (w >> 15) & 31 not in (1, 5)

    def _entered(self) -> set[int]:
        """Blocks where the function may have to be entered: every way round meets one of them.

        The first tier has code for the others, too, and comes to one of these from there. Each entry
        costs: where one is, nothing is known of what was before.
        """
        reached: set[int] = set()
        entered: set[int] = set()
        for slot, block in self.blocks.items():
            after = self._after(block)
            reached.update(place for place in after if place != slot)
            entered.update(place for place in after if place <= block[-1])
            w = self.words[block[-1]]
            if known_template(w & 511).ends == 1 and (w >> 9) & 63 != NO_REGISTER:
                entered.update(after)  # a function, and where it comes back
        return entered.union(self.blocks.keys() - reached)

    def _fixed(self, block: list[int], k: int) -> int | None:
        """Where a jump to a register goes that the instruction before it has made of the pc."""
        w = self.words[block[k]]
        if w & 511 != OP_JALR or k == 0:
            return None
        before = self.words[block[k - 1]]
        if before & 511 != OP_AUIPC or (before >> 9) & 63 != (w >> 15) & 31:
            return None
        return (block[k - 1] << 1) + (before >> 32) + (w >> 32) & -2

    @functools.cached_property
    def loops(self) -> set[int]:
        """Blocks that jump to themselves and access memory: they are there twice.

        The second one is entered from both. It tries the pages of the turn before.
        """
        return {
            slot
            for slot, block in self.blocks.items()
            if slot in self._after(block)
            and any(known_template(self.words[place] & 511).page for place in block)
        }

    def _walks(self, block: list[int]) -> set[int]:
        """Base registers of a block's accesses that go on by a constant from turn to turn."""
        words = [self.words[place] for place in block]
        bases = {(w >> 15) & 31 for w in words if known_template(w & 511).page}
        for w in words:
            target = (w >> 9) & 63
            step = w & 511 == OP_ADDI and (w >> 15) & 31 == target
            if known_template(w & 511).writes and not step:
                bases.discard(target)
        return bases

    def _target(self, offset: int, within: int = -1) -> str:
        """The label of a block, or of a way out to that place (in bytes from the page's start).

        ``within`` is the block from which it is reached.
        """
        if offset % 2 == 0 and offset >> 1 in self.blocks:
            again = offset >> 1 == within and within in self.loops
            return f"{'c' if again else 'b'}{offset >> 1}"
        return f"out{offset}".replace("-", "m")

    def _emit(self, slot: int, block: list[int], again: bool = False) -> None:
        """A block; ``again`` makes the second one of a loop."""
        count = len(block)
        label = f"{'c' if again else 'b'}{slot}"
        part = f"{'j' if again else 'i'}{slot}"
        self.parts.append(
            f"""{label}:
 %{label}.l = load i64, ptr %left
 %{label}.r = sub i64 %{label}.l, {count}
 %{label}.ok = icmp sge i64 %{label}.r, 0
 br i1 %{label}.ok, label %{part}.0, label %{label}.out, !prof !1
{label}.out:
{_text(leaving("budget", str(slot << 1)))}
"""
        )
        start = f"{part}.0:\n store i64 %{label}.r, ptr %left\n"
        known = _Pages()
        walks = self._walks(block)
        sites = self._sites(slot, block)
        for k, place in enumerate(block):
            w = self.words[place]
            following = f"{part}.{k + 1}"
            npc = (place << 1) + ((w >> 25) & 7)
            if k == count - 1:
                following = self._target(npc, slot)
                self._want(npc)
            self.parts.append(start if k == 0 else f"{part}.{k}:\n")
            site = sites.get(k)
            first = known.of(w) if known_template(w & 511).page else None
            near = LIKELY if first else 0
            if again and site is not None:
                first = site
                near = LIKELY if (w >> 15) & 31 in walks else MAYBE
            known.note(w, site)
            store = is_store(w & 511)
            others = (
                other
                for index, other in sites.items()
                if index != k and is_store(self.words[block[index]] & 511) == store
            )
            here = _At(f"{part}.{k}", block, k, following, near, first, site, tuple(others))
            self._instruction(here)

    def _sites(self, slot: int, block: list[int]) -> dict[int, str]:
        """By instruction of a block, where to remember the page: of accesses to whose page others come.

        A near hit must be one of the TLB's: what is in that is state of the guest. The entry was there
        after the access that is remembered, of the same kind; what may have taken its place is a fill, and
        after any that all sites of the block are forgotten.
        """
        found: dict[int, str] = {}
        known = _Pages()
        for k, place in enumerate(block):
            w = self.words[place]
            site = None
            if known_template(w & 511).page and known.of(w) is None:
                site = f"{slot}.{k}"
                found[k] = site
            known.note(w, site)
        self.sites.update(found.values())
        return found

    def _want(self, offset: int) -> None:
        """A way out is needed when the place is not in the function."""
        label = self._target(offset)
        if label.startswith("out"):
            self.outs[label] = offset

    @functools.cached_property
    def outs(self) -> dict[str, int]:
        """Ways out by label."""
        return {}

    def _instruction(self, here: _At) -> None:
        unique = here.unique
        place = here.block[here.k]
        w = self.words[place]
        op = w & 511
        offset = place << 1
        refund = len(here.block) - here.k
        found = known_template(op, here.near)
        self.declared |= found.declared
        imm = w >> 32
        npc = offset + ((w >> 25) & 7)
        target = (npc if found.ends else offset) + imm
        registers = {"rd": (w >> 9) & 63, "rs1": (w >> 15) & 31, "rs2": (w >> 20) & 31}
        values = {
            "rd": registers["rd"] * 8, "rs1": registers["rs1"] * 8, "rs2": registers["rs2"] * 8,
            "rs3": imm * 8, "imm": imm, "uimm": registers["rs1"], "npc": npc, "target": target,
            "fix": offset | (refund << 16), "done": npc | ((refund - 1) << 16),
        }  # fmt: skip
        fixed = self._fixed(here.block, here.k)
        if fixed is not None:
            target = fixed
        taken = ""
        if found.jumps or fixed is not None:
            taken = self._target(target, here.block[0])
            self._want(target)
        if self.rounds.get(op, 0) == 1 and (w >> 28) & 7 != 7:
            self._mode(unique, (w >> 28) & 7, values["fix"])
        out: list[str] = []
        for line in found.lines:
            if "FREAD" in line or "FWRITE" in line:
                line = self._float_register(line, registers, imm)
            elif "READ" in line or "WRITE" in line:
                line = self._register(line, registers)
                if not line:
                    continue
            if "ptrtoint (ptr @h." in line:
                line = re.sub(
                    r"ptrtoint \(ptr @h\.(\w+) to i64\)", lambda m: str(values[m[1]]), line
                )
            if fixed is not None and line.endswith("%out.dispatch"):
                line = " br label %TAKEN"
            line = line.replace("%NEXT", f"%{here.following}").replace("%TAKEN", f"%{taken}")
            mark = line[-1] if line[-2:-1] == ";" else ""
            if mark:
                line = f"{line[:-2].rstrip()}, !tbaa {_METADATA[mark]}"
            out.append(line)
            if line.startswith(FORGET):
                out[-1:] = self._forget(unique, line.removeprefix(FORGET), here.others)
            if here.site is not None and line.startswith(f" {found.page} = "):
                out.append(f" store i64 {found.page}, ptr %page.{here.site}")
                out.append(f" store i64 {found.addend}, ptr %addend.{here.site}")
        text = "\n".join(out)
        text = re.sub(r"%([vz]\d|float\.slow)", rf"%{unique}.\1", text)
        text = re.sub(r"(?m)^([vz]\d[\w.]*|float\.slow):", rf"{unique}.\1:", text)
        if here.first is not None:
            page, addend = f"%{unique}.page", f"%{unique}.addend"
            self.parts.append(
                f" {page} = load i64, ptr %page.{here.first}\n"
                f" {addend} = load i64, ptr %addend.{here.first}\n"
            )
            text = text.replace("PAGE", page).replace("ADDEND", addend)
        self.parts.append(text + "\n")

    def _forget(self, unique: str, unless: str, sites: Iterable[str]) -> list[str]:
        """Lines after which these sites remember nothing."""
        lines = []
        for site in sites:
            now, then = f"%{unique}.now.{site}", f"%{unique}.then.{site}"
            lines += [
                f" {now} = load i64, ptr %page.{site}",
                f" {then} = select i1 {unless}, i64 {now}, i64 {NO_PAGE}",
                f" store i64 {then}, ptr %page.{site}",
            ]
        return lines

    def _mode(self, unique: str, mode: int, fix: int) -> None:
        self.parts.append(
            f""" %{unique}.ms = icmp eq i64 %frm, {mode}
 br i1 %{unique}.ms, label %{unique}.mgo, label %{unique}.mno, !prof !1
{unique}.mno:
{_text(leaving("slow", str(fix)))}
{unique}.mgo:
"""
        )

    def _register(self, line: str, registers: Mapping[str, int]) -> str:
        """Reading x0 is 0, writing it is nothing; the others are locals."""
        target, _, rest = line.rpartition(" = ")
        kind, what = rest.split(None, 1)
        if kind == "READ":
            number = registers[what]
            if number == 0:
                return f"{target} = add i64 0, 0"
            self.used.add(number)
            return f"{target} = load i64, ptr %x{number}"
        number = registers["rd"]
        if number == 32:
            return ""
        self.used.add(number)
        self.written.add(number)
        return f" store i64 {what}, ptr %x{number}"

    def _float_register(self, line: str, registers: Mapping[str, int], rs3: int) -> str:
        """Floating-point registers are locals, too: of type double, that they are kept in SSE's."""
        target, _, rest = line.rpartition(" = ")
        kind, what = rest.split(None, 1)
        if kind == "FREAD":
            number = rs3 if what == "rs3" else registers[what]
            self.floats.add(number)
            value = f"{target}.f"
            return (
                f"{value} = load double, ptr %f{number}\n{target} = bitcast double {value} to i64"
            )
        number = registers["rd"]
        self.floats.add(number)
        self.written_floats.add(number)
        name = f"{what}.w"
        return f" {name} = bitcast i64 {what} to double\n store double {name}, ptr %f{number}"

    def _flush(self, way: str) -> str:
        """Registers and what is left of the slice, to where everybody else looks for them."""
        stores = [
            f""" %{way}.l = load i64, ptr %left
 %{way}.p = {word(at.LEFT)}
 store i64 %{way}.l, ptr %{way}.p, !tbaa !10
"""
        ]
        stores += [
            f""" %{way}.v{number} = load i64, ptr %x{number}
 %{way}.p{number} = {word(number)}
 store i64 %{way}.v{number}, ptr %{way}.p{number}, !tbaa !10
"""
            for number in sorted(self.written)
        ]
        if self.written_floats:
            stores.append(
                f" %{way}.pf = {word(at.F)}\n %{way}.file = load ptr, ptr %{way}.pf, !tbaa !10\n"
            )
        stores += [
            f""" %{way}.w{number} = load double, ptr %f{number}
 %{way}.q{number} = getelementptr i8, ptr %{way}.file, i64 {8 * number}
 store double %{way}.w{number}, ptr %{way}.q{number}, !tbaa !11
"""
            for number in sorted(self.written_floats)
        ]
        return "".join(stores)

    def text(self) -> str:
        """The module."""
        cases = "\n".join(f"  i64 {slot}, label %b{slot}" for slot in self.entries)
        outs = "".join(
            f"""{label}:
 %{label}.q = {word(at.BASE)}
 %{label}.b = load i64, ptr %{label}.q, !tbaa !10
 %{label}.t = add i64 %{label}.b, {offset}
{_text(leaving("far", f"%{label}.t"))}
"""
            for label, offset in self.outs.items()
        )
        ways = "".join(
            f"""out.{way}:
{self._flush(way)} %{way}.a = load i64, ptr %a.out
 %{way}.b = load i64, ptr %b.out
{jump(target, f"%{way}.a", f"%{way}.b")}
"""
            for way, target in _WAYS.items()
        )
        locals_ = "".join(
            f""" %x{number} = alloca i64
 %x{number}.p = {word(number)}
 %x{number}.v = load i64, ptr %x{number}.p, !tbaa !10
 store i64 %x{number}.v, ptr %x{number}
"""
            for number in sorted(self.used)
        )
        if self.floats:
            locals_ += f""" %pf = {word(at.F)}
 %file = load ptr, ptr %pf, !tbaa !10
"""
        locals_ += "".join(
            f""" %f{number} = alloca double
 %f{number}.p = getelementptr i8, ptr %file, i64 {8 * number}
 %f{number}.v = load double, ptr %f{number}.p, !tbaa !11
 store double %f{number}.v, ptr %f{number}
"""
            for number in sorted(self.floats)
        )
        locals_ += "".join(
            f" %page.{site} = alloca i64\n %addend.{site} = alloca i64\n"
            for site in sorted(self.sites)
        )
        fill = _FILL[bool(self.floats)]
        body = "".join(self.parts).replace("FILL_", fill)
        declared = "\n".join(sorted(self.declared))
        strict = " strictfp" if self.declared else ""
        exits = "".join(
            f"declare {CODE} @{name}{SIGNATURE}\n"
            for name in ("dispatch", "exit_budget", "exit_slow", "system_done")
        )
        return f"""{exits}{declared}
declare {fill}load(ptr, i64, i64, i1) nounwind
declare {fill}store(ptr, i64, i64, i1) nounwind
declare {fill}near_load(ptr, i64, i64) nounwind
declare {fill}near_store(ptr, i64, i64) nounwind
define {CODE} @region(ptr %s, i64 %a, i64 %b) nounwind{strict} {{
 %left = alloca i64
 %a.out = alloca i64
 %b.out = alloca i64
 %how.out = alloca i64
 %slot = alloca i64
{locals_} %fpu.p = {word(at.FLOAT_READY)}
 %fpu.v = load i64, ptr %fpu.p, !tbaa !10
 %fpu = icmp ne i64 %fpu.v, 0
 %frm.p = {word(at.FRM)}
 %frm = load i64, ptr %frm.p, !tbaa !10
 %p = {word(at.LEFT)}
 %l = load i64, ptr %p, !tbaa !10
 store i64 %l, ptr %left
 %where = {word(at.WHERE)}
 store i64 -1, ptr %where, !tbaa !10
 store i64 %a, ptr %slot
 br label %within
within:
 %within.s = load i64, ptr %slot
 switch i64 %within.s, label %out.far [
{cases}
 ]
out.fill:
 %out.how = load i64, ptr %how.out
 %out.trapped = icmp eq i64 %out.how, {TRAPPED}
 br i1 %out.trapped, label %out.trap, label %out.slow
out.dispatch:
 %out.a = load i64, ptr %a.out
 %out.p = {word(at.BASE)}
 %out.base = load i64, ptr %out.p, !tbaa !10
 %out.o = sub i64 %out.a, %out.base
 %out.s = lshr i64 %out.o, 1
 store i64 %out.s, ptr %slot
 br label %within
{body}{outs}{ways}}}
!1 = !{{!"branch_weights", i32 1000, i32 1}}
!2 = !{{!"branch_weights", i32 1, i32 1000}}
!9 = !{{!"asyncvmm"}}
!20 = !{{!"state", !9}}
!21 = !{{!"float", !9}}
!22 = !{{!"guest", !9}}
!23 = !{{!"tlb", !9}}
!10 = !{{!20, !20, i64 0}}
!11 = !{{!21, !21, i64 0}}
!12 = !{{!22, !22, i64 0}}
!13 = !{{!23, !23, i64 0}}
"""
