"""Emits isa/decode*.py: fetched bits to decoded words, laid out as isa/opcodes.py says."""

from __future__ import annotations

from itertools import groupby

from tools.gen.emit import ISA, Files, alternatives, assign_field, header, number, place_field
from tools.gen.encoding import Field
from tools.gen.spec import EXTENSIONS, Instruction, Spec

PLACES = {
    "rd": 9, "rs1": 15, "uimm": 15, "rs2": 20, "rm": 28, "imm": 32, "shamt": 32, "csr": 32,
    "rs3": 32,
}  # fmt: skip
"""The lowest bit of each operand in the decoded word."""

LENGTH_PLACE = 25


def emit(spec: Spec) -> Files:
    """decode.py, decode_formats.py and one decode_<extension>.py per extension."""
    files = {f"{ISA}/decode_formats.py": _formats(spec), f"{ISA}/decode.py": _dispatch(spec)}
    for extension in EXTENSIONS:
        one = _compressed if extension == "c" else _extension
        files[f"{ISA}/decode_{extension}.py"] = one(spec, extension)
    return files


def packed_operands(instruction: Instruction) -> tuple[Field, ...]:
    """The operands of a 32-bit instruction that the decoded word keeps."""
    return tuple(
        f for f in instruction.fields if f.name == "rm" or f.name not in instruction.ignores
    )


def packer(instruction: Instruction) -> str:
    """The name of the function of decode_formats that packs this instruction's operands."""
    if not packed_operands(instruction):
        return "pack_none"
    name = f"pack_{instruction.format.lower()}"
    if "rd" in instruction.operands and not instruction.body.writes_x:
        name += "_float"
    return name


def _formats(spec: Spec) -> str:
    wanted: dict[str, Instruction] = {}
    for instruction in spec.operations:
        wanted.setdefault(packer(instruction), instruction)
    text = header(
        "Operands of 32-bit instructions, packed: one function per format.",
        "formats",
        imports="from typing import Final\n\nfrom mypy_extensions import i64\n",
    )
    text += "LENGTH_4: Final = 4 << 25\n"
    text += (
        "\n\ndef has_reserved_rm(w: i64) -> bool:\n"
        '    """Whether the rm field is 5 or 6, which are reserved (Volume I, 20.2)."""\n'
        "    return w & 0x7000 == 0x5000 or w & 0x7000 == 0x6000\n"
    )
    for name, instruction in sorted(wanted.items()):
        lines = ["", "", f"def {name}(w: i64) -> i64:"]
        lines.append(f'    """Operands of format {instruction.format}."""')
        terms = ["LENGTH_4"]
        for field in packed_operands(instruction):
            place = PLACES[field.name]
            if field.name == "rd" and instruction.body.writes_x:
                lines += [*assign_field("rd", field, "    "), "    if rd == 0:", "        rd = 32"]
                terms.append(f"rd << {place}")
            elif field.signed or len(field.pieces) > 1:
                lines += assign_field(field.name, field, "    ")
                terms.append(f"{field.name} << {place}")
            else:
                terms.append(place_field(field, place))
        text += "\n".join(lines + alternatives(terms, "    ")) + "\n"
    return text


def _extension(spec: Spec, extension: str) -> str:
    instructions = spec.of(extension)
    body: list[str] = []
    for opcode, group in groupby(sorted(instructions, key=_opcode), key=_opcode):
        body.append(f"    if opcode == {number(opcode)}:")
        for instruction in _specific_first(list(group)):
            body += _choice(instruction, spec, "        ")
        body.append("        return 0")
    packers = sorted({packer(spec.by_name[_base(i)]) for i in instructions})
    if any(i.has_rm for i in instructions):
        packers.insert(0, "has_reserved_rm")
    ops = sorted({f"OP_{spec.by_name[_base(i)].identifier}" for i in instructions})
    text = header(
        f"Decoder: {spec.titles[extension]}.",
        extension,
        imports="from mypy_extensions import i64\n\n"
        + _import("asyncvmm.isa.decode_formats", packers)
        + _import("asyncvmm.isa.opcodes", ops),
    )
    text += f"\ndef decode_{extension}(w: i64) -> i64:\n"
    text += '    """The decoded word of these 32 bits, or 0: not of this extension."""\n'
    return text + "    opcode = w & 0x7F\n" + "\n".join(body) + "\n    return 0\n"


def _opcode(instruction: Instruction) -> int:
    return instruction.match & 0x7F


def _row(instruction: Instruction) -> tuple[int, int]:
    """Quadrant and funct3 of a compressed instruction."""
    return instruction.match & 3, instruction.match >> 13


def _base(instruction: Instruction) -> str:
    return instruction.expands.name if instruction.expands else instruction.name


def _choice(instruction: Instruction, spec: Spec, indent: str) -> list[str]:
    """Lines that return the decoded word if this is the instruction."""
    base = spec.by_name[_base(instruction)]
    lines = [f"{indent}if w & {number(instruction.mask)} == {number(instruction.match)}:"]
    if instruction.has_rm:
        lines += [f"{indent}    if has_reserved_rm(w):", f"{indent}        return 0"]
    lines.append(f"{indent}    return {packer(base)}(w) | OP_{base.identifier}")
    return lines


def _specific_first(instructions: list[Instruction]) -> list[Instruction]:
    """In file order, but special cases before what they are special cases of."""
    return sorted(instructions, key=lambda i: -_depth(i, instructions))


def _depth(instruction: Instruction, among: list[Instruction]) -> int:
    by_name = {i.name: i for i in among}
    depth = 0
    while instruction.special_case_of in by_name:
        instruction = by_name[instruction.special_case_of]
        depth += 1
    return depth


def _compressed(spec: Spec, extension: str) -> str:
    instructions = spec.of(extension)
    body: list[str] = []
    for (quadrant, funct3), group in groupby(sorted(instructions, key=_row), key=_row):
        body.append(f"    if w & 0xE003 == {number(funct3 << 13 | quadrant)}:")
        for instruction in _specific_first(list(group)):
            assert instruction.expands is not None
            if instruction.mask == 0xE003:
                indent = "        "
            else:
                indent = "            "
                body.append(
                    f"        if w & {number(instruction.mask)} == {number(instruction.match)}:"
                )
            body += _expanded(instruction, spec, indent)
        if instruction.mask != 0xE003:
            body.append("        return 0")
    ops = sorted({f"OP_{spec.by_name[_base(i)].identifier}" for i in instructions})
    text = header(
        f"Decoder: {spec.titles[extension]}.",
        extension,
        imports="from typing import Final\n\nfrom mypy_extensions import i64\n\n"
        + _import("asyncvmm.isa.opcodes", ops),
    )
    text += "LENGTH_2: Final = 2 << 25\n\n"
    text += f"\ndef decode_{extension}(w: i64) -> i64:\n"
    text += '    """The decoded expansion of these 16 bits, or 0 when they are reserved."""\n'
    return text + "\n".join(body) + "\n    return 0\n"


def _expanded(instruction: Instruction, spec: Spec, indent: str) -> list[str]:
    """Lines that return the decoded expansion of a compressed instruction."""
    assert instruction.expands is not None
    base = spec.by_name[instruction.expands.name]
    here = instruction.field
    lines: list[str] = []
    if instruction.reserved is not None:
        name, zero = instruction.reserved.split(" == ")
        field = here[name]
        assert int(zero) == 0 and not field.bias
        lines += [f"{indent}if w & {number(field.mask)} == 0:", f"{indent}    return 0"]
    terms = [f"OP_{base.identifier}", "LENGTH_2"]
    constant = 0
    for operand, value in instruction.expands.operands:
        place = PLACES[operand]
        sink = operand == "rd" and base.body.writes_x
        if isinstance(value, int):
            constant |= (32 if sink and value == 0 else value) << place
            continue
        field = here[value]
        if sink and not field.bias and instruction.reserved != "rd == 0":
            lines += [
                *assign_field("rd", field, indent),
                f"{indent}if rd == 0:",
                f"{indent}    rd = 32",
            ]
            terms.append(f"rd << {place}")
        elif field.signed or len(field.pieces) > 1:
            lines += assign_field(value, field, indent)
            terms.append(f"{value} << {place}")
        else:
            terms.append(place_field(field, place))
    if constant:
        terms.append(number(constant))
    return lines + alternatives(terms, indent)


def _import(module: str, names: list[str]) -> str:
    return (
        f"from {module} import (\n"
        + "".join(f"    {name},\n" for name in sorted(names, key=str.lower))
        + ")\n"
    )


def _dispatch(spec: Spec) -> str:
    """decode.py: to the extensions that share the major opcode."""
    users: dict[int, dict[str, int]] = {}
    for instruction in spec.instructions:
        if instruction.length == 4:
            weights = users.setdefault(instruction.match & 0x7F, {})
            weights[instruction.extension] = weights.get(instruction.extension, 0) + instruction.hot
    ordered = sorted(users, key=lambda opcode: (-sum(users[opcode].values()), opcode))
    imports = "from mypy_extensions import i64\n\n"
    for extension in sorted(EXTENSIONS):
        imports += f"from asyncvmm.isa.decode_{extension} import decode_{extension}\n"
    imports += "from asyncvmm.isa.opcodes import OP_ILLEGAL\n"
    text = header("Decoder: 32 fetched bits to one decoded word, by major opcode.", imports=imports)
    text += '''
def decode(w: i64) -> i64:
    """The decoded word of 32 fetched bits (zero-extended); a compressed one uses 16.

    What is reserved or unknown decodes to OP_ILLEGAL with the instruction's bits as its immediate.
    """
    if w & 3 != 3:
        found = decode_c(w & 0xFFFF)
        if found == 0:
            found = OP_ILLEGAL | (2 << 25) | ((w & 0xFFFF) << 32)
        return found
    found = decode_wide(w, w & 0x7F)
    if found == 0:
        found = OP_ILLEGAL | (4 << 25) | (((w ^ 0x80000000) - 0x80000000) << 32)
    return found


def decode_wide(w: i64, opcode: i64) -> i64:
    """The decoded word of a 32-bit instruction, or 0 when it is illegal."""
'''
    for opcode in ordered:
        calls = " or ".join(f"decode_{extension}(w)" for extension in users[opcode])
        text += f"    if opcode == {number(opcode)}:\n        return {calls}\n"
    return text + "    return 0\n"
