"""Floating point on the host's unit, as LLVM IR.

MXCSR has the guest's rounding mode while translated code runs, and collects its exception flags, which
mean the same on both machines (tininess is found after rounding on both). What differs ends in the
interpreter: results that are NaNs (RISC-V's are canonical), conversions that saturate, the rounding mode
RMM, and whatever is not in ``TEMPLATES``. An instruction that is done again sets no flag that it would
not have set, so the first attempt does no harm.
"""

from __future__ import annotations

from typing import Final

from asyncvmm.engine.jit import state_words as at

_ROUND = 'metadata !"round.dynamic"'
_EXCEPT = 'metadata !"fpexcept.strict"'

ARITHMETIC: Final = {
    "add": ("fadd", 2), "sub": ("fsub", 2), "mul": ("fmul", 2), "div": ("fdiv", 2),
    "sqrt": ("sqrt", 1), "fma": ("fma", 3),
}  # fmt: skip
COMPARE: Final = {"eq": ("fcmp", "oeq"), "lt": ("fcmps", "olt"), "le": ("fcmps", "ole")}
# Always towards zero on the host: native with that static mode only.
TRUNCATING: Final = frozenset(("f32_to_i32", "f32_to_i64", "f64_to_i32", "f64_to_i64"))
_INTEGERS: Final = {"i32": "i32", "u32": "i64", "i64": "i64"}
_TYPES: Final = {"f32": ("float", "i32"), "f64": ("double", "i64")}


class FloatLines:
    """The lines of one operation; ``slow`` is where the interpreter takes over."""

    def __init__(self, prefix: str, slow: str) -> None:
        self.lines: list[str] = []
        self.labels: list[str] = []
        self.declared: set[str] = set()
        self._prefix, self._slow, self._count = prefix, slow, 0

    def operation(self, name: str, args: list[str]) -> str | None:
        """The value of ``name(args)`` as an i64, or None when there is no way to do it."""
        kind, _, what = name.partition("_")
        if what in ARITHMETIC:
            function, count = ARITHMETIC[what]
            return self._arithmetic(kind, function, args[:count])
        if what in COMPARE:
            return self._compare(kind, *COMPARE[what], args)
        if name in TRUNCATING:
            return self._truncate(kind, what[3:], args[0])
        if name == "f32_to_f64":
            value = self._from_bits("f32", args[0])
            return self._checked(
                "f64", self._call("fpext.f64.f32", "double", [("float", value)], False)
            )
        if name == "f64_to_f32":
            value = self._from_bits("f64", args[0])
            return self._checked(
                "f32", self._call("fptrunc.f32.f64", "float", [("double", value)], True)
            )
        if kind in _INTEGERS and what in ("to_f32", "to_f64"):
            return self._from_integer(_INTEGERS[kind], what[3:], args[0])
        return None

    def _fresh(self, text: str) -> str:
        self._count += 1
        name = f"%{self._prefix}{self._count}"
        self.lines.append(f" {name} = {text}")
        return name

    def _from_bits(self, kind: str, value: str) -> str:
        float_type, bits = _TYPES[kind]
        if bits == "i32":
            value = self._fresh(f"trunc i64 {value} to i32")
        return self._fresh(f"bitcast {bits} {value} to {float_type}")

    def _to_bits(self, kind: str, value: str) -> str:
        float_type, bits = _TYPES[kind]
        raw = self._fresh(f"bitcast {float_type} {value} to {bits}")
        return self._fresh(f"zext i32 {raw} to i64") if bits == "i32" else raw

    def _call(self, name: str, result: str, args: list[tuple[str, str]], rounds: bool) -> str:
        types = ", ".join([kind for kind, _ in args] + ["metadata"] * (1 + rounds))
        self.declared.add(f"declare {result} @llvm.experimental.constrained.{name}({types})")
        values = (
            [f"{kind} {value}" for kind, value in args] + ([_ROUND] if rounds else []) + [_EXCEPT]
        )
        joined = ", ".join(values)
        return self._fresh(
            f"call {result} @llvm.experimental.constrained.{name}({joined}) strictfp"
        )

    def _leave_if(self, test: str) -> None:
        self._count += 1
        label = f"{self._prefix}on{self._count}"
        self.lines.append(f" br i1 {test}, label %{self._slow}, label %{label}, !prof !2")
        self.lines.append(f"{label}:")

    def _test(self, function: str, kind: str, first: str, second: str, predicate: str) -> str:
        float_type = _TYPES[kind][0]
        name = f"@llvm.experimental.constrained.{function}.{kind}"
        self.declared.add(f"declare i1 {name}({float_type}, {float_type}, metadata, metadata)")
        return self._fresh(
            f"call i1 {name}({float_type} {first}, {float_type} {second},"
            f' metadata !"{predicate}", {_EXCEPT}) strictfp'
        )

    def _checked(self, kind: str, value: str) -> str:
        self._leave_if(self._test("fcmp", kind, value, value, "uno"))
        return self._to_bits(kind, value)

    def _arithmetic(self, kind: str, function: str, args: list[str]) -> str:
        float_type = _TYPES[kind][0]
        values = [(float_type, self._from_bits(kind, arg)) for arg in args]
        return self._checked(kind, self._call(f"{function}.{kind}", float_type, values, True))

    def _compare(self, kind: str, function: str, predicate: str, args: list[str]) -> str:
        first, second = (self._from_bits(kind, arg) for arg in args)
        return self._fresh(f"zext i1 {self._test(function, kind, first, second, predicate)} to i64")

    def _truncate(self, kind: str, integer: str, arg: str) -> str:
        float_type = _TYPES[kind][0]
        value = self._from_bits(kind, arg)
        got = self._call(f"fptosi.{integer}.{kind}", integer, [(float_type, value)], False)
        lowest = -(1 << (int(integer[1:]) - 1))  # also the host's answer when it does not fit
        self._leave_if(self._fresh(f"icmp eq {integer} {got}, {lowest}"))
        return self._fresh(f"sext i32 {got} to i64") if integer == "i32" else got

    def _from_integer(self, integer: str, kind: str, arg: str) -> str:
        if integer == "i32":
            arg = self._fresh(f"trunc i64 {arg} to i32")
        float_type = _TYPES[kind][0]
        got = self._call(f"sitofp.{kind}.{integer}", float_type, [(integer, arg)], True)
        return self._to_bits(kind, got)


FLOAT_SUPPORT: Final = f"""
declare void @llvm.x86.sse.ldmxcsr(ptr)
declare void @llvm.x86.sse.stmxcsr(ptr)
define void @float_in(ptr %s) nounwind {{
 %slot = alloca i32
 %pf = getelementptr i8, ptr %s, i64 {8 * at.FRM}
 %frm = load i64, ptr %pf
 %known = icmp ult i64 %frm, 4
 %mode = select i1 %known, i64 %frm, i64 0
 %twice = shl i64 %mode, 1
 %host = lshr i64 156, %twice
 %rc = and i64 %host, 3
 %placed = shl i64 %rc, 13
 %value = or i64 %placed, 8064
 %word = trunc i64 %value to i32
 store i32 %word, ptr %slot
 call void @llvm.x86.sse.ldmxcsr(ptr %slot)
 ret void
}}
define void @float_out(ptr %s) nounwind {{
 %slot = alloca i32
 call void @llvm.x86.sse.stmxcsr(ptr %slot)
 %word = load i32, ptr %slot
 %m = zext i32 %word to i64
 %i0 = and i64 %m, 1
 %nv = shl i64 %i0, 4
 %z0 = and i64 %m, 4
 %dz = shl i64 %z0, 1
 %o0 = and i64 %m, 8
 %of = lshr i64 %o0, 1
 %u0 = and i64 %m, 16
 %uf = lshr i64 %u0, 3
 %p0 = and i64 %m, 32
 %nx = lshr i64 %p0, 5
 %a = or i64 %nv, %dz
 %b = or i64 %of, %uf
 %c = or i64 %a, %b
 %flags = or i64 %c, %nx
 %ph = getelementptr i8, ptr %s, i64 {8 * at.HART}
 %hart = load ptr, ptr %ph
 %pp = getelementptr i8, ptr %hart, i64 <Hart.fp>
 %fp = load ptr, ptr %pp
 %pl = getelementptr i8, ptr %fp, i64 <FloatStatus.flags>
 %old = load i64, ptr %pl
 %new = or i64 %old, %flags
 store i64 %new, ptr %pl
 %host = alloca i32
 store i32 8064, ptr %host
 call void @llvm.x86.sse.ldmxcsr(ptr %host)
 ret void
}}
define i64 @csr_any(ptr %s, i64 %number, i64 %how, i64 %value, i1 %reads, i1 %writes) nounwind {{
 %ph = getelementptr i8, ptr %s, i64 {8 * at.HART}
 %hart = load ptr, ptr %ph
 %float = icmp ult i64 %number, 4
 br i1 %float, label %yes, label %no
yes:
 call void @float_out(ptr %s)
 %r = call i64 @csr(ptr %hart, i64 %number, i64 %how, i64 %value, i1 %reads, i1 %writes)
 %pp = getelementptr i8, ptr %hart, i64 <Hart.fp>
 %fp = load ptr, ptr %pp
 %pm = getelementptr i8, ptr %fp, i64 <FloatStatus.frm>
 %frm = load i64, ptr %pm
 %pf = getelementptr i8, ptr %s, i64 {8 * at.FRM}
 store i64 %frm, ptr %pf
 call void @float_in(ptr %s)
 ret i64 %r
no:
 %t = call i64 @csr(ptr %hart, i64 %number, i64 %how, i64 %value, i1 %reads, i1 %writes)
 ret i64 %t
}}
"""
