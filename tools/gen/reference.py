"""Emits isa/reference_<extension>.py: ``does`` as plain Python on unsigned integers.

Words are Python integers 0..2**64-1, so each operation that can leave that range is masked, and
each that is signed converts explicitly. Only the specification is shared with compiled engines.
"""

from __future__ import annotations

import ast
import re

from tools.gen.does import FUNCTIONS
from tools.gen.emit import ISA, Files, header, number
from tools.gen.spec import EXTENSIONS, Instruction, Spec

MASK = (1 << 64) - 1
_PURE = "reference_words"


def emit(spec: Spec) -> Files:
    """One module for each extension that has operations of its own."""
    files: Files = {}
    for extension in EXTENSIONS:
        operations = [i for i in spec.of(extension) if i.expands is None]
        if operations:
            files[f"{ISA}/reference_{extension}.py"] = _module(spec, extension, operations)
    files[f"{ISA}/reference_operations.py"] = _all(
        [e for e in EXTENSIONS if f"{ISA}/reference_{e}.py" in files]
    )
    return files


def _module(spec: Spec, extension: str, operations: list[Instruction]) -> str:
    functions = []
    helpers: set[str] = set()
    for instruction in operations:
        writer = _Writer(instruction)
        functions.append(writer.function())
        helpers |= writer.helpers
    text = header(
        f"Reference semantics: {spec.titles[extension]}.",
        extension,
        imports="from collections.abc import Callable\nfrom typing import Final\n\n"
        "from asyncvmm.isa.reference_state import ReferenceState\n" + _words(helpers),
    )
    text += "\n" + "\n\n".join(functions)
    text += "\n\nOPERATIONS: Final[dict[str, Callable[..., None]]] = {\n"
    text += "".join(f'    "{i.name}": {_function_name(i)},\n' for i in operations)
    return text + "}\n"


def _words(helpers: set[str]) -> str:
    if not helpers:
        return ""
    lines = "".join(f"    {name},\n" for name in sorted(helpers, key=_sort_key))
    return f"from asyncvmm.isa.{_PURE} import (\n{lines})\n"


def _sort_key(name: str) -> tuple[bool, str]:
    """Constants first, as the linter orders imports."""
    return (not name.isupper(), re.sub(r"\d+", lambda found: found[0].zfill(3), name))


def _function_name(instruction: Instruction) -> str:
    return "do_" + instruction.name.replace(".", "_")


def _bare(text: str) -> str:
    """Without a pair of brackets around the whole."""
    if not text.startswith("("):
        return text
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[1:-1] if place == len(text) - 1 else text
    raise AssertionError(text)


class _Writer:
    """Writes one instruction's function and notes which helpers it calls."""

    def __init__(self, instruction: Instruction) -> None:
        self.instruction = instruction
        self.helpers: set[str] = set()

    def function(self) -> str:
        names = self.instruction.operands
        given = "".join(f", {name}: int" for name in names)
        lines = [f"def {_function_name(self.instruction)}(h: ReferenceState{given}) -> None:"]
        lines.append(f'    """{self.instruction.name}"""')
        if self.instruction.uses_float:
            lines.append("    h.need_float()")
        if self.instruction.has_rm:
            lines.append("    rm = h.rounding_mode(rm)")
        for statement in self.instruction.body.statements:
            lines += self.statement(statement, "    ")
        return "\n".join(lines) + "\n"

    def statement(self, node: ast.stmt, indent: str) -> list[str]:
        match node:
            case ast.If(test=test, body=body):
                inner = [line for part in body for line in self.statement(part, indent + "    ")]
                return [f"{indent}if {self.condition(test)}:", *inner]
            case ast.Assign(targets=[ast.Subscript(value=ast.Name(file))], value=value):
                return [f"{indent}h.set_{file}(rd, {_bare(self.word(value))})"]
            case ast.Assign(targets=[ast.Name("pc")], value=value):
                return [f"{indent}h.next_pc = {_bare(self.word(value))}"]
            case ast.Assign(targets=[ast.Name(name)], value=value):
                return [f"{indent}{name} = {_bare(self.word(value))}"]
            case ast.Expr(value=ast.Call() as call):
                return [f"{indent}{self.call(call)}"]
        raise AssertionError(ast.unparse(node))

    def condition(self, node: ast.expr) -> str:
        """A bool."""
        match node:
            case ast.Compare(
                left=left, ops=[ast.Eq() | ast.NotEq() as operator], comparators=[right]
            ):
                sign = "==" if isinstance(operator, ast.Eq) else "!="
                return f"{self.word(left)} {sign} {self.word(right)}"
            case ast.Compare(left=left, ops=[operator], comparators=[right]):
                self.helpers.add("signed")
                sign = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}[type(operator)]
                return f"signed({_bare(self.word(left))}) {sign} signed({_bare(self.word(right))})"
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return f"not {self.condition(operand)}"
            case ast.BoolOp(op=operator, values=values):
                word = " and " if isinstance(operator, ast.And) else " or "
                return "(" + word.join(self.condition(value) for value in values) + ")"
            case ast.Call(func=ast.Name("ult"), args=[left, right]):
                return f"{self.word(left)} < {self.word(right)}"
        raise AssertionError(ast.unparse(node))

    def word(self, node: ast.expr) -> str:
        """An int in 0..2**64-1, in brackets unless it is one term."""
        match node:
            case ast.Constant(value=int(value)):
                return number(value)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(value))):
                return number(-value & MASK)
            case ast.UnaryOp(op=operator, operand=operand):
                self.helpers.add("MASK")
                sign = "-" if isinstance(operator, ast.USub) else "~"
                return f"({sign}{self.word(operand)} & MASK)"
            case ast.BinOp(left=left, op=ast.RShift(), right=amount):
                self.helpers |= {"signed", "MASK"}
                return f"(signed({_bare(self.word(left))}) >> {self.word(amount)} & MASK)"
            case ast.BinOp(left=left, op=ast.LShift(), right=amount):
                self.helpers.add("MASK")
                return f"({self.word(left)} << {self.word(amount)} & MASK)"
            case ast.BinOp(left=left, op=operator, right=right):
                sign, wraps = {
                    ast.Add: ("+", True),
                    ast.Sub: ("-", True),
                    ast.Mult: ("*", True),
                    ast.BitAnd: ("&", False),
                    ast.BitOr: ("|", False),
                    ast.BitXor: ("^", False),
                }[type(operator)]
                text = f"{self.word(left)} {sign} {self.word(right)}"
                if wraps:
                    self.helpers.add("MASK")
                    return f"({text} & MASK)"
                return f"({text})"
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return f"({self.word(body)} if {self.condition(test)} else {self.word(orelse)})"
            case ast.Subscript(value=ast.Name(file), slice=ast.Name(register)):
                return f"h.{file}[{register}]"
            case ast.Name("pc"):
                return "h.pc"
            case ast.Name("npc"):
                return "h.npc"
            case ast.Name(name):
                if name in self.instruction.operands and self.instruction.field[name].signed:
                    self.helpers.add("MASK")
                    return f"({name} & MASK)"
                return name
            case ast.Call(func=ast.Name("int"), args=[condition]):
                return f"int({self.condition(condition)})"
            case ast.Call():
                return self.call(node)
        raise AssertionError(ast.unparse(node))

    def call(self, node: ast.Call) -> str:
        assert isinstance(node.func, ast.Name)
        name = node.func.id
        function = FUNCTIONS[name]
        arguments = [_bare(self.word(argument)) for argument in node.args]
        if function.kind == "pure" or name in ("box32", "unbox32"):
            self.helpers.add(name)
            return f"{name}({', '.join(arguments)})"
        if function.kind == "float":
            return f'h.float_operation("{name}", {", ".join(arguments)})'
        if name == "csr_swap":
            arguments.append("rd != 0")
        elif name in ("csr_set", "csr_clear"):
            source = "rs1" if "rs1" in self.instruction.operands else "uimm"
            arguments.append(f"{source} != 0")
        elif function.kind in ("memory", "atomic"):
            kind = name.rstrip("0123456789")
            size = int(name.removeprefix(kind)) // 8
            return f"h.{kind}({', '.join([arguments[0], str(size), *arguments[1:]])})"
        return f"h.{name}({', '.join(arguments)})"


def _all(extensions: list[str]) -> str:
    imports = "from collections.abc import Callable\nfrom typing import Final\n\n" + "".join(
        sorted(
            f"from asyncvmm.isa.reference_{e} import OPERATIONS as {e.upper()}\n"
            for e in extensions
        )
    )
    text = header("Reference semantics of every operation, by name.", imports=imports)
    text += "OPERATIONS: Final[dict[str, Callable[..., None]]] = {\n"
    return text + "".join(f"    **{extension.upper()},\n" for extension in extensions) + "}\n"
