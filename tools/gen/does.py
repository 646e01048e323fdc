"""The language of ``does``: a restricted Python, parsed with ``ast``: what an instruction does.

Values are 64-bit words in two's complement that wrap. Names: ``x[rd] x[rs1] x[rs2]`` (integer
registers), ``f[rd] f[rs1] f[rs2] f[rs3]`` (floating-point registers, raw 64-bit patterns), the
operands ``imm shamt uimm csr``, ``rm`` (the rounding mode, DYN already resolved), ``pc`` (this
instruction's address; assigning it jumps), ``npc`` (the next instruction's address) and locals.

Statements: assignment, ``if`` without else, a call. Expressions: ``+ - * & | ^ ~``, ``<<`` and
``>>`` (arithmetic) by an amount that is plainly 0..63, signed comparisons, ``and or not`` of
conditions, ``a if condition else b``, ``int(condition)``, integer constants, and the functions of
``FUNCTIONS``.

An instruction that traps does so before it has changed any register: a memory access, CSR access or
system call comes before the assignment of x[rd], f[rd] or pc.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import Literal

Type = Literal["int", "bool", "none"]
Kind = Literal["pure", "memory", "atomic", "csr", "system", "float"]


class DoesError(ValueError):
    """A ``does`` is not in the language; the text says where."""


@dataclass(frozen=True)
class Function:
    """A function that ``does`` may call: its parameters' names, its result and who provides it.

    A parameter called ``rm`` takes exactly the name ``rm``; one called ``csr`` the operand ``csr``;
    ``amount`` a shift amount. ``meaning`` is one line of English for generators' authors.
    """

    name: str
    parameters: tuple[str, ...]
    result: Type
    kind: Kind
    meaning: str


def _table() -> dict[str, Function]:
    rows: list[tuple[str, str, Type, Kind, str]] = [
        ("sext8", "a", "int", "pure", "low 8 bits, sign-extended"),
        ("sext16", "a", "int", "pure", "low 16 bits, sign-extended"),
        ("sext32", "a", "int", "pure", "low 32 bits, sign-extended"),
        ("zext8", "a", "int", "pure", "low 8 bits"),
        ("zext16", "a", "int", "pure", "low 16 bits"),
        ("zext32", "a", "int", "pure", "low 32 bits"),
        ("shr", "a amount", "int", "pure", "logical right shift of 64 bits"),
        ("ult", "a b", "bool", "pure", "a < b, unsigned"),
        ("mulh", "a b", "int", "pure", "high 64 bits, signed by signed"),
        ("mulhu", "a b", "int", "pure", "high 64 bits, unsigned by unsigned"),
        ("mulhsu", "a b", "int", "pure", "high 64 bits, signed by unsigned"),
        ("orcb", "a", "int", "pure", "each byte 0xff unless it is 0"),
        ("rev8", "a", "int", "pure", "bytes in the opposite order"),
        ("rol64", "a amount", "int", "pure", "rotate left"),
        ("ror64", "a amount", "int", "pure", "rotate right"),
        ("rol32", "a amount", "int", "pure", "the low 32 bits by 0..31, sign-extended"),
        ("ror32", "a amount", "int", "pure", "the low 32 bits by 0..31, sign-extended"),
    ]
    for name in ("div", "divu", "rem", "remu"):
        rows.append((name, "a b", "int", "pure", "as the standard, by zero and on overflow too"))
        rows.append((f"{name}w", "a b", "int", "pure", "of the low 32 bits, sign-extended"))
    for name, meaning in (("clz", "leading zeros"), ("ctz", "trailing zeros"), ("cpop", "ones")):
        rows.append((f"{name}64", "a", "int", "pure", f"number of {meaning}"))
        rows.append((f"{name}32", "a", "int", "pure", f"number of {meaning} in the low 32 bits"))
    for bits in (8, 16, 32, 64):
        rows.append((f"load{bits}", "address", "int", "memory", "zero-extended"))
        rows.append((f"store{bits}", "address value", "none", "memory", "the low bits of value"))
    for bits in (32, 64):
        rows += [
            (f"lr{bits}", "address", "int", "atomic", "load and reserve; zero-extended"),
            (f"sc{bits}", "address value", "int", "atomic", "0 if stored, 1 if not"),
            (f"amo_load{bits}", "address", "int", "atomic", "zero-extended; faults as a store/AMO"),
            (f"amo_store{bits}", "address value", "none", "atomic", "after amo_load: cannot fault"),
        ]
    rows += [
        ("csr_swap", "csr value", "int", "csr", "old value; no read if rd is x0"),
        ("csr_set", "csr value", "int", "csr", "old value; no write if the rs1 field is 0"),
        ("csr_clear", "csr value", "int", "csr", "old value; no write if the rs1 field is 0"),
        ("ecall", "", "none", "system", "environment call"),
        ("ebreak", "", "none", "system", "breakpoint"),
        ("mret", "", "none", "system", "return from M-mode's trap"),
        ("sret", "", "none", "system", "return from S-mode's trap"),
        ("wfi", "", "none", "system", "wait for interrupt"),
        ("fence", "", "none", "system", "order memory accesses"),
        ("fence_i", "", "none", "system", "make stores visible to fetches"),
        ("sfence_vma", "address asid", "none", "system", "the rs1, rs2 fields 0 mean: all"),
        ("unbox32", "a", "int", "float", "low 32 bits, or the canonical NaN if not boxed"),
        ("box32", "a", "int", "float", "low 32 bits under 32 ones"),
        ("f32_to_f64", "a", "int", "float", ""),
        ("f64_to_f32", "a rm", "int", "float", ""),
    ]
    for p in ("f32", "f64"):
        for name in ("add", "sub", "mul", "div"):
            rows.append((f"{p}_{name}", "a b rm", "int", "float", ""))
        rows.append((f"{p}_sqrt", "a rm", "int", "float", ""))
        rows.append((f"{p}_fma", "a b c rm", "int", "float", "a * b + c, rounded once"))
        for name in ("min", "max", "eq", "lt", "le"):
            rows.append((f"{p}_{name}", "a b", "int", "float", ""))
        rows.append((f"{p}_class", "a", "int", "float", "the ten-bit class mask"))
        for i in ("i32", "u32", "i64", "u64"):
            rows.append((f"{p}_to_{i}", "a rm", "int", "float", "saturating"))
            rows.append((f"{i}_to_{p}", "a rm", "int", "float", ""))
    return {
        name: Function(name, tuple(parameters.split()), result, kind, meaning)
        for name, parameters, result, kind, meaning in rows
    }


FUNCTIONS: dict[str, Function] = _table()
"""Every function of the language, by name."""


@dataclass(frozen=True)
class Body:
    """A checked ``does``: its statements and what they touch."""

    statements: tuple[ast.stmt, ...]
    operands: frozenset[str]
    reads_x: frozenset[str]
    reads_f: frozenset[str]
    writes_x: bool
    writes_f: bool
    jumps: bool
    calls: frozenset[str]
    locals: frozenset[str]

    def calls_kind(self, kind: Kind) -> bool:
        """Whether a function of this kind is called."""
        return any(FUNCTIONS[name].kind == kind for name in self.calls)


def parse_does(text: str, operands: frozenset[str]) -> Body:
    """Parse and check a ``does`` for an instruction that has these operands."""
    try:
        tree = ast.parse(text.strip() + "\n")
    except SyntaxError as error:
        raise DoesError(f"line {error.lineno}: {error.msg}") from None
    checker = _Checker(operands)
    for statement in tree.body:
        checker.statement(statement)
    return Body(
        tuple(tree.body),
        frozenset(checker.used),
        frozenset(checker.reads_x),
        frozenset(checker.reads_f),
        checker.writes_x,
        checker.writes_f,
        checker.jumps,
        frozenset(checker.calls),
        frozenset(checker.locals),
    )


_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.BitAnd, ast.BitOr, ast.BitXor)


class _Checker:
    """Walks the statements, gives each expression a type and notes what is used."""

    def __init__(self, operands: frozenset[str]) -> None:
        self.operands = operands
        self.used: set[str] = set()
        self.reads_x: set[str] = set()
        self.reads_f: set[str] = set()
        self.calls: set[str] = set()
        self.locals: set[str] = set()
        self.writes_x = self.writes_f = self.jumps = False

    def fail(self, node: ast.AST, why: str) -> DoesError:
        return DoesError(f"line {getattr(node, 'lineno', 1)}: {why}: {ast.unparse(node)}")

    def statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Assign(targets=[target], value=value):
                self.need(value, "int")
                self.target(target)
            case ast.If(test=test, body=body, orelse=[]):
                self.need(test, "bool")
                for inner in body:
                    self.statement(inner)
            case ast.Expr(value=ast.Call() as call):
                if self.call(call) != "none":
                    raise self.fail(node, "its value is not used")
                if self.writes_x or self.writes_f or self.jumps:
                    raise self.fail(node, "may trap after a register has changed")
            case _:
                raise self.fail(node, "not a statement of the language")

    def target(self, node: ast.expr) -> None:
        match node:
            case ast.Subscript(value=ast.Name("x" | "f" as file), slice=ast.Name("rd")):
                self.operand(node, "rd")
                self.writes_x |= file == "x"
                self.writes_f |= file == "f"
            case ast.Name("pc"):
                self.jumps = True
            case ast.Name(name) if name not in ("x", "f", "npc", "rm", *self.operands):
                self.locals.add(name)
            case _:
                raise self.fail(node, "cannot be assigned")

    def operand(self, node: ast.AST, name: str) -> None:
        if name not in self.operands:
            raise self.fail(node, f"the instruction has no operand {name}")
        self.used.add(name)

    def need(self, node: ast.expr, wanted: Type) -> None:
        if (found := self.type_of(node)) != wanted:
            raise self.fail(node, f"is {found}, not {wanted}")

    def type_of(self, node: ast.expr) -> Type:
        match node:
            case ast.Constant(value=bool()):
                raise self.fail(node, "no such constant")
            case ast.Constant(value=int(value)):
                if value >= 1 << 63:
                    raise self.fail(node, "does not fit a signed word")
                return "int"
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(value))):
                if value > 1 << 63:
                    raise self.fail(node, "does not fit a signed word")
                return "int"
            case ast.UnaryOp(op=ast.Invert() | ast.USub(), operand=operand):
                self.need(operand, "int")
                return "int"
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                self.need(operand, "bool")
                return "bool"
            case ast.BinOp(left=left, op=ast.LShift() | ast.RShift(), right=amount):
                self.need(left, "int")
                self.amount(amount)
                if isinstance(left, ast.Constant) and not isinstance(amount, ast.Constant):
                    # mypyc would shift a literal as a C int, of 32 bits; rol64 does what is meant.
                    raise self.fail(node, "shifts a constant by a variable")
                return "int"
            case ast.BinOp(left=left, op=operator, right=right):
                if not isinstance(operator, _OPERATORS):
                    raise self.fail(node, "no such operator")
                self.need(left, "int")
                self.need(right, "int")
                return "int"
            case ast.Compare(left=left, ops=[operator], comparators=[right]):
                if isinstance(operator, ast.Is | ast.IsNot | ast.In | ast.NotIn):
                    raise self.fail(node, "no such comparison")
                self.need(left, "int")
                self.need(right, "int")
                return "bool"
            case ast.BoolOp(values=values):
                for condition in values:
                    self.need(condition, "bool")
                return "bool"
            case ast.IfExp(test=test, body=body, orelse=orelse):
                self.need(test, "bool")
                self.need(body, "int")
                self.need(orelse, "int")
                return "int"
            case ast.Call():
                return self.call(node)
            case ast.Subscript() | ast.Name():
                return self.read(node)
            case _:
                raise self.fail(node, "not an expression of the language")

    def read(self, node: ast.Subscript | ast.Name) -> Type:
        match node:
            case ast.Subscript(value=ast.Name("x"), slice=ast.Name("rs1" | "rs2" as name)):
                self.operand(node, name)
                self.reads_x.add(name)
            case ast.Subscript(value=ast.Name("f"), slice=ast.Name("rs1" | "rs2" | "rs3" as name)):
                self.operand(node, name)
                self.reads_f.add(name)
            case ast.Name("pc") if self.jumps:
                raise self.fail(node, "has been assigned")
            case ast.Name("pc" | "npc"):
                pass
            case ast.Name("imm" | "uimm" | "shamt" | "csr" | "rm" as name):
                self.operand(node, name)
            case ast.Name(name) if name in self.locals:
                pass
            case _:
                raise self.fail(node, "unknown")
        return "int"

    def amount(self, node: ast.expr) -> None:
        """A shift amount must be 0..63 for all to see."""
        match node:
            case ast.Constant(value=int(value)) if 0 <= value <= 63:
                return
            case ast.Name("shamt"):
                self.operand(node, "shamt")
            case ast.BinOp(left=left, op=ast.BitAnd(), right=ast.Constant(value=31 | 63)):
                self.need(left, "int")
            case _:
                raise self.fail(node, "this shift amount is not plainly 0..63")

    def call(self, node: ast.Call) -> Type:
        match node:
            case ast.Call(func=ast.Name("int"), args=[condition], keywords=[]):
                self.need(condition, "bool")
                return "int"
            case ast.Call(func=ast.Name(name), args=args, keywords=[]) if name in FUNCTIONS:
                pass
            case _:
                raise self.fail(node, "no such function")
        function = FUNCTIONS[name]
        if len(args) != len(function.parameters):
            raise self.fail(node, f"takes ({', '.join(function.parameters)})")
        if function.kind in ("memory", "atomic", "csr") and (self.writes_x or self.writes_f):
            raise self.fail(node, "may trap after a register has changed")
        for argument, parameter in zip(args, function.parameters, strict=True):
            if parameter == "amount":
                self.amount(argument)
            elif parameter in ("rm", "csr") and not (
                isinstance(argument, ast.Name) and argument.id == parameter
            ):
                raise self.fail(node, f"takes the operand {parameter}")
            else:
                self.need(argument, "int")
        self.calls.add(name)
        return function.result
