"""Emits arch/csr_numbers.py and arch/cause_numbers.py."""

from __future__ import annotations

import textwrap

from tools.gen.csrs import Csr
from tools.gen.emit import Files, header
from tools.gen.spec import Spec

_FINAL = "from typing import Final\n"

_CSR_DOC = """Control and status registers: numbers, fields, reset values and write masks.

CSR_X is a register's number; X_FIELD a field's mask and X_FIELD_SHIFT the lowest bit of a wider
one; M_X_WRITE the bits that software can change; M_X_VIEW the bits that an alias shows; X_RESET
what is not zero after reset. Values with bit 63 are negative: they are i64. Of numbered registers
there are the first and the last, and how many are more than zero (X_IMPLEMENTED).
"""


def signed(value: int) -> str:
    """A 64-bit pattern as the literal of an i64."""
    text = f"{value - (1 << 64) if value >> 63 else value:#x}"
    return text.upper().replace("X", "x") if abs(int(text, 16)) > 9 else str(int(text, 16))


def _hex(number: int) -> str:
    return f"0x{number:03X}"


def emit(spec: Spec) -> Files:
    """Two modules of Final constants."""
    doc = "\n".join(_wrap(line) for line in _CSR_DOC.split("\n\n")[1:])
    lines: list[str] = []
    families: dict[str, list[Csr]] = {}
    for csr in spec.csrs:
        families.setdefault(csr.family, []).append(csr)
    for family, members in families.items():
        lines += _family(family.upper(), members)
    top = header(_CSR_DOC.split("\n")[0] + "\n\n" + doc + "\n", "csrs", imports=_FINAL)
    causes = ["INTERRUPT_BIT: Final = -0x8000000000000000"]
    for cause in spec.causes:
        kind = "INTERRUPT" if cause.interrupt else "CAUSE"
        causes.append(f"{kind}_{cause.name.upper()}: Final = {cause.code}")
    for title, interrupt in (("EXCEPTION_NAMES", False), ("INTERRUPT_NAMES", True)):
        causes += ["", f"{title}: Final[dict[int, str]] = {{"]
        for cause in spec.causes:
            if cause.interrupt == interrupt:
                causes.append(f'    {cause.code}: "{cause.name.replace("_", " ")}",')
        causes.append("}")
    cause_top = header("Exception and interrupt codes of mcause.", "causes", imports=_FINAL)
    return {
        "src/asyncvmm/arch/csr_numbers.py": top + "\n".join(lines),
        "src/asyncvmm/arch/cause_numbers.py": cause_top + "\n".join(causes),
    }


def _wrap(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 98)


def _family(name: str, members: list[Csr]) -> list[str]:
    first, last = members[0], members[-1]
    if len(members) == 1:
        lines = [f"CSR_{name}: Final = {_hex(first.number)}"]
    else:
        lines = [f"CSR_{csr.name.upper()}: Final = {_hex(csr.number)}" for csr in (first, last)]
        if real := sum(csr.kind == "storage" for csr in members):
            lines.append(f"{name}_IMPLEMENTED: Final = {real}")
    for field in first.fields:
        lines.append(f"{name}_{field.name}: Final = {signed(field.mask)}")
        if field.width > 1:
            lines.append(f"{name}_{field.name}_SHIFT: Final = {field.low}")
    if first.kind in ("storage", "alias") and not first.read_only:
        lines.append(f"M_{name}_WRITE: Final = {signed(first.write)}")
    if first.kind == "alias" and first.fields:
        lines.append(f"M_{name}_VIEW: Final = {signed(first.view)}")
    if first.reset:
        lines.append(f"{name}_RESET: Final = {signed(first.reset)}")
    return lines
