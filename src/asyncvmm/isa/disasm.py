"""Disassembler: one instruction as text, spelled like ``objdump -M no-aliases``."""

from __future__ import annotations

from string import Formatter
from typing import Final

from asyncvmm.isa.encoding import Encoding, Operand
from asyncvmm.isa.reference import find_encoding
from asyncvmm.isa.registers import F_NAMES, FENCE_LETTERS, ROUNDING_MODES, X_NAMES
from asyncvmm.isa.table_csrs import CSR_NUMBERS

CSR_NAMES: Final = {number: name for name, number in CSR_NUMBERS.items()}
DYN: Final = 7
_MASK: Final = 0xFFFFFFFFFFFFFFFF


def disassemble(word: int, pc: int = 0) -> str:
    """The instruction in the fetched bits ``word`` at address ``pc``.

    What is not an instruction, or sets fields that assembly cannot spell, becomes ``.2byte`` or
    ``.4byte``: the text always assembles to the same bits.
    """
    encoding = find_encoding(word)
    if encoding is None:
        return f".4byte {word:#x}" if word & 3 == 3 else f".2byte {word & 0xFFFF:#x}"
    word &= (1 << 8 * encoding.length) - 1
    values = encoding.values(word)
    pieces = list(Formatter().parse(encoding.assembly))
    shown = {name for _, name, _, _ in pieces} | {"aq", "rl"}
    if any(values[name] for name in values.keys() - shown):
        return f".{encoding.length}byte {word:#x}"
    operands = {operand.name: operand for operand in encoding.operands}
    text = ""
    for literal, name, style, _ in pieces:
        text += literal.replace(", ", ",")
        if name is not None:
            text += _spell(operands[name], values[name], style or "", pc)
    return f"{mnemonic(encoding, values)} {text}".rstrip()


def mnemonic(encoding: Encoding, values: dict[str, int]) -> str:
    """The name, with an atomic's ordering."""
    order = ("", ".rl", ".aq", ".aqrl")[values.get("aq", 0) << 1 | values.get("rl", 0)]
    return encoding.name + order


def _spell(operand: Operand, value: int, style: str, pc: int) -> str:
    """One operand's text."""
    if style == "target":
        return f"{(pc + value) & _MASK:#x}"
    if style == "upper":
        return f"{value >> 12 & 0xFFFFF:#x}"
    if style == "nonzero":
        return str(value) if value else ""
    match operand.kind:
        case "x":
            return X_NAMES[value]
        case "f":
            return F_NAMES[value]
        case "csr":
            return CSR_NAMES.get(value, f"{value:#x}")
        case "rm":
            return "" if value == (0 if style == "exact" else DYN) else f",{ROUNDING_MODES[value]}"
        case "pred" | "succ":
            return fence_set(value)
        case "shamt":
            return f"{value:#x}"
    return str(value)


def fence_set(value: int) -> str:
    """The letters of a fence's predecessor or successor set."""
    letters = [
        letter for bit, letter in zip((8, 4, 2, 1), FENCE_LETTERS, strict=True) if value & bit
    ]
    return "".join(letters) or "unknown"
