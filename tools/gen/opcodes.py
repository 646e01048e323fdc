"""Emits isa/opcodes.py: the operation numbers and names."""

from __future__ import annotations

from tools.gen.emit import ISA, Files, header
from tools.gen.spec import FIRST_OP, Spec

_DOC = """The operations of decoded words, numbered in the order of the specification.

A decoded word is an i64: bits 0-8 operation, 9-14 rd (x0 is SINK), 15-19 rs1 or uimm, 20-24 rs2,
25-27 length in bytes, 28-30 rm (7 = DYN), 31 zero, 32-63 a signed immediate: imm, shamt, csr, rs3,
or the raw bits of an illegal instruction. An operand that an operation lacks is 0.
"""


def emit(spec: Spec) -> Files:
    """One module of Final constants and the tuple NAMES."""
    lines = [
        "SINK: Final = 32",
        '"""The register that integer results for x0 go to."""',
        "",
        "OP_UNDECODED: Final = 0",
        "OP_ILLEGAL: Final = 1",
    ]
    for instruction in spec.operations:
        lines.append(f"OP_{instruction.identifier}: Final = {instruction.op}")
    count = FIRST_OP + len(spec.operations)
    if count > 1 << 9:
        raise ValueError("operation numbers no longer fit nine bits")
    lines += ["", f"OPERATIONS: Final = {count}", '"""How many operation numbers there are."""', ""]
    lines += ["NAMES: Final[tuple[str, ...]] = (", '    "undecoded",', '    "illegal",']
    lines += [f'    "{instruction.name}",' for instruction in spec.operations]
    lines += [")", '"""The operations\' names by number."""', ""]
    top = header(_DOC, imports="from typing import Final\n")
    return {f"{ISA}/opcodes.py": top + "\n".join(lines)}
