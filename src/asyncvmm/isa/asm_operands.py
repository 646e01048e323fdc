"""Operands of the assembler: text to the values of an encoding's operands, by its template."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from asyncvmm.isa.encoding import Encoding, Operand
from asyncvmm.isa.registers import F_NUMBERS, FENCE_LETTERS, ROUNDING_MODES, X_NUMBERS
from asyncvmm.isa.table_csrs import CSR_NUMBERS

_SLOT: Final = re.compile(r"\{(\w+)(?::(\w+))?\}")
_ADDRESS: Final = re.compile(r"(?P<offset>.*)\(\s*(?P<register>[\w]+)\s*\)", re.DOTALL)

Number = Callable[[str], int]
"""Evaluates an expression, with the relocation functions %hi, %lo and so on."""


class OperandError(ValueError):
    """An operand's text does not fit the instruction."""


def split_operands(text: str) -> list[str]:
    """Split at the commas outside brackets and quotes."""
    parts: list[str] = []
    depth, quote, start = 0, "", 0
    for place, letter in enumerate(text):
        if quote:
            if letter == quote and text[place - 1] != "\\":
                quote = ""
        elif letter in "\"'":
            quote = letter
        elif letter in "()":
            depth += 1 if letter == "(" else -1
        elif letter == "," and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    last = text[start:].strip()
    return [*parts, last] if parts or last else []


def parse_operands(encoding: Encoding, given: list[str], pc: int, number: Number) -> dict[str, int]:
    """The operands' values; OperandError says which text is wrong."""
    operands = {operand.name: operand for operand in encoding.operands}
    values = {name: 0 for name in operands if f"{{{name}" not in encoding.assembly}
    template = split_operands(encoding.assembly)
    if template and (found := re.search(r"\{rm(:exact)?\}$", template[-1])):
        values["rm"] = 0 if found[1] else 7
        template[-1] = template[-1][: found.start()]
        if len(given) == len(template) + 1:
            values["rm"] = _mode(given.pop())
    if template == ["{imm:nonzero}"] and not given:
        given = ["0"]
    if len(given) != len(template):
        raise OperandError(f"{encoding.name} takes {len(template)} operands, not {len(given)}")
    for pattern, text in zip(template, given, strict=True):
        if not pattern.endswith(")"):
            _slot(pattern, text, operands, values, pc, number)
            continue
        found = _ADDRESS.fullmatch(text)
        if found is None:
            raise OperandError(f"{text!r} is not of the form offset(register)")
        offset, _, register = pattern[:-1].partition("(")
        _slot(register, found["register"], operands, values, pc, number)
        if offset:
            _slot(offset, found["offset"] or "0", operands, values, pc, number)
        elif found["offset"].strip() not in ("", "0"):
            raise OperandError(f"{encoding.name} takes no offset")
    return values


def _slot(
    pattern: str,
    text: str,
    operands: dict[str, Operand],
    values: dict[str, int],
    pc: int,
    number: Number,
) -> None:
    """Parse one operand's text into its value."""
    found = _SLOT.fullmatch(pattern)
    if found is None:
        if X_NUMBERS.get(text) != X_NUMBERS[pattern]:
            raise OperandError(f"{text!r} must be {pattern}")
        return
    name, style = found[1], found[2]
    operand = operands[name]
    if operand.kind in ("x", "f"):
        names = X_NUMBERS if operand.kind == "x" else F_NUMBERS
        if text not in names:
            kind = "an integer" if operand.kind == "x" else "a floating-point"
            raise OperandError(f"{text!r} is not {kind} register")
        values[name] = names[text]
    elif operand.kind == "csr":
        values[name] = CSR_NUMBERS[text] if text in CSR_NUMBERS else number(text)
    elif operand.kind in ("pred", "succ"):
        values[name] = _fence_set(text)
    elif style == "target":
        values[name] = number(text) - pc
    elif style == "upper":
        value = number(text)
        if not -0x80000 <= value <= 0xFFFFF:
            raise OperandError(f"{value:#x} does not fit 20 bits")
        values[name] = ((value + 0x80000) % 0x100000 - 0x80000) << 12
    else:
        values[name] = number(text)


def _mode(text: str) -> int:
    if text not in ROUNDING_MODES or text in ("5", "6"):
        raise OperandError(f"{text!r} is no rounding mode")
    return ROUNDING_MODES.index(text)


def _fence_set(text: str) -> int:
    if text in ("0", "unknown"):
        return 0
    if not text or [letter for letter in FENCE_LETTERS if letter in text] != list(text):
        raise OperandError(f"{text!r} is not a set of i, o, r and w")
    return sum(8 >> FENCE_LETTERS.index(letter) for letter in text)
