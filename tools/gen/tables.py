"""Emits isa/table_*.py: the encodings as data, and the names of the CSRs."""

from __future__ import annotations

import ast
import re

from tools.gen.emit import ISA, Files, header, number
from tools.gen.encoding import REGISTERS, Field
from tools.gen.spec import EXTENSIONS, Instruction, Spec

_PLAIN = {"rd": 7, "rs1": 15, "rs2": 20, "rs3": 27, "rm": 12, "aq": 26, "rl": 25, "csr": 20}


def emit(spec: Spec) -> Files:
    """tables.py, table_operands.py, table_csrs.py and one table_<extension>.py per extension."""
    names = _operand_names(spec)
    files = {
        f"{ISA}/table_operands.py": _operands(names),
        f"{ISA}/table_csrs.py": _csrs(spec),
        f"{ISA}/tables.py": _all(),
    }
    for extension in EXTENSIONS:
        files[f"{ISA}/table_{extension}.py"] = _table(spec, extension, names)
    return files


def role(instruction: Instruction) -> str:
    """What kind of instruction it is, for who generates programs."""
    body = instruction.body
    if body.jumps:
        return "branch" if isinstance(body.statements[0], ast.If) else "jump"
    if body.calls_kind("atomic"):
        return "atomic"
    if body.calls_kind("memory"):
        return "load" if any(call.startswith("load") for call in body.calls) else "store"
    if body.calls_kind("csr"):
        return "csr"
    if body.calls_kind("system"):
        return "fence" if body.calls & {"fence", "fence_i"} else "system"
    return "float" if instruction.uses_float or body.calls_kind("float") else "alu"


def access_size(instruction: Instruction) -> int:
    """Bytes of the memory access, or 0."""
    for call in instruction.body.calls:
        if found := re.fullmatch(r"(?:load|store|lr|sc|amo_load|amo_store)(\d+)", call):
            return int(found[1]) // 8
    return 0


def _row(field: Field, instruction: Instruction) -> str:
    """The Operand(...) of a field, without its constant's name."""
    kind = field.name
    if field.name in REGISTERS:
        kind = "f" if field.name in instruction.float_operands else "x"
    pieces = ", ".join(f"({p.word_low}, {p.width}, {p.value_low})" for p in field.pieces)
    text = f'Operand("{field.name}", "{kind}", ({pieces},)'
    if field.signed or field.bias:
        text += f", {field.signed}"
    return text + (f", {field.bias})" if field.bias else ")")


def _operand_names(spec: Spec) -> dict[str, str]:
    """The constant's name of each distinct operand."""
    names: dict[str, str] = {}
    for instruction in spec.instructions:
        for field in instruction.fields:
            row = _row(field, instruction)
            if row in names:
                continue
            name = field.name.upper()
            if field.name in instruction.float_operands and field.name in REGISTERS:
                name = "F" + name[1:]
            if field.bias or (_PLAIN.get(field.name, -1) != field.pieces[0].word_low):
                name += f"_{instruction.format.upper()}"
            assert name not in names.values(), name
            names[row] = name
    return names


def _operands(names: dict[str, str]) -> str:
    text = header(
        "The operands that encodings are made of, each with its place in the word.",
        imports="from typing import Final\n\nfrom asyncvmm.isa.encoding import Operand\n",
    )
    for row, name in names.items():
        line = f"{name}: Final = {row}"
        if len(line) > 100:
            start, pieces, end = re.split(r"(\(\(.*?\),\))", row)
            inner = "".join(f"        {piece},\n" for piece in re.findall(r"\(\d[^()]*\)", pieces))
            line = f"{name}: Final = {start.rstrip()}\n    (\n{inner}    )"
            line = line.replace("Operand(", "Operand(\n    ", 1) + f"{end.removesuffix(')')},\n)"
        text += line + "\n"
    return text


def _table(spec: Spec, extension: str, names: dict[str, str]) -> str:
    rows = []
    used: set[str] = set()
    for instruction in spec.of(extension):
        operands = [names[_row(field, instruction)] for field in instruction.fields]
        used.update(operands)
        listed = ", ".join(operands) + ("," if len(operands) == 1 else "")
        rows += [
            "    Encoding(",
            f'        "{instruction.name}", "{extension}", {instruction.length}, '
            f"{number(instruction.mask)}, {number(instruction.match)},",
            f"        ({listed}),",
            f'        "{instruction.assembly}",',
        ]
        tail = f'"{role(instruction)}", {access_size(instruction)}'
        if instruction.expands is not None:
            given = ", ".join(
                f'("{name}", {number(value) if isinstance(value, int) else repr(value)})'.replace(
                    "'", '"'
                )
                for name, value in instruction.expands.operands
            )
            comma = "," if given else ""
            rows.append(f'        {tail}, "{instruction.expands.name}",')
            rows.append(f"        ({given}{comma}),")
            if instruction.reserved is not None:
                name, value = instruction.reserved.split(" == ")
                rows.append(f'        ("{name}", {value}),')
        else:
            rows.append(f"        {tail},")
        rows.append("    ),")
    text = header(
        f"Encodings: {spec.titles[extension]}.",
        extension,
        imports="from typing import Final\n\n"
        "from asyncvmm.isa.encoding import Encoding\n" + imported("table_operands", used),
    )
    return text + "# fmt: off\nTABLE: Final = (\n" + "\n".join(rows) + "\n)\n"


def imported(module: str, names: set[str]) -> str:
    """An import of names of the isa floor, one a line, or nothing."""
    if not names:
        return ""
    line = f"from asyncvmm.isa.{module} import {', '.join(sorted(names, key=str.lower))}"
    if len(line) <= 100:
        return line + "\n"
    lines = "".join(f"    {name},\n" for name in sorted(names, key=str.lower))
    return f"from asyncvmm.isa.{module} import (\n{lines})\n"


def _csrs(spec: Spec) -> str:
    text = header(
        "Control and status registers by name, for the assembler and disassembler.",
        "csrs",
        imports="from typing import Final\n",
    )
    text += "CSR_NUMBERS: Final[dict[str, int]] = {\n"
    for csr in spec.csrs:
        text += f'    "{csr.name}": 0x{csr.number:03X},\n'
    return text + "}\n"


def _all() -> str:
    imports = "from typing import Final\n\n"
    lines = ["from asyncvmm.isa.encoding import Encoding\n"]
    lines += [f"from asyncvmm.isa.table_{e} import TABLE as {e.upper()}\n" for e in EXTENSIONS]
    text = header(
        "All encodings, in the order of the specification.",
        imports=imports + "".join(sorted(lines)),
    )
    text += "ENCODINGS: Final[tuple[Encoding, ...]] = (\n"
    text += "".join(f"    *{extension.upper()},\n" for extension in EXTENSIONS)
    text += ')\n"""Every encoding."""\n\n'
    text += "BY_NAME: Final = {encoding.name: encoding for encoding in ENCODINGS}\n"
    return text + '"""Every encoding by name."""\n'
