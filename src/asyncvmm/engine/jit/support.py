"""The fixed part of the code: entry, exits, jumps between pages and what is compiled from Python.

Every piece of translated code has the same signature: the hart's words and two values that only some
pieces use. The calling convention keeps all three in registers across tail calls and saves nothing.
"""

from __future__ import annotations

from asyncvmm.arch.hart import EVENT_TRAP
from asyncvmm.arch.status import ILLEGAL
from asyncvmm.engine.jit import state_words as at
from asyncvmm.engine.jit.float_ir import FLOAT_SUPPORT
from asyncvmm.engine.jit.native_ir import NATIVE_IR

THERE = 5  # odd, as what fills say of success
CODE = "preserve_nonecc void"
SIGNATURE = "(ptr %s, i64 %a, i64 %b)"


def word(index: int) -> str:
    """A getelementptr to a word of the state."""
    return f"getelementptr i8, ptr %s, i64 {8 * index}"


def jump(target: str, a: str = "poison", b: str = "poison") -> str:
    """A tail call, which is a jump."""
    return f" musttail call {CODE} {target}(ptr %s, i64 {a}, i64 {b})\n ret void\n"


def _exit(name: str, reason: int, refund: bool) -> str:
    """Leave with the offset in the page (bits 0..15 of %a) and give back steps (from bit 16)."""
    lines = [f"define {CODE} @{name}{SIGNATURE} nounwind {{"]
    lines += [
        " %off = and i64 %a, 65535",
        f" %pb = {word(at.BASE)}",
        " %base = load i64, ptr %pb",
        " %pc = add i64 %base, %off",
        f" %pp = {word(at.PC)}",
        " store i64 %pc, ptr %pp",
        f" %pr = {word(at.REASON)}",
        f" store i64 {reason}, ptr %pr",
    ]
    if refund:
        lines += [
            " %back = lshr i64 %a, 16",
            f" %pl = {word(at.LEFT)}",
            " %left = load i64, ptr %pl",
            " %more = add i64 %left, %back",
            " store i64 %more, ptr %pl",
        ]
    return "\n".join([*lines, " ret void", "}", ""])


def _region_fills(prefix: str, convention: str) -> str:
    """Fills for optimised code, which keeps its values in registers: with floating-point ones or not.

    ``PREFIX_KIND`` is called when the TLB has no entry, ``PREFIX_near_KIND`` before it was looked at:
    THERE when it has one.
    """
    return "".join(
        f"""define {convention} i64 @{prefix}_{kind}(ptr %hart, i64 %a, i64 %n, i1 %m) nounwind noinline {{
 %r = call i64 @fill_{kind}(ptr %hart, i64 %a, i64 %n, i1 %m)
 ret i64 %r
}}
define {convention} i64 @{prefix}_near_{kind}(ptr %s, i64 %a, i64 %n) nounwind noinline {{
 %t0 = lshr i64 %a, 7
 %t1 = and i64 %t0, {1023 << 5}
 %e = getelementptr i8, ptr %s, i64 %t1
 %te = getelementptr i8, ptr %e, i64 {8 * at.TLB + offset}
 %tag = load i64, ptr %te
 %low = sub i64 %n, 1
 %bits = or i64 %low, -4096
 %mask = and i64 %a, %bits
 %pc = {word(at.CONTEXT)}
 %context = load i64, ptr %pc
 %want = or i64 %mask, %context
 %hit = icmp eq i64 %want, %tag
 br i1 %hit, label %there, label %miss
there:
 ret i64 {THERE}
miss:
 %ph = {word(at.HART)}
 %hart = load ptr, ptr %ph
 %r = call i64 @fill_{kind}(ptr %hart, i64 %a, i64 %n, i1 true)
 ret i64 %r
}}
"""
        for kind, offset in (("load", 0), ("store", 8))
    )


def support_ir() -> str:
    """The module, with ``<Class.attribute>`` still in it."""
    return (
        NATIVE_IR
        + FLOAT_SUPPORT
        + _exit("exit_budget", at.BUDGET, False)
        + _exit("exit_slow", at.SLOW, True)
        + f"""
define {CODE} @missing{SIGNATURE} nounwind {{
 %pp = {word(at.PC)}
 store i64 %a, ptr %pp
 %pr = {word(at.REASON)}
 store i64 {at.MISSING}, ptr %pr
 ret void
}}
define {CODE} @dispatch{SIGNATURE} nounwind {{
 %page = and i64 %a, -4096
 %t0 = lshr i64 %a, 8
 %t1 = and i64 %t0, 4080
 %e0 = getelementptr i8, ptr %s, i64 %t1
 %e = getelementptr i8, ptr %e0, i64 {8 * at.FETCH_TLB}
 %tag = load i64, ptr %e
 %pc = {word(at.FETCH_CONTEXT)}
 %context = load i64, ptr %pc
 %want = or i64 %page, %context
 %hit = icmp eq i64 %tag, %want
 br i1 %hit, label %found, label %miss, !prof !0
found:
 %pt = getelementptr i8, ptr %e, i64 8
 %table = load ptr, ptr %pt
 %o0 = and i64 %a, 4094
 %o1 = shl i64 %o0, 1
 %po = getelementptr i8, ptr %table, i64 %o1
 %offset = load i32, ptr %po
 %o2 = zext i32 %offset to i64
 %pa = {word(at.ARENA)}
 %arena = load ptr, ptr %pa
 %code = getelementptr i8, ptr %arena, i64 %o2
 %pb = {word(at.BASE)}
 store i64 %page, ptr %pb
{jump("%code", "%a")}
miss:
 %ph = {word(at.HART)}
 %hart = load ptr, ptr %ph
 %ok = call i1 @fill_fetch(ptr %hart, i64 %a)
 br i1 %ok, label %again, label %absent
again:
{jump("@dispatch", "%a")}
absent:
{jump("@missing", "%a")}
}}
define {CODE} @exit_refused{SIGNATURE} nounwind {{
 %ph = {word(at.HART)}
 %hart = load ptr, ptr %ph
 %pe = getelementptr i8, ptr %hart, i64 <Hart.event>
 store i64 0, ptr %pe
{jump("@exit_slow", "%a")}
}}
define {CODE} @finish{SIGNATURE} nounwind {{
 %ph = {word(at.HART)}
 %hart = load ptr, ptr %ph
 %off = and i64 %a, 65535
 %pb = {word(at.BASE)}
 %base = load i64, ptr %pb
 %pc = add i64 %base, %off
 %pp = getelementptr i8, ptr %hart, i64 <Hart.pc>
 store i64 %pc, ptr %pp
{jump("@resume", "%a")}
}}
define {CODE} @resume{SIGNATURE} nounwind {{
 %ph = {word(at.HART)}
 %hart = load ptr, ptr %ph
 %back = lshr i64 %a, 16
 %pl = {word(at.LEFT)}
 %left = load i64, ptr %pl
 %more = add i64 %left, %back
 store i64 %more, ptr %pl
 %on = call i1 @settle(ptr %hart)
 %pp = getelementptr i8, ptr %hart, i64 <Hart.pc>
 %pc = load i64, ptr %pp
 br i1 %on, label %go, label %leave
go:
{jump("@dispatch", "%pc")}
leave:
 %pw = {word(at.PC)}
 store i64 %pc, ptr %pw
 %pr = {word(at.REASON)}
 store i64 {at.EVENT}, ptr %pr
 ret void
}}
define {CODE} @system_done{SIGNATURE} nounwind {{
 %ph = {word(at.HART)}
 %hart = load ptr, ptr %ph
 %pe = getelementptr i8, ptr %hart, i64 <Hart.event>
 %event = load i64, ptr %pe
 %bail = and i64 %event, {at.EVENT_BAIL}
 %bailed = icmp ne i64 %bail, 0
 br i1 %bailed, label %refused, label %done
refused:
{jump("@exit_refused", "%a")}
done:
 %bit = and i64 %event, {EVENT_TRAP}
 %trapped = icmp ne i64 %bit, 0
 br i1 %trapped, label %cause, label %on
cause:
 %pc = getelementptr i8, ptr %hart, i64 <Hart.trap_cause>
 %number = load i64, ptr %pc
 %illegal = icmp eq i64 %number, {ILLEGAL}
 br i1 %illegal, label %refused, label %trap
trap:
 %off = and i64 %a, 65535
 %pb = {word(at.BASE)}
 %base = load i64, ptr %pb
 %here = add i64 %base, %off
 call void @trap(ptr %hart, i64 %here)
{jump("@resume", "%b")}
on:
{jump("@resume", "%b")}
}}
{_region_fills("region", "preserve_mostcc")}
{_region_fills("region_float", "preserve_allcc")}
define void @enter(ptr %s) nounwind {{
 %pp = {word(at.PC)}
 %pc = load i64, ptr %pp
 call void @float_in(ptr %s)
 call {CODE} @dispatch(ptr %s, i64 %pc, i64 poison)
 call void @float_out(ptr %s)
 ret void
}}
!0 = !{{!"branch_weights", i32 1000, i32 1}}
"""
    )
