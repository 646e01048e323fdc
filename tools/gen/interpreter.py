"""Emits engine/interpreter_*.py: the loop, and per rare extension a function that the loop calls.

The loop holds the program counter as ``base`` (the virtual page) and ``i`` (the halfword in it, already
past the current instruction), so that running straight on costs one addition. Offsets of branches and
JAL count from the next instruction (engine.fetch turns them). Dispatch is a decision tree over
operation numbers, split where the ``hot`` weights balance.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.gen.does import FUNCTIONS
from tools.gen.emit import Files, header
from tools.gen.spec import Instruction, Spec

ENGINE = "src/asyncvmm/engine"
SOFTFLOAT = Path(__file__).resolve().parent.parent.parent / "src" / "asyncvmm" / "isa"

RS1 = "(w >> 15) & 31"
RS2 = "(w >> 20) & 31"
RD = "(w >> 9) & 63"
IMM = "(w >> 32)"
LENGTH = "((w >> 26) & 3)"
SIGN = "(i64(0x80000000) << 32)"
INLINE_SIGN_EXTENSION = {"sext8": 56, "sext16": 48, "sext32": 32}
INLINE_MASK = {"zext8": "0xFF", "zext16": "0xFFFF", "zext32": "0xFFFFFFFF"}
MEMORY = re.compile(r"(load|store)(8|16|32|64)$")
_BACK = ["i -= (w >> 26) & 3", "n -= 1", "break"]


class Expressions:
    """Turns expressions of ``does`` into text for compiled code, and notes the functions it used."""

    def __init__(self) -> None:
        self.functions: set[str] = set()

    def text(self, node: ast.expr) -> str:
        """The expression, in parentheses where it needs them."""
        match node:
            case ast.Constant(value=0x7FFFFFFFFFFFFFFF):
                return f"(~{SIGN})"
            case ast.Constant(value=int(value)):
                return str(value) if abs(value) < 4096 else f"{value:#x}"
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=0x8000000000000000)):
                return SIGN  # a literal of this size would be unboxed at each use
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int(value))):
                return f"-{value}" if value < 4096 else f"-{value:#x}"
            case ast.UnaryOp(op=op, operand=operand):
                sign = {ast.Invert: "~", ast.USub: "-", ast.Not: "not "}[type(op)]
                return f"({sign}{self.text(operand)})"
            case ast.BinOp(left=ast.Name("pc"), op=ast.Add(), right=ast.Name("imm")):
                return f"(base + (i << 1) + {IMM} - 4)"  # AUIPC: four bytes long
            case ast.BinOp(left=left, op=op, right=right):
                sign = {
                    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.BitAnd: "&", ast.BitOr: "|",
                    ast.BitXor: "^", ast.LShift: "<<", ast.RShift: ">>",
                }[type(op)]  # fmt: skip
                return f"({self.text(left)} {sign} {self.text(right)})"
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                sign = {
                    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">",
                    ast.GtE: ">=",
                }[type(op)]  # fmt: skip
                return f"({self.text(left)} {sign} {self.text(right)})"
            case ast.BoolOp(op=op, values=values):
                word = " and " if isinstance(op, ast.And) else " or "
                return "(" + word.join(self.text(value) for value in values) + ")"
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return f"({self.text(body)} if {self.text(test)} else {self.text(orelse)})"
            case ast.Subscript(value=ast.Name(file), slice=ast.Name(name)):
                place = {"rs1": RS1, "rs2": RS2, "rs3": "w >> 32"}[name]
                return f"{file}[{place}]"
            case ast.Name("npc"):
                return "(base + (i << 1))"
            case ast.Name("imm" | "shamt" | "csr"):
                return IMM
            case ast.Name("uimm"):
                return f"({RS1})"
            case ast.Name("rm"):
                return "rm"
            case ast.Name(name):
                return name if name.startswith("_") else f"l_{name}"
            case ast.Call(func=ast.Name(name), args=args):
                return self.call(name, args)
        raise TypeError(f"no text for {ast.dump(node)}")

    def call(self, name: str, args: Sequence[ast.expr]) -> str:
        """A function: inline where that is one or two operations."""
        if name == "int":
            return f"(1 if {self.text(args[0])} else 0)"
        texts = [self.text(arg) for arg in args]
        if name in INLINE_SIGN_EXTENSION:
            bits = INLINE_SIGN_EXTENSION[name]
            return f"(({texts[0]} << {bits}) >> {bits})"
        if name in INLINE_MASK:
            return f"({texts[0]} & {INLINE_MASK[name]})"
        if name == "ult":
            return f"(({texts[0]} ^ {SIGN}) < ({texts[1]} ^ {SIGN}))"
        if name == "shr":
            return f"(({texts[0]} >> {texts[1]}) & ~(-2 << (63 - {texts[1]})))"
        if name == "box32":
            return f"({texts[0]} | -0x100000000)"
        if name == "unbox32":
            boxed = f"({texts[0]} >> 32) == -1"
            return f"(({texts[0]} & 0xFFFFFFFF) if {boxed} else 0x7FC00000)"
        self.functions.add(name)
        if FUNCTIONS[name].kind == "float":
            if name.endswith("_class"):
                return f"{name}({', '.join(texts)})"
            return f"{name}(fp, {', '.join(texts)})"
        return f"{name}({', '.join(texts)})"


def _plain(text: str) -> str:
    """Without one pair of outer parentheses, where they enclose everything."""
    if text.startswith("(") and text.endswith(")"):
        depth = 0
        for at, character in enumerate(text):
            depth += (character == "(") - (character == ")")
            if depth == 0 and at < len(text) - 1:
                return text
        return text[1:-1]
    return text


class _Replace(ast.NodeTransformer):
    """Replaces the one load of an expression by the local ``_v``."""

    def __init__(self) -> None:
        self.name = ""
        self.address: ast.expr | None = None

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """Take out a memory load; go on inside other calls."""
        assert isinstance(node.func, ast.Name)
        if MEMORY.match(node.func.id):
            self.name, self.address = node.func.id, node.args[0]
            return ast.Name("_v")
        self.generic_visit(node)
        return node


class LoopBody:
    """The lines of one operation inside the loop."""

    def __init__(self, expressions: Expressions) -> None:
        self.expressions = expressions

    def lines(self, instruction: Instruction) -> list[str]:
        """Everything that the operation does; ``continue`` is understood at the end."""
        out: list[str] = []
        if instruction.uses_float:
            out += _float_guard(instruction.body.writes_f)
        for statement in instruction.body.statements:
            out += self.statement(statement)
        return out or ["pass"]

    def statement(self, node: ast.stmt) -> list[str]:
        """One statement of ``does``."""
        text = self.expressions.text
        match node:
            case ast.If(test=test, body=[ast.Assign(targets=[ast.Name("pc")])]):
                return [f"if {_plain(text(test))}:", *_indent(_branch())]
            case ast.Assign(targets=[ast.Name("pc")], value=ast.BinOp(left=ast.Name("pc"))):
                return _branch()
            case ast.Assign(targets=[ast.Name("pc")], value=value):
                return [f"pc = {_plain(text(value))}", *_JUMP]
            case ast.Assign(targets=[target], value=value):
                return self.assign(target, value)
            case ast.Expr(value=ast.Call(func=ast.Name(name), args=args)):
                if name in ("fence", "fence_i"):
                    return ["pass"]
                return self.store(name, args)
        raise TypeError(f"no text for {ast.dump(node)}")

    def assign(self, target: ast.expr, value: ast.expr) -> list[str]:
        """An assignment, with the load in it first."""
        match target:
            case ast.Subscript(value=ast.Name(file)):
                place = f"{file}[{RD}]"
            case ast.Name(name):
                place = f"l_{name}"
            case _:
                raise TypeError(ast.dump(target))
        match value:
            case ast.Call(func=ast.Name("int"), args=[condition]):
                # Not "1 if c else 0": mypyc makes that a tagged integer.
                test = _plain(self.expressions.text(condition))
                return [f"if {test}:", f"    {place} = 1", "else:", f"    {place} = 0"]
        replaced = _Replace()
        value = replaced.visit(copy.deepcopy(value))
        out: list[str] = []
        if replaced.address is not None:
            out = self.load(replaced.name, replaced.address)
        return [*out, f"{place} = {_plain(self.expressions.text(value))}"]

    def load(self, name: str, address: ast.expr) -> list[str]:
        """``_v`` becomes the zero-extended value at the address."""
        size = int(name[4:]) // 8
        word = "load_pages[_t][(_a & 4095) >> 3]"
        shift = {8: "", 4: "((_a & 4) << 3)", 2: "((_a & 6) << 3)", 1: "((_a & 7) << 3)"}[size]
        mask = {8: "", 4: "0xFFFFFFFF", 2: "0xFFFF", 1: "0xFF"}[size]
        value = word if size == 8 else f"({word} >> {shift}) & {mask}"
        return [
            f"_a = {_plain(self.expressions.text(address))}",
            "_t = (_a >> 12) & 1023",
            f"if load_tags[_t] == ((_a & {-4096 | (size - 1)}) | context):",
            f"    _v = {value}",
            "else:",
            "    hart.steps = start + n - 1",
            f"    _v = load(hart, _a, {size})",
            *_indent(_after_slow_path()),
        ]

    def store(self, name: str, args: Sequence[ast.expr]) -> list[str]:
        """Store: a read-modify-write of the word for less than eight bytes."""
        size = int(name[5:]) // 8
        address, value = args
        fast = [f"store_pages[_t][(_a & 4095) >> 3] = {_plain(self.expressions.text(value))}"]
        if size < 8:
            mask = {4: "0xFFFFFFFF", 2: "0xFFFF", 1: "0xFF"}[size]
            fast = [
                "page = store_pages[_t]",
                "_t = (_a & 4095) >> 3",
                f"_s = (_a & {8 - size}) << 3",
                f"_v = {self.expressions.text(value)} & {mask}",
                f"page[_t] = (page[_t] & ~({mask} << _s)) | (_v << _s)",
            ]
        return [
            f"_a = {_plain(self.expressions.text(address))}",
            "_t = (_a >> 12) & 1023",
            f"if store_tags[_t] == ((_a & {-4096 | (size - 1)}) | context):",
            *_indent(fast),
            "else:",
            "    hart.steps = start + n - 1",
            f"    store(hart, _a, {size}, {_plain(self.expressions.text(value))})",
            *_indent(_after_slow_path()),
        ]


_JUMP = ["base = pc & -4096", "i = (pc & 4095) >> 1", "break"]


def _branch() -> list[str]:
    """Jump by the immediate; leave the inner loop when that leads out of the page."""
    return [
        "i += w >> 33",
        "if (i & -2048) != 0:",
        "    base += (i >> 11) << 12",
        "    i &= 2047",
        "    break",
    ]


def _after_slow_path() -> list[str]:
    return [
        "if hart.event != 0:",
        "    if (hart.event & 1) != 0:",
        *_indent(_indent(_BACK)),
        "    limit = n",
    ]


def _float_guard(writes: bool) -> list[str]:
    """Illegal while FS is Off; Dirty from the first instruction on that writes."""
    condition = "fs != 3" if writes else "fs == 0"
    out = [f"if {condition}:", "    if fs == 0:", "        illegal(hart)", *_indent(_indent(_BACK))]
    if writes:
        out += ["    hart.mstatus |= FS", "    fs = 3"]
    return out


def _indent(lines: list[str]) -> list[str]:
    return ["    " + line for line in lines]


def tree(
    leaves: list[tuple[int, int, int, list[str]]], lines: Callable[[list[str]], list[str]]
) -> list[str]:
    """A decision tree over ``op`` for leaves (first op, last op, weight, lines) in ascending order."""
    if len(leaves) == 1:
        return lines(leaves[0][3])
    total = sum(leaf[2] for leaf in leaves)
    best, running, cut = total * 2, 0, 1
    for index in range(1, len(leaves)):
        running += leaves[index - 1][2]
        if abs(total - 2 * running) < best:
            best, cut = abs(total - 2 * running), index
    left, right = leaves[:cut], leaves[cut:]
    return [
        f"if op < {right[0][0]}:",
        *_indent(tree(left, lines)),
        "else:",
        *_indent(tree(right, lines)),
    ]


# Which extensions' operations are functions of their own, and what the loop does around the call.
_OUTLINED = {
    "a": "a", "f": "f", "d": "d", "zicsr": "system", "privileged": "system",
}  # fmt: skip


def _group(instruction: Instruction) -> str:
    """The module that holds the operation: "" is the loop itself."""
    if instruction.name in ("ecall", "ebreak"):
        return "system"
    if instruction.extension in ("f", "d") and instruction.body.calls_kind("memory"):
        return ""
    return _OUTLINED.get(instruction.extension, "")


def _call(group: str) -> list[str]:
    """What the loop does for an operation of another module."""
    if group == "system":
        return [
            "hart.steps = start + n - 1",
            "hart.pc = base + (i << 1)",
            "execute_system(hart, x, w)",
            "if (hart.event & 1) != 0:",
            *_indent(_BACK),
            "pc = hart.pc",
            *_JUMP,
        ]
    if group == "a":
        return [
            "hart.steps = start + n - 1",
            "execute_a(hart, x, w)",
            *_after_slow_path(),
        ]
    return [
        *_float_guard(True),
        f"execute_{group}(hart, x, f, w)",
        *_after_slow_path(),
    ]


def emit(spec: Spec) -> Files:
    """The loop and its helper modules."""
    files: Files = {}
    expressions = Expressions()
    body = LoopBody(expressions)
    leaves: list[tuple[int, int, int, list[str]]] = [
        (0, 0, 4, _UNDECODED),
        (1, 1, 1, ["illegal(hart)", *_BACK]),
    ]
    groups: dict[str, list[Instruction]] = {}
    for instruction in spec.operations:
        group = _group(instruction)
        op, weight = instruction.op, max(1, instruction.hot)
        if group == "":
            leaves.append((op, op, weight, body.lines(instruction)))
            continue
        groups.setdefault(group, []).append(instruction)
        lines = _call(group)
        if leaves[-1][3] == lines:
            first, _, before, _ = leaves.pop()
            leaves.append((first, op, before + weight, lines))
        else:
            leaves.append((op, op, weight, lines))
    leaves.append((510, 510, 1, ["n -= 1", "break"]))
    leaves.append((511, 511, 2, ["n -= 1", "base += 4096", "i -= 2048", "break"]))
    used = sorted(name for name in expressions.functions)
    files[f"{ENGINE}/interpreter_loop.py"] = _loop(leaves, used)
    for group, instructions in groups.items():
        files[f"{ENGINE}/interpreter_{group}.py"] = _outlined(group, instructions)
    return files


_UNDECODED = [
    "n -= 1",
    "pc = base + (i << 1)",
    "hart.steps = start + n",
    "code = decode_slot(hart, code, pc)",
    "if hart.event != 0:",
    "    if (hart.event & 5) != 0:",  # a trap, or a debugger's halt
    "        break",
    "    limit = n + 1",
]

_LOOP_DOC = """The interpreter's loop: one hart, instruction by instruction, for an exact budget.

``n`` counts steps (instructions retired and traps taken) of this run, ``limit`` is where to look up:
slow paths lower it to ``n`` when interrupts, privilege, translation or the slice's end may have changed.
"""


def _import(module: str, names: list[str]) -> list[str]:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= 100:
        return [line]
    return [f"from {module} import (", *(f"    {name}," for name in names), ")"]


def _loop(leaves: list[tuple[int, int, int, list[str]]], used: list[str]) -> str:
    imports = [
        "from librt.vecs import vec",
        "from mypy_extensions import i64",
        "",
        *_import("asyncvmm.arch.access", ["load", "store"]),
        *_import(
            "asyncvmm.arch.hart",
            ["EVENT_CHECK", "EVENT_TRAP", "EXIT_BUDGET", "EXIT_STOP", "EXIT_WFI", "Hart"],
        ),
        *_import("asyncvmm.arch.status", ["FS", "FS_SHIFT", "ILLEGAL"]),
        *_import("asyncvmm.arch.trap", ["illegal", "take_exception", "take_interrupt"]),
        *_import("asyncvmm.engine.fetch", ["decode_slot", "fetch_page", "instruction_bits"]),
        *_import("asyncvmm.engine.interpreter_a", ["execute_a"]),
        *_import("asyncvmm.engine.interpreter_d", ["execute_d"]),
        *_import("asyncvmm.engine.interpreter_f", ["execute_f"]),
        *_import("asyncvmm.engine.interpreter_system", ["execute_system"]),
        *_import("asyncvmm.isa.arith", used),
        "",
        "",
    ]
    dispatch = tree(leaves, lambda lines: lines)
    text = header(_LOOP_DOC, imports="\n".join(imports))
    return text + _LOOP_TOP + "\n".join(_indent(_indent(_indent(dispatch)))) + "\n"


_LOOP_TOP = '''
def run(hart: Hart, budget: i64) -> i64:
    """Run ``hart`` for ``budget`` steps, or fewer when it waits or stops; an EXIT_* code."""
    hart.steps_end = hart.steps + budget
    return run_within(hart, budget)


def run_within(hart: Hart, most: i64) -> i64:
    """Run up to ``most`` steps of the slice that ends at ``hart.steps_end``; an EXIT_* code."""
    x = hart.x
    f = hart.f
    tlb = hart.tlb
    load_tags = tlb.load_tags
    load_pages = tlb.load_pages
    store_tags = tlb.store_tags
    store_pages = tlb.store_pages
    fetch_tags = tlb.fetch_tags
    fetch_pages = tlb.fetch_pages
    start = hart.steps
    hart.event |= EVENT_CHECK
    code: vec[i64] = hart.cross_page
    page: vec[i64] = code
    context: i64 = 0
    fetch_context: i64 = 0
    fs: i64 = 0
    n: i64 = 0
    limit: i64 = 0
    w: i64 = 0
    op: i64 = 0
    _a: i64 = 0
    _t: i64 = 0
    _v: i64 = 0
    _s: i64 = 0
    l_t: i64 = 0
    pc: i64 = hart.pc
    base: i64 = pc & -4096
    i: i64 = (pc & 4095) >> 1
    while True:
        if hart.event != 0:
            pc = base + (i << 1)
            hart.steps = start + n
            if (hart.event & EVENT_TRAP) != 0:
                if hart.trap_cause == ILLEGAL:
                    hart.event = 0
                    hart.trap_value = instruction_bits(hart, pc)
                take_exception(hart, pc)
                n += 1
                pc = hart.pc
                hart.steps = start + n
            hart.event = 0
            hart.pc = pc
            limit = hart.steps_end - start
            if limit > most:
                limit = most
            if hart.stop:
                return EXIT_STOP
            if n >= limit:
                return EXIT_BUDGET
            if hart.waiting:
                if hart.pending_interrupts() == 0:
                    return EXIT_WFI
                hart.waiting = False
            if take_interrupt(hart, pc):
                n += 1
                pc = hart.pc
                hart.event = 0
            context = tlb.context
            fetch_context = tlb.fetch_context
            fs = (hart.mstatus & FS) >> FS_SHIFT
            base = pc & -4096
            i = (pc & 4095) >> 1
        if n >= limit:
            hart.pc = base + (i << 1)
            hart.steps = start + n
            return EXIT_BUDGET
        _t = (base >> 12) & 255
        if fetch_tags[_t] == (base | fetch_context):
            code = fetch_pages[_t]
        else:
            hart.steps = start + n
            code = fetch_page(hart, base + (i << 1))
            if hart.event != 0:
                if (hart.event & EVENT_TRAP) != 0:
                    continue
                limit = n + 1
        while n < limit:
            w = code[i]
            op = w & 511
            i += (w >> 26) & 3
            n += 1
'''


def _outlined(group: str, instructions: list[Instruction]) -> str:
    expressions = Expressions()
    emitters = {"a": _atomic_lines, "system": _system_lines}
    emitter = emitters.get(group, _float_lines)
    leaves = [(ins.op, ins.op, max(1, ins.hot), emitter(ins, expressions)) for ins in instructions]
    dispatch = tree(leaves, lambda lines: lines)
    sources = sorted({ins.extension for ins in instructions})
    imports = ["from librt.vecs import vec", "from mypy_extensions import i64", ""]
    if group == "a":
        imports += _import(
            "asyncvmm.arch.access",
            ["amo_load", "amo_store", "load_reserved", "store_conditional"],
        )
        imports += _import("asyncvmm.arch.hart", ["EVENT_TRAP", "Hart"])
        signature = "def execute_a(hart: Hart, x: vec[i64], w: i64) -> None:"
        meaning = "One atomic operation; a trap may be noted, and then no register has changed."
        top = ["op = w & 511", f"address = x[{RS1}]", "l_t: i64 = 0"]
    elif group == "system":
        imports += _import("asyncvmm.arch.csr", ["CLEAR", "SET", "SWAP", "access"])
        imports += _import("asyncvmm.arch.hart", ["EVENT_TRAP", "SUPERVISOR", "Hart"])
        imports += _import("asyncvmm.arch.mmu", ["fault"])
        imports += _import("asyncvmm.arch.status", ["BREAKPOINT", "ECALL_USER"])
        imports += _import("asyncvmm.arch.trap", ["fence_vma", "mret", "sret", "wfi"])
        signature = "def execute_system(hart: Hart, x: vec[i64], w: i64) -> None:"
        meaning = "One system operation; hart.pc is the next instruction's address and may change."
        top = ["op = w & 511", "value: i64 = 0"]
    else:
        modules: dict[str, list[str]] = {}
        for name in sorted(expressions.functions):
            modules.setdefault(_softfloat_module(name), []).append(name)
        imports += _import("asyncvmm.arch.hart", ["Hart"])
        imports += _import("asyncvmm.arch.trap", ["illegal"])
        for module in sorted(modules):
            imports += _import(f"asyncvmm.isa.{module}", modules[module])
        signature = f"def execute_{group}(hart: Hart, x: vec[i64], f: vec[i64], w: i64) -> None:"
        meaning = "One floating-point operation; illegal when its rounding mode is reserved."
        top = [
            "op = w & 511",
            "fp = hart.fp",
            "rm = (w >> 28) & 7",
            "if rm == 7:",
            "    rm = fp.frm",
            "    if rm > 4:",
            "        illegal(hart)",
            "        return",
        ]
    locals_used = sorted(
        {f"l_{name}" for ins in instructions for name in ins.body.locals} - {"l_t"}
        | ({"l_t"} if group in ("f", "d") and _has_local(instructions, "t") else set())
    )
    top += [f"{name}: i64 = 0" for name in locals_used]
    doc = f"Operations of {', '.join(sources)} that the interpreter's loop calls."
    text = header(doc, *sources, imports="\n".join([*imports, "", ""]))
    lines = [signature, f'    """{meaning}"""', *_indent(top), *_indent(dispatch)]
    return text + "\n".join(lines) + "\n"


def _has_local(instructions: list[Instruction], name: str) -> bool:
    return any(name in ins.body.locals for ins in instructions)


def _softfloat_module(function: str) -> str:
    """The module that defines a floating-point function: compiled calls bind early to it."""
    for path in sorted(SOFTFLOAT.glob("softfloat_*.py")):
        if re.search(rf"^def {function}\(", path.read_text(), re.MULTILINE):
            return path.stem
    raise ValueError(f"no softfloat module defines {function}")


def _float_lines(instruction: Instruction, expressions: Expressions) -> list[str]:
    out = []
    for node in instruction.body.statements:
        match node:
            case ast.Assign(targets=[ast.Subscript(value=ast.Name(file))], value=value):
                out.append(f"{file}[{RD}] = {_plain(expressions.text(value))}")
            case ast.Assign(targets=[ast.Name(name)], value=value):
                out.append(f"l_{name} = {_plain(expressions.text(value))}")
            case _:
                raise TypeError(ast.dump(node))
    return out


_SIZES = {"32": 4, "64": 8}


def _atomic_lines(instruction: Instruction, expressions: Expressions) -> list[str]:
    """LR, SC and AMOs: the address is ``x[rs1]`` in all of them."""
    out: list[str] = []
    trapped = ["if (hart.event & EVENT_TRAP) != 0:", "    return"]
    for node in instruction.body.statements:
        match node:
            case ast.Assign(targets=[target], value=value):
                call = value
                wrap = "{}"
                if isinstance(value, ast.Call) and value.func.id == "sext32":  # type: ignore[attr-defined]
                    call, wrap = value.args[0], "(({} << 32) >> 32)"
                if not isinstance(call, ast.Call):
                    out.append(f"x[{RD}] = {_plain(expressions.text(call))}")
                    continue
                name, size = call.func.id[:-2], _SIZES[call.func.id[-2:]]  # type: ignore[attr-defined]
                if name == "sc":
                    stored = _plain(expressions.text(call.args[1]))
                    got = f"store_conditional(hart, address, {size}, {stored})"
                elif name == "lr":
                    got = f"load_reserved(hart, address, {size})"
                else:
                    got = f"amo_load(hart, address, {size})"
                out += [f"l_t = {_plain(wrap.format(got))}", *trapped]
                if isinstance(target, ast.Subscript):
                    out.append(f"x[{RD}] = l_t")
            case ast.Expr(value=ast.Call(func=ast.Name(name), args=[_, value])):
                size = _SIZES[name[-2:]]
                stored = _plain(expressions.text(value))
                out.append(f"amo_store(hart, address, {size}, {stored})")
            case _:
                raise TypeError(ast.dump(node))
    return out


def _system_lines(instruction: Instruction, expressions: Expressions) -> list[str]:
    node = instruction.body.statements[0]
    match node:
        case ast.Assign(value=ast.Call(func=ast.Name(name), args=[_, value])):
            how = name.removeprefix("csr_").upper()
            flags = f"({RD}) != 32, {'True' if how == 'SWAP' else f'({RS1}) != 0'}"
            operand = _plain(expressions.text(value))
            return [
                f"value = access(hart, {IMM}, {how}, {operand}, {flags})",
                "if (hart.event & EVENT_TRAP) == 0:",
                f"    x[{RD}] = value",
            ]
        case ast.Expr(value=ast.Call(func=ast.Name("ecall"))):
            return [
                "if hart.priv != SUPERVISOR or not hart.environment.ecall(hart):",
                "    fault(hart, ECALL_USER + hart.priv, 0)",
            ]
        case ast.Expr(value=ast.Call(func=ast.Name("ebreak"))):
            return ["fault(hart, BREAKPOINT, hart.pc - ((w >> 25) & 7))"]
        case ast.Expr(value=ast.Call(func=ast.Name("sfence_vma"), args=[address, asid])):
            first, second = _plain(expressions.text(address)), _plain(expressions.text(asid))
            return [f"fence_vma(hart, {first}, {second}, ({RS1}) != 0, ({RS2}) != 0)"]
        case ast.Expr(value=ast.Call(func=ast.Name(name))):
            return [f"{name}(hart)"]
    raise TypeError(ast.dump(node))
