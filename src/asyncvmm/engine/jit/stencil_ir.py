"""Stencils as LLVM IR: each operation once, with external symbols where operands go.

A symbol of ``HOLES`` stands for a number (the operand, or eight times a register's number), the others
for places to jump to. The relocations of the compiled function then say where to put what, so that
translating an instruction is copying its bytes and filling in the holes.
"""

from __future__ import annotations

import re
from typing import Final

from asyncvmm.engine.jit import state_words as at
from asyncvmm.engine.jit.lowerings import LOWERINGS
from asyncvmm.engine.jit.support import CODE, SIGNATURE, jump, word

HOLES: Final = (
    "rd", "rs1", "rs2", "rs3", "imm", "npc", "target", "fix", "count", "off", "uimm", "counter",
)  # fmt: skip
JUMPS: Final = ("next", "taken", "again", "cold")
SUPPORT: Final = ("exit_budget", "exit_slow", "exit_missing", "dispatch")
FILLS: Final = ("fill_load", "fill_store")


class UnsupportedError(Exception):
    """No way to do a line of this lowering: the instruction is the interpreter's."""


def hole(name: str) -> str:
    """The number that a symbol stands for, as an i64 constant."""
    return f"ptrtoint (ptr @h.{name} to i64)"


class Expander:
    """One operation's function."""

    def __init__(self, lowering: str) -> None:
        self.lines: list[str] = []
        self.count = 0
        self.ended = False
        self.cold = ""
        for line in lowering.split("\n"):
            if line:
                self.line(re.sub(r"%(\d+)", r"%v\1", line))
        if not self.ended:
            self.lines.append(jump("@next"))

    def fresh(self) -> str:
        """The name of a new temporary."""
        self.count += 1
        return f"%z{self.count}"

    def emit(self, *lines: str) -> None:
        """Plain IR."""
        self.lines += [" " + line for line in lines]

    def line(self, line: str) -> None:
        """One line of a lowering."""
        line = line.replace("{imm}", hole("imm")).replace("{uimm}", hole("uimm"))
        target, _, text = line.rpartition(" = ")
        words = text.split()
        match words:
            case ["x", register] if register in ("rs1", "rs2"):
                place = self.fresh()
                self.emit(
                    f"{place} = getelementptr i8, ptr %s, i64 {hole(register)}",
                    f"{target} = load i64, ptr {place}",
                )
            case [value] if target == "x rd":
                place = self.fresh()
                self.emit(
                    f"{place} = getelementptr i8, ptr %s, i64 {hole('rd')}",
                    f"store i64 {value}, ptr {place}",
                )
            case ["npc"]:
                self.address(target, "npc")
            case ["pc+imm"]:
                self.address(target, "target")
            case ["goto", "if", condition]:
                yes, no = self.fresh(), self.fresh()
                self.emit(f"br i1 {condition}, label {yes}, label {no}")
                self.lines += [f"{yes[1:]}:", jump("@taken"), f"{no[1:]}:"]
            case ["goto"]:
                self.lines.append(jump("@taken"))
                self.ended = True
            case ["goto", address]:
                self.lines.append(jump("@dispatch", address))
                self.ended = True
            case ["load", bits, address]:
                place = self.lookup(address, int(bits), 0, f"cold.load.{bits}")
                kind = f"i{bits}"
                if bits == "64":
                    self.emit(f"{target} = load i64, ptr {place}")
                else:
                    value = self.fresh()
                    self.emit(
                        f"{value} = load {kind}, ptr {place}",
                        f"{target} = zext {kind} {value} to i64",
                    )
            case ["store", bits, address, value]:
                place = self.lookup(address.rstrip(","), int(bits), 8, f"cold.store.{bits}")
                self.store(place, value, int(bits))
            case [first, *_] if target and first in _PLAIN:
                self.emit(f"{target} = {text}")
            case _:
                raise UnsupportedError(line)

    def address(self, target: str, name: str) -> None:
        """Page base plus a constant."""
        place, base = self.fresh(), self.fresh()
        self.emit(
            f"{place} = {word(at.BASE)}",
            f"{base} = load i64, ptr {place}",
            f"{target} = add i64 {base}, {hole(name)}",
        )

    def store(self, place: str, value: str, bits: int) -> None:
        """The low bits to host memory."""
        if bits < 64:
            low = self.fresh()
            self.emit(f"{low} = trunc i64 {value} to i{bits}")
            value = low
        self.emit(f"store i{bits} {value}, ptr {place}")

    def lookup(self, address: str, bits: int, tag_offset: int, cold: str) -> str:
        """The host pointer; a TLB miss goes to the cold stencil, which comes back to ``again``."""
        self.cold = cold
        t0, t1, e, tag, mask, pc, context, want, hit = (self.fresh() for _ in range(9))
        yes, no, pa, addend, host, pointer, te = (self.fresh() for _ in range(7))
        self.emit(
            f"{t0} = lshr i64 {address}, 7",
            f"{t1} = and i64 {t0}, {1023 << 5}",
            f"{e} = getelementptr i8, ptr %s, i64 {t1}",
            f"{te} = getelementptr i8, ptr {e}, i64 {8 * at.TLB + tag_offset}",
            f"{tag} = load i64, ptr {te}",
            f"{mask} = and i64 {address}, {-4096 | (bits // 8 - 1)}",
            f"{pc} = {word(at.CONTEXT)}",
            f"{context} = load i64, ptr {pc}",
            f"{want} = or i64 {mask}, {context}",
            f"{hit} = icmp eq i64 {want}, {tag}",
            f"br i1 {hit}, label {yes}, label {no}, !prof !1",
        )
        self.lines += [f"{no[1:]}:", jump("@cold", address), f"{yes[1:]}:"]
        self.emit(
            f"{pa} = getelementptr i8, ptr {e}, i64 {8 * at.TLB + 16}",
            f"{addend} = load i64, ptr {pa}",
            f"{host} = add i64 {addend}, {address}",
            f"{pointer} = inttoptr i64 {host} to ptr",
        )
        return pointer


_PLAIN: Final = frozenset(
    (
        "add", "sub", "mul", "and", "or", "xor", "shl", "lshr", "ashr", "icmp", "select", "sext",
        "zext", "trunc", "bitcast", "call", "sdiv", "udiv", "srem", "urem",
    )
)  # fmt: skip


def _cold(kind: str, bits: int) -> str:
    return f"""define {CODE} @cold.{kind}.{bits}{SIGNATURE} nounwind {{
 %ph = {word(at.HART)}
 %hart = load ptr, ptr %ph
 %ok = call i1 @fill_{kind}(ptr %hart, i64 %a, i64 {bits // 8})
 br i1 %ok, label %retry, label %slow
retry:
{jump("@again")}
slow:
{jump("@exit_slow", hole("fix"))}
}}
"""


def stencils_ir() -> tuple[str, dict[str, str]]:
    """The module, and by operation the name of its cold stencil ("" for none)."""
    parts: list[str] = []
    colds: dict[str, str] = {}
    for name in HOLES:
        parts.append(f"@h.{name} = external global i8, !absolute_symbol !0\n")
    for name in (*JUMPS, *SUPPORT):
        parts.append(f"declare {CODE} @{name}{SIGNATURE}\n")
    for name in FILLS:
        parts.append(f"declare i1 @{name}(ptr, i64, i64)\n")
    for name, lowering in LOWERINGS.items():
        try:
            expander = Expander(lowering)
        except UnsupportedError:
            continue
        colds[name] = expander.cold
        parts.append(f'define {CODE} @"op.{name}"{SIGNATURE} nounwind {{\n')
        parts.append("\n".join(expander.lines) + "\n}\n")
    for kind in ("load", "store"):
        parts += [_cold(kind, bits) for bits in (8, 16, 32, 64)]
    parts.append(
        f"""define {CODE} @block{SIGNATURE} nounwind {{
 %pl = {word(at.LEFT)}
 %left = load i64, ptr %pl
 %rest = sub i64 %left, {hole("count")}
 %enough = icmp sge i64 %rest, 0
 br i1 %enough, label %go, label %leave, !prof !1
go:
 store i64 %rest, ptr %pl
{jump("@next")}
leave:
{jump("@exit_budget", hole("off"))}
}}
define {CODE} @slow{SIGNATURE} nounwind {{
{jump("@exit_slow", hole("fix"))}
}}
define {CODE} @stub{SIGNATURE} nounwind {{
{jump("@exit_missing", hole("off"))}
}}
define {CODE} @leave{SIGNATURE} nounwind {{
 %pb = {word(at.BASE)}
 %base = load i64, ptr %pb
 %to = add i64 %base, {hole("target")}
{jump("@dispatch", "%to")}
}}
!0 = !{{i64 -2147483648, i64 2147483648}}
!1 = !{{!"branch_weights", i32 1000, i32 1}}
"""
    )
    return "".join(parts), colds
