"""Emits engine/jit/lowering_*.py: what each operation does, as LLVM IR with a few words of its own.

A lowering is text, one instruction of LLVM IR a line, in which ``%1``, ``%2``... are temporaries and
braces hold constants: ``{imm}`` (also shamt and csr), ``{uimm}``, ``{rm}``. Lines that are not IR:

- ``%n = x rs1``, ``%n = f rs2``: read a register; ``x rd = %n``, ``f rd = %n``: write one
- ``%n = npc``, ``%n = pc+imm``: addresses
- ``%n = load 32 %a``: zero-extended; ``store 32 %a, %v``: the low bits
- ``goto``: to pc + imm; ``goto if %c``: the same when the i1 is true; ``goto %a``: to an address
- ``%n = lr 32 %a``, ``%n = sc 32 %a, %v``, ``%n = amo_load 32 %a``, ``amo_store 32 %a, %v``
- ``%n = csr_swap %v`` and the like, and ``ecall``, ``sret``...: what has a function of its own
- ``%n = f64_add %a, %b``: a floating-point operation on raw bits

An engine that has no way to do such a line leaves the whole instruction to the interpreter.
"""

from __future__ import annotations

import ast

from tools.gen.does import FUNCTIONS
from tools.gen.emit import Files, header
from tools.gen.spec import EXTENSIONS, Instruction, Spec

JIT = "src/asyncvmm/engine/jit"

_BINARY: dict[type[ast.operator], str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.BitAnd: "and", ast.BitOr: "or",
    ast.BitXor: "xor", ast.LShift: "shl", ast.RShift: "ashr",
}  # fmt: skip
_COMPARE: dict[type[ast.cmpop], str] = {
    ast.Eq: "eq", ast.NotEq: "ne", ast.Lt: "slt", ast.LtE: "sle", ast.Gt: "sgt", ast.GtE: "sge",
}  # fmt: skip
_EXTEND = {"sext8": "sext", "sext16": "sext", "sext32": "sext", "zext8": "zext", "zext16": "zext",
           "zext32": "zext"}  # fmt: skip
_DIVIDE = {"div": "sdiv", "divu": "udiv", "rem": "srem", "remu": "urem"}
_COUNT = {"clz": "ctlz", "ctz": "cttz", "cpop": "ctpop"}


class Lowering:
    """The lines of one operation."""

    def __init__(self, instruction: Instruction) -> None:
        self.instruction = instruction
        self.lines: list[str] = []
        self.names: dict[str, str] = {}
        self.reads: dict[str, str] = {}
        self.count = 0
        for statement in instruction.body.statements:
            self.statement(statement)

    def temporary(self, text: str) -> str:
        """A line that computes ``text`` into a new temporary."""
        self.count += 1
        name = f"%{self.count}"
        self.lines.append(f"{name} = {text}")
        return name

    def statement(self, node: ast.stmt) -> None:
        """One statement of ``does``."""
        match node:
            case ast.If(test=test, body=[ast.Assign(targets=[ast.Name("pc")])]):
                self.lines.append(f"goto if {self.value(test)}")
            case ast.Assign(targets=[ast.Name("pc")], value=ast.BinOp(left=ast.Name("pc"))):
                self.lines.append("goto")
            case ast.Assign(targets=[ast.Name("pc")], value=value):
                self.lines.append(f"goto {self.value(value)}")
            case ast.Assign(targets=[ast.Name(name)], value=value):
                self.names[name] = self.value(value)
            case ast.Assign(targets=[ast.Subscript(value=ast.Name(file))], value=value):
                self.lines.append(f"{file} rd = {self.value(value)}")
            case ast.Expr(value=ast.Call(func=ast.Name(name), args=args)):
                values = ", ".join(self.value(arg) for arg in args)
                if FUNCTIONS[name].kind == "memory":
                    self.lines.append(f"store {name[5:]} {values}")
                elif FUNCTIONS[name].kind == "atomic":
                    self.lines.append(f"amo_store {name[9:]} {values}")
                elif name not in ("fence", "fence_i"):
                    self.lines.append(f"{name} {values}".rstrip())
            case _:
                raise TypeError(ast.dump(node))

    def value(self, node: ast.expr) -> str:
        """An operand: a temporary or a constant; i1 for conditions, else i64."""
        match node:
            case ast.Constant(value=int(value)):
                return str(value)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(value))):
                return str(-value)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self.temporary(f"sub i64 0, {self.value(operand)}")
            case ast.UnaryOp(op=ast.Invert(), operand=operand):
                return self.temporary(f"xor i64 {self.value(operand)}, -1")
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return self.temporary(f"xor i1 {self.value(operand)}, true")
            case ast.BinOp(left=ast.Name("pc"), op=ast.Add(), right=ast.Name("imm")):
                return self.temporary("pc+imm")
            case ast.BinOp(left=left, op=op, right=right):
                first, second = self.value(left), self.value(right)
                return self.temporary(f"{_BINARY[type(op)]} i64 {first}, {second}")
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                first, second = self.value(left), self.value(right)
                return self.temporary(f"icmp {_COMPARE[type(op)]} i64 {first}, {second}")
            case ast.BoolOp(op=op, values=values):
                word = "and" if isinstance(op, ast.And) else "or"
                result = self.value(values[0])
                for value in values[1:]:
                    result = self.temporary(f"{word} i1 {result}, {self.value(value)}")
                return result
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self.select(self.value(test), self.value(body), self.value(orelse))
            case ast.Subscript(value=ast.Name(file), slice=ast.Name(name)):
                read = f"{file} {name}"
                if read not in self.reads:
                    self.reads[read] = self.temporary(read)
                return self.reads[read]
            case ast.Name("npc"):
                return self.temporary("npc")
            case ast.Name("imm" | "shamt" | "csr"):
                return "{imm}"
            case ast.Name("uimm"):
                return "{uimm}"
            case ast.Name("rm"):
                return "{rm}"
            case ast.Name(name):
                return self.names[name]
            case ast.Call(func=ast.Name(name), args=args):
                return self.call(name, [self.value(arg) for arg in args])
        raise TypeError(ast.dump(node))

    def select(self, test: str, first: str, second: str, kind: str = "i64") -> str:
        """``first`` if ``test`` else ``second``."""
        return self.temporary(f"select i1 {test}, {kind} {first}, {kind} {second}")

    def narrow(self, value: str, bits: int) -> str:
        """The low bits as an integer of that width."""
        return value if bits == 64 else self.temporary(f"trunc i64 {value} to i{bits}")

    def widen(self, value: str, bits: int, how: str = "sext") -> str:
        """Back to 64 bits."""
        return value if bits == 64 else self.temporary(f"{how} i{bits} {value} to i64")

    def call(self, name: str, args: list[str]) -> str:
        """A function of the language."""
        if name == "int":
            return self.temporary(f"zext i1 {args[0]} to i64")
        kind = FUNCTIONS[name].kind
        if kind == "memory":
            return self.temporary(f"load {name[4:]} {args[0]}")
        if kind == "atomic":
            operation, bits = name[:-2], name[-2:]
            return self.temporary(f"{operation} {bits} {', '.join(args)}")
        if kind == "csr":
            return self.temporary(f"{name} {args[1]}")
        if name == "box32":
            return self.temporary(f"or i64 {args[0]}, -4294967296")
        if name == "unbox32":
            high = self.temporary(f"ashr i64 {args[0]}, 32")
            boxed = self.temporary(f"icmp eq i64 {high}, -1")
            low = self.temporary(f"and i64 {args[0]}, 4294967295")
            return self.select(boxed, low, "2143289344")
        if kind == "float":
            return self.temporary(f"{name} {', '.join(args)}")
        return self.pure(name, args)

    def pure(self, name: str, args: list[str]) -> str:
        """Integer functions, each in a few instructions."""
        first, second = args[0], args[-1]
        if name in _EXTEND:
            bits = int(name[4:])
            return self.widen(self.narrow(first, bits), bits, _EXTEND[name])
        if name == "shr":
            return self.temporary(f"lshr i64 {first}, {second}")
        if name == "ult":
            return self.temporary(f"icmp ult i64 {first}, {second}")
        if name.startswith("mulh"):
            wide = [
                self.temporary(f"{how} i64 {arg} to i128")
                for how, arg in zip(
                    {"mulh": ("sext", "sext"), "mulhu": ("zext", "zext")}.get(
                        name, ("sext", "zext")
                    ),
                    args,
                    strict=True,
                )
            ]
            product = self.temporary(f"mul i128 {wide[0]}, {wide[1]}")
            high = self.temporary(f"lshr i128 {product}, 64")
            return self.temporary(f"trunc i128 {high} to i64")
        bits = 32 if name.endswith(("w", "32")) else 64
        stem = name.removesuffix("w").removesuffix("32").removesuffix("64")
        if stem in _DIVIDE:
            return self.widen(self.divide(stem, args, bits), bits)
        if stem in _COUNT:
            low = self.narrow(first, bits)
            tail = "" if stem == "cpop" else ", i1 false"
            counted = self.temporary(
                f"call i{bits} @llvm.{_COUNT[stem]}.i{bits}(i{bits} {low}{tail})"
            )
            return self.widen(counted, bits, "zext")
        if stem in ("rol", "ror"):
            low, amount = self.narrow(first, bits), self.narrow(second, bits)
            function = "fshl" if stem == "rol" else "fshr"
            turned = self.temporary(
                f"call i{bits} @llvm.{function}.i{bits}(i{bits} {low}, i{bits} {low}, i{bits} {amount})"
            )
            return self.widen(turned, bits)
        if name == "rev8":
            return self.temporary(f"call i64 @llvm.bswap.i64(i64 {first})")
        assert name == "orcb", name
        parts = self.temporary(f"bitcast i64 {first} to <8 x i8>")
        ones = self.temporary(f"icmp ne <8 x i8> {parts}, zeroinitializer")
        full = self.temporary(f"sext <8 x i1> {ones} to <8 x i8>")
        return self.temporary(f"bitcast <8 x i8> {full} to i64")

    def divide(self, stem: str, args: list[str], bits: int) -> str:
        """Division as the standard wants it: LLVM's is undefined by zero and on overflow."""
        a, b = (self.narrow(arg, bits) for arg in args)
        kind = f"i{bits}"
        zero = self.temporary(f"icmp eq {kind} {b}, 0")
        unsafe, negative = zero, ""
        if not stem.endswith("u"):
            negative = self.temporary(f"icmp eq {kind} {b}, -1")
            unsafe = self.temporary(f"or i1 {zero}, {negative}")
        divisor = self.select(unsafe, "1", b, kind)
        result = self.temporary(f"{_DIVIDE[stem]} {kind} {a}, {divisor}")
        if stem == "div":
            result = self.select(negative, self.temporary(f"sub {kind} 0, {a}"), result, kind)
        return self.select(zero, "-1" if stem.startswith("div") else a, result, kind)


def emit(spec: Spec) -> Files:
    """One module per extension that has operations."""
    files: Files = {}
    for extension in EXTENSIONS:
        rows = []
        for instruction in spec.of(extension):
            if instruction.expands is None:
                lines = "\n".join(Lowering(instruction).lines)
                rows.append(f'    "{instruction.name}": """\\\n{lines}""",\n')
        if rows:
            text = header(
                f"Lowering to LLVM IR: {spec.titles[extension]}.",
                extension,
                imports="from typing import Final\n",
            )
            text += "# fmt: off\nLOWERING: Final = {\n" + "".join(rows) + "}\n"
            files[f"{JIT}/lowering_{extension}.py"] = text
    used = [e for e in EXTENSIONS if f"{JIT}/lowering_{e}.py" in files]
    imports = "".join(
        f"from asyncvmm.engine.jit.lowering_{e} import LOWERING as {e.upper()}\n"
        for e in sorted(used)
    )
    text = header(
        "Lowerings of all operations by name.", imports=f"from typing import Final\n\n{imports}"
    )
    text += "LOWERINGS: Final[dict[str, str]] = {\n"
    text += "".join(f"    **{e.upper()},\n" for e in used) + "}\n"
    text += '"""Every operation\'s lowering."""\n'
    files[f"{JIT}/lowerings.py"] = text
    return files
