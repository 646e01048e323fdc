"""Stencils as LLVM IR: each operation once, with external symbols where operands go.

A symbol of ``HOLES`` stands for a number (the operand, or eight times a register's number), the others
for places to jump to. The relocations of the compiled function then say where to put what, so that
translating an instruction is copying its bytes and filling in the holes.

A comment ``;S``, ``;G`` or ``;T`` tells whoever makes larger pieces what memory is meant: the state's
words, the guest's memory or the TLB.
"""

from __future__ import annotations

import re
from typing import Final

from asyncvmm.engine.jit import state_words as at
from asyncvmm.engine.jit.float_ir import FloatLines
from asyncvmm.engine.jit.lowerings import LOWERINGS
from asyncvmm.engine.jit.native import ENTERED, MISALIGNED, TRAPPED
from asyncvmm.engine.jit.support import CODE, SIGNATURE, jump, word

HOLES: Final = (
    "rd", "rs1", "rs2", "rs3", "imm", "npc", "target", "fix", "count", "off", "uimm", "counter",
    "done", "rm",
)  # fmt: skip
JUMPS: Final = ("next", "taken", "again", "cold", "back", "refuse")
SUPPORT: Final = (
    "exit_budget", "exit_slow", "dispatch", "exit_refused", "finish", "system_done",
)  # fmt: skip
FILLS: Final = ("fill_load", "fill_store")
SYSTEM: Final = {
    "ecall": "", "sret": "", "mret": "", "wfi": "", "sfence_vma": ", i64, i64, i1, i1",
}  # fmt: skip
_CSR: Final = {"csr_swap": 0, "csr_set": 1, "csr_clear": 2}


_FLOAT: Final = re.compile(r"(f32|f64|i32|u32|i64|u64)_\w+$")


class UnsupportedError(Exception):
    """No way to do a line of this lowering: the instruction is the interpreter's."""


def hole(name: str) -> str:
    """The number that a symbol stands for, as an i64 constant."""
    return f"ptrtoint (ptr @h.{name} to i64)"


class Expander:
    """One operation's function."""

    def __init__(self, lowering: str, tail: bool = False) -> None:
        self.tail = tail
        self.lines: list[str] = []
        self.count = 0
        self.ended = False
        self.cold = ""
        self.place = ""
        self.after_write: tuple[str, str, str] | None = None
        self.declared: set[str] = set()
        self.leaves = False
        if not tail and re.search(r"\bf r(d|s[123])\b", lowering):
            self.guard()
        for line in lowering.split("\n"):
            if line:
                self.line(re.sub(r"%(\d+)", r"%v\1", line))
        if self.after_write is not None:
            self.finish_csr()
        if not self.ended:
            self.leave("@back" if tail else "@next")
        if self.leaves:
            self.lines.append("float.slow:")
            self.leave("@refuse")

    def fresh(self) -> str:
        """The name of a new temporary."""
        self.count += 1
        return f"%z{self.count}"

    def emit(self, *lines: str) -> None:
        """Plain IR."""
        for line in lines:
            line = line.replace("{imm}", hole("imm")).replace("{uimm}", hole("uimm"))
            self.lines.append(" " + line)

    def line(self, line: str) -> None:
        """One line of a lowering."""
        target, _, text = line.rpartition(" = ")
        words = text.split()
        match words:
            case ["x", register] if register in ("rs1", "rs2"):
                self.read(target, register)
            case [value] if target == "x rd":
                self.write(value)
            case ["f", register] if register in ("rs1", "rs2", "rs3"):
                self.read_float(target, register)
            case [value] if target == "f rd":
                self.write_float(value)
            case [name, *arguments] if target and _FLOAT.match(name):
                self.float_operation(target, name, [a.rstrip(",") for a in arguments])
            case ["npc"]:
                self.address(target, "npc")
            case ["pc+imm"]:
                self.address(target, "target")
            case ["goto", "if", condition]:
                yes, no = self.fresh(), self.fresh()
                self.emit(f"br i1 {condition}, label {yes}, label {no}")
                self.lines.append(f"{yes[1:]}:")
                self.leave("@taken")
                self.lines.append(f"{no[1:]}:")
            case ["goto"]:
                self.leave("@taken")
                self.ended = True
            case ["goto", address]:
                self.leave("@dispatch", address)
                self.ended = True
            case ["load", bits, address]:
                place = self.lookup(address, int(bits), 0, f"cold.load.{bits}")
                self.load(target, place, int(bits))
            case ["store", bits, address, value]:
                place = self.lookup(address.rstrip(","), int(bits), 8, f"cold.store.{bits}")
                self.store(place, value, int(bits))
            case ["lr", bits, address]:
                self.load_reserved(target, int(bits), address)
            case ["sc", bits, address, value]:
                self.store_conditional(target, int(bits), address.rstrip(","), value)
            case ["amo_load", bits, address]:
                self.place = self.lookup(address, int(bits), 8, f"cold.amo.{bits}")
                self.load(target, self.place, int(bits))
            case ["amo_store", bits, _, value]:
                self.store(self.place, value, int(bits))
            case [name, value] if name in _CSR:
                self.csr(target, _CSR[name], value)
            case [name, *arguments] if name in SYSTEM and not target:
                self.system(name, [argument.rstrip(",") for argument in arguments])
            case [first, *_] if target and first in _PLAIN:
                self.emit(f"{target} = {text}")
            case _:
                raise UnsupportedError(line)

    def leave(self, target: str, a: str = "poison") -> None:
        """Jump away."""
        self.lines.append(jump(target, a))

    def read(self, target: str, register: str) -> None:
        """A register's value."""
        place = self.fresh()
        self.emit(
            f"{place} = getelementptr i8, ptr %s, i64 {hole(register)}",
            f"{target} = load i64, ptr {place}",
        )

    def write(self, value: str) -> None:
        """Into the destination register."""
        place = self.fresh()
        self.emit(
            f"{place} = getelementptr i8, ptr %s, i64 {hole('rd')}",
            f"store i64 {value}, ptr {place}",
        )

    def guard(self) -> None:
        """To the interpreter unless FS is Dirty and the rounding mode is one of the host's."""
        place, ready, test, go = (self.fresh() for _ in range(4))
        self.emit(
            f"{place} = {word(at.FLOAT_READY)}",
            f"{ready} = load i64, ptr {place}",
            f"{test} = icmp eq i64 {ready}, 0",
            f"br i1 {test}, label %float.slow, label {go}, !prof !2",
        )
        self.lines.append(f"{go[1:]}:")
        self.leaves = True

    def read_float(self, target: str, register: str) -> None:
        """A floating-point register's bits."""
        self.emit(f"{target} = load i64, ptr {self.float_register(register)}")

    def write_float(self, value: str) -> None:
        """Into the floating-point destination register."""
        self.emit(f"store i64 {value}, ptr {self.float_register('rd')}")

    def float_register(self, name: str) -> str:
        """A pointer to f[name]."""
        pf, file, place = self.fresh(), self.fresh(), self.fresh()
        self.emit(
            f"{pf} = {word(at.F)}",
            f"{file} = load ptr, ptr {pf}",
            f"{place} = getelementptr i8, ptr {file}, i64 {hole(name)}",
        )
        return place

    def float_operation(self, target: str, name: str, arguments: list[str]) -> None:
        """An operation of the host's floating-point unit."""
        made = FloatLines(f"{self.fresh()[1:]}.", "float.slow")
        value = made.operation(name, [a for a in arguments if a != "{rm}"])
        if value is None:
            raise UnsupportedError(name)
        self.lines += made.lines
        self.declared |= made.declared
        self.leaves = True
        self.emit(f"{target} = add i64 {value}, 0")

    def address(self, target: str, name: str) -> None:
        """Page base plus a constant."""
        place, base = self.fresh(), self.fresh()
        self.emit(
            f"{place} = {word(at.BASE)}",
            f"{base} = load i64, ptr {place} ;S",
            f"{target} = add i64 {base}, {hole(name)}",
        )

    def load(self, target: str, place: str, bits: int) -> None:
        """Zero-extended from host memory."""
        if bits == 64:
            self.emit(f"{target} = load i64, ptr {place} ;G")
            return
        value = self.fresh()
        self.emit(
            f"{value} = load i{bits}, ptr {place} ;G",
            f"{target} = zext i{bits} {value} to i64",
        )

    def hart_field(self, name: str) -> str:
        """A pointer to an attribute of the Hart."""
        ph, hart, place = self.fresh(), self.fresh(), self.fresh()
        self.emit(
            f"{ph} = {word(at.HART)}",
            f"{hart} = load ptr, ptr {ph}",
            f"{place} = getelementptr i8, ptr {hart}, i64 <Hart.{name}>",
        )
        return place

    def load_reserved(self, target: str, bits: int, address: str) -> None:
        """LR: a load that notes its address."""
        place = self.lookup(address, bits, 0, f"cold.lr.{bits}")
        self.load(target, place, bits)
        self.emit(f"store i64 {address}, ptr {self.hart_field('reservation')}")

    def store_conditional(self, target: str, bits: int, address: str, value: str) -> None:
        """SC: 0 when it stored."""
        # Without the reservation there is no access at all, and so no look at its page.
        held, same, different, low, uneven = (self.fresh() for _ in range(5))
        even, wrong, yes, no = (self.fresh() for _ in range(4))
        field = self.hart_field("reservation")
        self.emit(
            f"{low} = and i64 {address}, {bits // 8 - 1}",
            f"{uneven} = icmp ne i64 {low}, 0",
            f"br i1 {uneven}, label {wrong}, label {even}, !prof !2",
        )
        self.lines += [f"{wrong[1:]}:", jump("@exit_slow", hole("fix")), f"{even[1:]}:"]
        self.emit(
            f"{held} = load i64, ptr {field}",
            f"{same} = icmp eq i64 {held}, {address}",
            f"{different} = xor i1 {same}, true",
            f"{target} = zext i1 {different} to i64",
            f"br i1 {same}, label {yes}, label {no}",
        )
        self.lines.append(f"{yes[1:]}:")
        self.store(self.lookup(address, bits, 8, f"cold.sc.{bits}"), value, bits)
        self.emit(f"br label {no}")
        self.lines.append(f"{no[1:]}:")
        self.emit(f"store i64 -1, ptr {field}")

    def count_steps(self) -> None:
        """Hart.steps at this instruction: a block has taken all of its steps when it was entered."""
        pe, end, pl, left, now, back, steps = (self.fresh() for _ in range(7))
        self.emit(
            f"{pe} = {word(at.END)}",
            f"{end} = load i64, ptr {pe}",
            f"{pl} = {word(at.LEFT)}",
            f"{left} = load i64, ptr {pl}",
            f"{now} = sub i64 {end}, {left}",
            f"{back} = lshr i64 {hole('fix')}, 16",
            f"{steps} = sub i64 {now}, {back}",
            f"store i64 {steps}, ptr {self.hart_field('steps')}",
        )

    def csr(self, target: str, how: int, value: str) -> None:
        """A CSR access; what else it caused is dealt with before the next instruction."""
        self.count_steps()
        reads, writes, event, bad, bits = (self.fresh() for _ in range(5))
        number = hole("imm")
        wanted = "true" if how == 0 else writes
        self.emit(
            f"{reads} = icmp ne i64 {hole('rd')}, 256",
            f"{writes} = icmp ne i64 {hole('rs1')}, 0",
            f"{target} = call i64 @csr_any(ptr %s, i64 {number}, i64 {how}, i64 {value},"
            f" i1 {reads}, i1 {wanted})",
        )
        field = self.hart_field("event")
        yes, no, late, quiet = (self.fresh() for _ in range(4))
        self.emit(
            f"{event} = load i64, ptr {field}",
            f"{bits} = and i64 {event}, 5",
            f"{bad} = icmp ne i64 {bits}, 0",
            f"br i1 {bad}, label {yes}, label {no}, !prof !2",
        )
        self.lines += [f"{yes[1:]}:", jump("@exit_refused", hole("fix")), f"{no[1:]}:"]
        self.after_write = (event, quiet, late)

    def finish_csr(self) -> None:
        """After the register is written: go on, or look at the event first."""
        assert self.after_write is not None
        event, quiet, late = self.after_write
        test = self.fresh()
        self.emit(
            f"{test} = icmp eq i64 {event}, 0",
            f"br i1 {test}, label {quiet}, label {late}, !prof !1",
        )
        self.lines += [f"{late[1:]}:", jump("@finish", hole("done")), f"{quiet[1:]}:"]

    def system(self, name: str, arguments: list[str]) -> None:
        """A function of its own, after which the pc may be anywhere."""
        self.count_steps()
        npc = self.fresh()
        self.address(npc, "npc")
        self.emit(f"store i64 {npc}, ptr {self.hart_field('pc')}")
        ph, hart = self.fresh(), self.fresh()
        self.emit(f"{ph} = {word(at.HART)}", f"{hart} = load ptr, ptr {ph}")
        passed = "".join(f", i64 {argument}" for argument in arguments)
        if arguments:
            for register in ("rs1", "rs2"):
                given = self.fresh()
                self.emit(f"{given} = icmp ne i64 {hole(register)}, 0")
                passed += f", i1 {given}"
        self.emit(f"call void @system_{name}(ptr {hart}{passed})")
        self.lines.append(jump("@system_done", hole("fix"), hole("done")))
        self.ended = True

    def store(self, place: str, value: str, bits: int) -> None:
        """The low bits to host memory."""
        if bits < 64:
            low = self.fresh()
            self.emit(f"{low} = trunc i64 {value} to i{bits}")
            value = low
        self.emit(f"store i{bits} {value}, ptr {place} ;G")

    def lookup(self, address: str, bits: int, tag_offset: int, cold: str) -> str:
        """The host pointer; a TLB miss goes to the cold stencil, which comes back to ``again``."""
        self.cold = cold
        if self.tail:
            # What is left to do when the cold stencil has found the host address itself.
            pointer = self.fresh()
            self.emit(f"{pointer} = inttoptr i64 %a to ptr")
            return pointer
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


# By kind: which table, and whether a misaligned access is done after all.
_COLD: Final = {"load": ("load", True), "store": ("store", True), "lr": ("load", False),
                "amo": ("store", False), "sc": ("store", False)}  # fmt: skip
COLDS: Final = tuple(f"cold.{kind}.{bits}" for kind in _COLD for bits in (8, 16, 32, 64))


def _cold(kind: str, bits: int) -> str:
    table, misaligned = _COLD[kind]
    # The interpreter does what an SC's trap leaves of the reservation.
    trapped = jump("@system_done", hole("fix"), hole("done"))
    if kind == "sc":
        trapped = jump("@exit_refused", hole("fix"))
    return f"""define {CODE} @cold.{kind}.{bits}{SIGNATURE} nounwind {{
 %ph = {word(at.HART)}
 %hart = load ptr, ptr %ph
 %how = call i64 @fill_{table}(ptr %hart, i64 %a, i64 {bits // 8}, i1 {str(misaligned).lower()})
 switch i64 %how, label %slow [
  i64 {ENTERED}, label %retry
  i64 {TRAPPED}, label %trapped
  i64 {MISALIGNED}, label %uneven
 ]
retry:
{jump("@again")}
trapped:
{trapped}
uneven:
 %t0 = lshr i64 %a, 7
 %t1 = and i64 %t0, {1023 << 5}
 %e = getelementptr i8, ptr %s, i64 %t1
 %pa = getelementptr i8, ptr %e, i64 {8 * at.TLB + 16}
 %addend = load i64, ptr %pa
 %host = add i64 %addend, %a
{jump("@next", "%host")}
slow:
{jump("@exit_slow", hole("fix"))}
}}
"""


def stencils_ir() -> tuple[str, dict[str, str], set[str]]:
    """The module; by operation the name of its cold stencil ("" for none); those that end blocks."""
    parts: list[str] = []
    colds: dict[str, str] = {}
    ends: set[str] = set()
    declared: set[str] = set()
    for name in HOLES:
        # Weak, because a symbol's address is never 0 otherwise, and a number may be.
        parts.append(f"@h.{name} = extern_weak global i8, !absolute_symbol !0\n")
    for name in (*JUMPS, *SUPPORT):
        parts.append(f"declare {CODE} @{name}{SIGNATURE}\n")
    for name in FILLS:
        parts.append(f"declare i64 @{name}(ptr, i64, i64, i1)\n")
    parts.append("declare i1 @follows(ptr, i64, i64)\n")
    parts.append("declare i64 @csr_any(ptr, i64, i64, i64, i1, i1)\n")
    for name, arguments in SYSTEM.items():
        parts.append(f"declare void @system_{name}(ptr{arguments})\n")
    for name, lowering in LOWERINGS.items():
        try:
            expander = Expander(lowering)
        except UnsupportedError:
            continue
        colds[name] = expander.cold
        if expander.ended:
            ends.add(name)
        declared |= expander.declared
        strict = " strictfp" if expander.declared else ""
        parts.append(f'define {CODE} @"op.{name}"{SIGNATURE} nounwind{strict} {{\n')
        parts.append("\n".join(expander.lines) + "\n}\n")
        if expander.cold.startswith(("cold.load", "cold.store")):
            parts.append(f'define {CODE} @"tail.{name}"{SIGNATURE} nounwind {{\n')
            lines = "\n".join(Expander(lowering, tail=True).lines)
            parts.append(lines + "\n}\n")
    parts += [line + "\n" for line in sorted(declared)]
    for kind in _COLD:
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
 %pw = {word(at.WHERE)}
 store i64 {hole("off")}, ptr %pw
{jump("@next")}
leave:
{jump("@exit_budget", hole("off"))}
}}
define {CODE} @cross{SIGNATURE} nounwind {{
 %pb = {word(at.BASE)}
 %base = load i64, ptr %pb
 %following = add i64 %base, 4096
 %ph = {word(at.HART)}
 %hart = load ptr, ptr %ph
 %same = call i1 @follows(ptr %hart, i64 %following, i64 {hole("target")})
 br i1 %same, label %go, label %slow, !prof !1
go:
{jump("@next")}
slow:
{jump("@exit_slow", hole("fix"))}
}}
define {CODE} @slow{SIGNATURE} nounwind {{
{jump("@exit_slow", hole("fix"))}
}}
define {CODE} @mode{SIGNATURE} nounwind {{
 %pm = {word(at.FRM)}
 %frm = load i64, ptr %pm
 %same = icmp eq i64 %frm, {hole("rm")}
 br i1 %same, label %go, label %slow, !prof !1
go:
{jump("@next")}
slow:
{jump("@exit_slow", hole("fix"))}
}}
define {CODE} @leave{SIGNATURE} nounwind {{
 %pb = {word(at.BASE)}
 %base = load i64, ptr %pb
 %to = add i64 %base, {hole("target")}
{jump("@dispatch", "%to")}
}}
!0 = !{{i64 -2147483648, i64 2147483648}}
!1 = !{{!"branch_weights", i32 1000, i32 1}}
!2 = !{{!"branch_weights", i32 1, i32 1000}}
"""
    )
    return "".join(parts), colds, ends
