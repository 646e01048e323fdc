"""Emits engine/jit/native_ir.py: functions of ``arch`` once more, as LLVM IR.

Translated code must translate addresses, take traps and access CSRs without going back to Python. So
that this is not written twice, the functions that the interpreter uses are compiled from their own
source: the subset of Python that mypyc makes fast code of is easy to compile. Roots are the functions
of ``engine/jit/native.py``; what they call is found through imports.

``<Hart.pc>`` in the text stands for the offset of an attribute in the object, which is looked up when
the engine starts. A call of what is in ``BAIL`` (Python objects, devices, rare WARL rules) notes
EVENT_BAIL and returns at once: the interpreter then does the whole instruction again, so nothing may
have changed before it.
"""

from __future__ import annotations

import ast
import types
from pathlib import Path

from tools.gen.emit import Files, header
from tools.gen.spec import Spec

ROOT = Path(__file__).resolve().parent.parent.parent / "src"
MODULES = (
    "asyncvmm.base.bits", "asyncvmm.memory.pages", "asyncvmm.arch.tlb", "asyncvmm.arch.hart",
    "asyncvmm.arch.float_status", "asyncvmm.arch.pmp", "asyncvmm.arch.mmu", "asyncvmm.arch.trap",
    "asyncvmm.arch.csr", "asyncvmm.timeline.clock", "asyncvmm.timeline.events",
    "asyncvmm.arch.hart_time",
    "asyncvmm.engine.jit.native",
)  # fmt: skip
ROOTS = "asyncvmm.engine.jit.native"
BAIL = {
    "Ram.store64", "Ram.materialize", "write_config", "write_address",
    "_write_inhibit",
}  # fmt: skip
REPLACED = {"Environment.time_ticks": "time_ticks"}
EVENT_BAIL = 4
_BINARY: dict[type[ast.operator], str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.BitAnd: "and", ast.BitOr: "or",
    ast.BitXor: "xor", ast.LShift: "shl", ast.RShift: "ashr",
}  # fmt: skip
_COMPARE: dict[type[ast.cmpop], str] = {
    ast.Eq: "eq", ast.NotEq: "ne", ast.Lt: "slt", ast.LtE: "sle", ast.Gt: "sgt", ast.GtE: "sge",
}  # fmt: skip


class Sources:
    """The functions, classes and constants of ``MODULES``."""

    def __init__(self) -> None:
        self.functions: dict[str, tuple[ast.FunctionDef, str]] = {}
        self.attributes: dict[str, dict[str, str]] = {}
        self.globals: dict[str, dict[str, object]] = {}
        for module in MODULES:
            constants_of(module, self.globals)
            for node in ast.parse(source_of(module).read_text()).body:
                if isinstance(node, ast.FunctionDef):
                    self.functions[node.name] = (node, module)
                elif isinstance(node, ast.ClassDef):
                    self.add_class(node, module)

    def add_class(self, node: ast.ClassDef, module: str) -> None:
        """Its methods, and its attributes' types."""
        found = self.attributes.setdefault(node.name, {})
        for item in node.body:
            if isinstance(item, ast.FunctionDef):
                self.functions[f"{node.name}.{item.name}"] = (item, module)
                for inner in ast.walk(item):
                    match inner:
                        case ast.AnnAssign(target=ast.Attribute(value=ast.Name("self"), attr=name)):
                            found[name] = ast.unparse(inner.annotation)


def constants_of(module: str, known: dict[str, dict[str, object]]) -> dict[str, object]:
    """Constants of a module, with those that it imports; modules by their alias.

    Read from the source: a compiled module may be older.
    """
    if module in known:
        return known[module]
    found: dict[str, object] = {}
    for node in ast.parse(source_of(module).read_text()).body:
        match node:
            case ast.ImportFrom(module=str(source), names=names) if source.startswith("asyncvmm"):
                for name in names:
                    inner = f"{source}.{name.name}"
                    if source_of(inner).exists():
                        constants = constants_of(inner, known)
                        found[name.asname or name.name] = types.SimpleNamespace(**constants)
                    elif name.name in (constants := constants_of(source, known)):
                        found[name.asname or name.name] = constants[name.name]
            case ast.AnnAssign(target=ast.Name(name), value=ast.expr() as value):
                try:
                    found[name] = eval(compile(ast.Expression(value), module, "eval"), dict(found))
                except (NameError, TypeError):
                    continue
    known[module] = found
    return found


def source_of(module: str) -> Path:
    """The file of a module; it may not exist."""
    return ROOT / (module.replace(".", "/") + ".py")


class Function:
    """One function being compiled: text of its body, locals as stack slots."""

    def __init__(self, unit: Unit, name: str) -> None:
        self.unit = unit
        self.name = name
        self.node, self.module = unit.sources.functions[name]
        self.lines: list[str] = []
        self.slots: dict[str, str] = {}
        self.temporaries = 0
        self.loops: list[tuple[str, str]] = []
        self.result = annotation(self.node.returns)
        self.ended = False

    def text(self) -> str:
        """The whole definition."""
        parameters = []
        for argument in self.node.args.args:
            kind = annotation(argument.annotation) if argument.annotation else self.owner()
            parameters.append((argument.arg, kind))
        for name, kind in parameters:
            self.slots[name] = kind
            self.emit(f"store {ir(kind)} %a.{name}, ptr %l.{name}")
        for statement in self.node.body:
            self.statement(statement)
        if not self.ended:
            self.emit(f"ret {zero(self.result)}")
        signature = ", ".join(f"{ir(kind)} %a.{name}" for name, kind in parameters)
        linkage = "" if self.module == ROOTS else "internal "
        out = [f"define {linkage}{ir(self.result)} @{self.name}({signature}) nounwind {{"]
        out += [f" %l.{name} = alloca {ir(kind)}" for name, kind in self.slots.items()]
        return "\n".join([*out, *self.lines, "}"])

    def owner(self) -> str:
        """The class of ``self``."""
        return self.name.split(".")[0]

    def emit(self, line: str) -> None:
        """A line, unless it could never run."""
        if line.endswith(":"):
            if not self.ended:
                self.lines.append(f" br label %{line[:-1]}")
            self.lines.append(line)
            self.ended = False
        elif not self.ended:
            self.lines.append(" " + line)
            self.ended = line.startswith(("ret ", "br "))

    def temporary(self, text: str) -> str:
        """A new value."""
        self.temporaries += 1
        self.emit(f"%t{self.temporaries} = {text}")
        return f"%t{self.temporaries}"

    def label(self) -> str:
        """A new label."""
        self.temporaries += 1
        return f"b{self.temporaries}"

    def fail(self, node: ast.AST) -> TypeError:
        return TypeError(f"{self.module}.{self.name}: cannot compile {ast.unparse(node)}")

    def bail(self) -> None:
        """Let the interpreter do the instruction."""
        hart = self.temporary("load ptr, ptr %l.hart")
        place = self.temporary(f"getelementptr i8, ptr {hart}, i64 <Hart.event>")
        event = self.temporary(f"load i64, ptr {place}")
        noted = self.temporary(f"or i64 {event}, {EVENT_BAIL}")
        self.emit(f"store i64 {noted}, ptr {place}")
        self.emit(f"ret {zero(self.result)}")

    def block(self, body: list[ast.stmt]) -> None:
        """Statements in order."""
        for statement in body:
            self.statement(statement)

    def statement(self, node: ast.stmt) -> None:
        """One statement."""
        match node:
            case ast.Expr(value=ast.Constant()) | ast.Pass():
                return
            case ast.Expr(value=ast.Call() as call):
                self.call(call)
            case ast.AnnAssign(target=ast.Name(name), value=ast.expr() as value):
                self.slots.setdefault(name, annotation(node.annotation))
                self.assign(ast.Name(name), value)
            case ast.Assign(targets=[target], value=value):
                self.assign(target, value)
            case ast.AugAssign(target=target, op=op, value=value):
                self.assign(target, ast.BinOp(target, op, value))
            case ast.If(test=test, body=body, orelse=orelse):
                yes, no, end = self.label(), self.label(), self.label()
                self.branch(test, yes, no)
                self.emit(f"{yes}:")
                self.block(body)
                self.emit(f"br label %{end}")
                self.emit(f"{no}:")
                self.block(orelse)
                self.emit(f"{end}:")
            case ast.While(test=test, body=body):
                top, inside, end = self.label(), self.label(), self.label()
                self.loops.append((top, end))
                self.emit(f"{top}:")
                self.branch(test, inside, end)
                self.emit(f"{inside}:")
                self.block(body)
                self.emit(f"br label %{top}")
                self.emit(f"{end}:")
                self.loops.pop()
            case ast.Break():
                self.emit(f"br label %{self.loops[-1][1]}")
            case ast.Continue():
                self.emit(f"br label %{self.loops[-1][0]}")
            case ast.Return(value=None):
                self.emit("ret void")
            case ast.Return(value=ast.Tuple(elts=[first, second])):
                one, other = self.value(first)[0], self.value(second)[0]
                pair = self.temporary(f"insertvalue {{i64, i64}} poison, i64 {one}, 0")
                pair = self.temporary(f"insertvalue {{i64, i64}} {pair}, i64 {other}, 1")
                self.emit(f"ret {{i64, i64}} {pair}")
            case ast.Return(value=ast.expr() as value):
                text, kind = self.value(value)
                if self.ended:
                    return
                assert kind == self.result, f"{self.name}: returns {kind}"
                self.emit(f"ret {ir(kind)} {text}")
            case _:
                raise self.fail(node)

    def assign(self, target: ast.expr, value: ast.expr) -> None:
        """To a local, an attribute, an item or two locals."""
        text, kind = self.value(value)
        if self.ended:
            return
        match target:
            case ast.Name(name):
                assert self.slots.setdefault(name, kind) == kind, f"{self.name}: {name} is {kind}"
                self.emit(f"store {ir(kind)} {text}, ptr %l.{name}")
            case ast.Tuple(elts=elements):
                for index, element in enumerate(elements):
                    assert isinstance(element, ast.Name)
                    part = self.temporary(f"extractvalue {{i64, i64}} {text}, {index}")
                    self.slots[element.id] = "i64"
                    self.emit(f"store i64 {part}, ptr %l.{element.id}")
            case ast.Attribute():
                place, wanted = self.place(target)
                assert wanted == kind
                if kind == "bool":
                    text = self.temporary(f"zext i1 {text} to i8")
                    self.emit(f"store i8 {text}, ptr {place}")
                elif kind == "i64":
                    self.emit(f"store i64 {text}, ptr {place}")
                else:
                    raise self.fail(target)
            case ast.Subscript():
                self.emit(f"store i64 {text}, ptr {self.item(target)}")
            case _:
                raise self.fail(target)

    def place(self, node: ast.Attribute) -> tuple[str, str]:
        """The address of an attribute, and its type."""
        base, kind = self.value(node.value)
        wanted = self.unit.sources.attributes[kind][node.attr]
        token = f"<{kind}.{node.attr}>"
        return self.temporary(f"getelementptr i8, ptr {base}, i64 {token}"), wanted

    def item(self, node: ast.Subscript) -> str:
        """The address of an element of a vec[i64]."""
        base, kind = self.value(node.value)
        assert kind == "vec[i64]", ast.unparse(node)
        index, _ = self.value(node.slice)
        return self.temporary(f"getelementptr i64, ptr {base}, i64 {index}")

    def constant(self, node: ast.expr) -> int | None:
        """The value of a constant expression."""
        match node:
            case ast.Constant(value=bool()):
                return None
            case ast.Constant(value=int(value)):
                return value
            case ast.Name(name) if name not in self.slots:
                found = self.unit.sources.globals[self.module].get(name)
                return found if isinstance(found, int) else None
            case ast.Attribute(value=ast.Name(name), attr=attribute) if name not in self.slots:
                found = getattr(self.unit.sources.globals[self.module].get(name), attribute, None)
                return found if isinstance(found, int) else None
            case ast.UnaryOp(op=ast.USub() | ast.Invert() as op, operand=operand):
                inner = self.constant(operand)
                if inner is None:
                    return None
                return -inner if isinstance(op, ast.USub) else ~inner
            case ast.BinOp(left=left, op=operator, right=right):
                one, other = self.constant(left), self.constant(right)
                if one is None or other is None:
                    return None
                match operator:
                    case ast.BitOr():
                        return one | other
                    case ast.LShift():
                        return one << other
                    case ast.Add():
                        return one + other
                    case ast.Sub():
                        return one - other
                    case ast.Mult():
                        return one * other
                    case ast.FloorDiv():
                        return one // other
        return None

    def value(self, node: ast.expr) -> tuple[str, str]:
        """An expression: its text and type."""
        constant = self.constant(node)
        if constant is not None:
            return str(((constant + (1 << 63)) & ((1 << 64) - 1)) - (1 << 63)), "i64"
        match node:
            case ast.Constant(value=bool(value)):
                return str(value).lower(), "bool"
            case ast.Name(name) if name in self.slots:
                kind = self.slots[name]
                return self.temporary(f"load {ir(kind)}, ptr %l.{name}"), kind
            case ast.Attribute():
                place, kind = self.place(node)
                if kind == "bool":
                    byte = self.temporary(f"load i8, ptr {place}")
                    return self.temporary(f"icmp ne i8 {byte}, 0"), "bool"
                if kind.startswith("vec["):
                    place = self.temporary(f"getelementptr i8, ptr {place}, i64 8")
                return self.temporary(f"load {ir(kind)}, ptr {place}"), kind
            case ast.Subscript(value=inner, slice=index):
                base, kind = self.value(inner)
                at, _ = self.value(index)
                if kind == "vec[vec[i64]]":
                    scaled = self.temporary(f"shl i64 {at}, 4")
                    place = self.temporary(f"getelementptr i8, ptr {base}, i64 {scaled}")
                    place = self.temporary(f"getelementptr i8, ptr {place}, i64 8")
                    return self.temporary(f"load ptr, ptr {place}"), "vec[i64]"
                if kind == "vec[i32]":
                    place = self.temporary(f"getelementptr i32, ptr {base}, i64 {at}")
                    half = self.temporary(f"load i32, ptr {place}")
                    return self.temporary(f"sext i32 {half} to i64"), "i64"
                assert kind == "vec[i64]", ast.unparse(node)
                place = self.temporary(f"getelementptr i64, ptr {base}, i64 {at}")
                return self.temporary(f"load i64, ptr {place}"), "i64"
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self.temporary(f"sub i64 0, {self.value(operand)[0]}"), "i64"
            case ast.UnaryOp(op=ast.Invert(), operand=operand):
                return self.temporary(f"xor i64 {self.value(operand)[0]}, -1"), "i64"
            case ast.BinOp(left=left, op=ast.FloorDiv() | ast.Mod() as op, right=right):
                return self.divide(left, right, isinstance(op, ast.Mod)), "i64"
            case ast.BinOp(left=left, op=op, right=right):
                one, other = self.value(left)[0], self.value(right)[0]
                return self.temporary(f"{_BINARY[type(op)]} i64 {one}, {other}"), "i64"
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self.choose(test, body, orelse)
            case ast.Compare() | ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
                return self.choose(node, ast.Constant(True), ast.Constant(False))
            case ast.Call():
                return self.call(node)
        raise self.fail(node)

    def choose(self, test: ast.expr, body: ast.expr, orelse: ast.expr) -> tuple[str, str]:
        """A value that depends on a condition, through a stack slot."""
        yes, no, end = self.label(), self.label(), self.label()
        slot = f"choice{end}"
        self.branch(test, yes, no)
        self.emit(f"{yes}:")
        text, kind = self.value(body)
        self.slots[slot] = kind
        self.emit(f"store {ir(kind)} {text}, ptr %l.{slot}")
        self.emit(f"br label %{end}")
        self.emit(f"{no}:")
        text, _ = self.value(orelse)
        self.emit(f"store {ir(kind)} {text}, ptr %l.{slot}")
        self.emit(f"{end}:")
        return self.temporary(f"load {ir(kind)}, ptr %l.{slot}"), kind

    def divide(self, left: ast.expr, right: ast.expr, remainder: bool) -> str:
        """Floor division by a positive number."""
        a, b = self.value(left)[0], self.value(right)[0]
        q, r = self.temporary(f"sdiv i64 {a}, {b}"), self.temporary(f"srem i64 {a}, {b}")
        negative = self.temporary(f"icmp slt i64 {r}, 0")
        if remainder:
            up = self.temporary(f"add i64 {r}, {b}")
            return self.temporary(f"select i1 {negative}, i64 {up}, i64 {r}")
        down = self.temporary(f"sub i64 {q}, 1")
        return self.temporary(f"select i1 {negative}, i64 {down}, i64 {q}")

    def branch(self, node: ast.expr, yes: str, no: str) -> None:
        """Jump by a condition."""
        match node:
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                self.branch(operand, no, yes)
            case ast.BoolOp(op=op, values=values):
                for value in values[:-1]:
                    following = self.label()
                    if isinstance(op, ast.And):
                        self.branch(value, following, no)
                    else:
                        self.branch(value, yes, following)
                    self.emit(f"{following}:")
                self.branch(values[-1], yes, no)
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                one, kind = self.value(left)
                other, _ = self.value(right)
                test = self.temporary(f"icmp {_COMPARE[type(op)]} {ir(kind)} {one}, {other}")
                self.emit(f"br i1 {test}, label %{yes}, label %{no}")
            case _:
                text, kind = self.value(node)
                assert kind == "bool", ast.unparse(node)
                self.emit(f"br i1 {text}, label %{yes}, label %{no}")

    def call(self, node: ast.Call) -> tuple[str, str]:
        """A call of a function, a method or one of the few built-in names."""
        match node.func:
            case ast.Name("i64" | "int"):
                return self.value(node.args[0])
            case ast.Name("address_of"):
                text, _ = self.value(node.args[0])
                return self.temporary(f"ptrtoint ptr {text} to i64"), "i64"
            case ast.Name("peek"):
                text, _ = self.value(node.args[0])
                pointer = self.temporary(f"inttoptr i64 {text} to ptr")
                return self.temporary(f"load i64, ptr {pointer}"), "i64"
            case ast.Name("hart_time_at"):
                text, _ = self.value(node.args[0])
                return self.temporary(f"inttoptr i64 {text} to ptr"), "HartTime"
            case ast.Name(name):
                arguments = []
            case ast.Attribute(attr=attribute) if f"Environment.{attribute}" in REPLACED:
                name, arguments = REPLACED[f"Environment.{attribute}"], []
            case ast.Attribute(value=inner, attr=attribute):
                text, kind = self.value(inner)
                name, arguments = f"{kind}.{attribute}", [f"ptr {text}"]
            case _:
                raise self.fail(node)
        definition = self.unit.sources.functions.get(name)
        if definition is None and name not in BAIL:
            raise self.fail(node)
        result = annotation(definition[0].returns) if definition else "none"
        if name in BAIL:
            self.bail()
            return zero(result).split()[-1], result
        for argument in node.args:
            text, kind = self.value(argument)
            arguments.append(f"{ir(kind)} {text}")
        self.unit.want(name)
        call = f"call {ir(result)} @{name}({', '.join(arguments)})"
        if result == "none":
            self.emit(call)
            return "", result
        return self.temporary(call), result


def annotation(node: ast.expr | None) -> str:
    """A type as text."""
    text = "none" if node is None else ast.unparse(node)
    return {"None": "none", "int": "i64"}.get(text, text)


def ir(kind: str) -> str:
    """LLVM's type."""
    known = {"i64": "i64", "bool": "i1", "none": "void", "tuple[i64, i64]": "{i64, i64}"}
    return known.get(kind, "ptr")


def zero(kind: str) -> str:
    """A value to return when nobody looks at it."""
    known = {"none": "void", "bool": "i1 false", "tuple[i64, i64]": "{i64, i64} zeroinitializer"}
    return known.get(kind, "i64 0")


class Unit:
    """Everything that is reached from the roots."""

    def __init__(self) -> None:
        self.sources = Sources()
        self.wanted: list[str] = []

    def want(self, name: str) -> None:
        """Compile this one too."""
        if name not in self.wanted:
            self.wanted.append(name)

    def text(self) -> str:
        """All definitions."""
        for name, (_, module) in self.sources.functions.items():
            if module == ROOTS and name not in ("address_of", "peek", "hart_time_at"):
                self.want(name)
        texts: list[str] = []
        while len(texts) < len(self.wanted):
            texts.append(Function(self, self.wanted[len(texts)]).text())
        return "\n".join(texts)


def emit(_spec: Spec) -> Files:
    """native_ir.py."""
    text = header(
        "Functions of arch and engine.jit.native as LLVM IR; <Class.attribute> is an offset.",
        imports="from typing import Final\n",
    ).replace("from specs/riscv", "from src/asyncvmm/engine/jit/native.py")
    body = Unit().text()
    marks = "# fmt: off\n"
    return {
        "src/asyncvmm/engine/jit/native_ir.py": f'{text}{marks}NATIVE_IR: Final = """\\\n{body}\n"""\n'
    }
