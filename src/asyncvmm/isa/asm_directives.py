"""Directives of the assembler that make bytes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from asyncvmm.isa.asm_errors import AssemblyError
from asyncvmm.isa.asm_expressions import ESCAPES
from asyncvmm.isa.asm_source import Statement

DATA_SIZES: Final = {
    ".byte": 1, ".2byte": 2, ".half": 2, ".short": 2, ".4byte": 4, ".word": 4, ".long": 4,
    ".8byte": 8, ".dword": 8, ".quad": 8,
}  # fmt: skip
"""Directives that store numbers, and the bytes of each."""

IGNORED: Final = frozenset(
    {
        ".globl", ".global", ".local", ".weak", ".type", ".size", ".option", ".attribute", ".file",
        ".ident", ".cfi_startproc", ".cfi_endproc",
    }
)  # fmt: skip
"""Directives that say nothing here: every label is in the symbol table."""

NOP: Final = (0x00000013).to_bytes(4, "little")
C_NOP: Final = (0x0001).to_bytes(2, "little")


def data_bytes(
    statement: Statement, size: int, in_text: bool, number: Callable[[str], int]
) -> bytes:
    """The ``size`` bytes that a directive makes."""
    name = statement.name
    if name in DATA_SIZES:
        width = DATA_SIZES[name]
        made = b""
        for operand in statement.operands:
            value = number(operand)
            if not -(1 << (8 * width - 1)) <= value < 1 << 8 * width:
                raise AssemblyError(statement.line, f"{value:#x} does not fit {width} bytes")
            made += (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        return made
    if name in (".ascii", ".asciz", ".string"):
        return string_bytes(statement)
    if name in (".zero", ".space", ".skip", ".org") or not in_text:
        value = number(statement.operands[1]) if len(statement.operands) > 1 else 0
        return bytes([value & 0xFF]) * size
    return bytes(size % 2) + C_NOP * (size % 4 // 2) + NOP * (size // 4)


def string_bytes(statement: Statement) -> bytes:
    """The strings of .ascii, or of .asciz and .string with a zero after each."""
    made = b""
    for operand in statement.operands:
        if len(operand) < 2 or operand[0] != '"' or operand[-1] != '"':
            raise AssemblyError(statement.line, f"{operand} is not a string")
        made += _unescape(operand[1:-1], statement.line)
        made += b"" if statement.name == ".ascii" else b"\0"
    return made


def _unescape(text: str, line: int) -> bytes:
    def one(found: re.Match[str]) -> str:
        code = found[1]
        if code[0] == "x":
            return chr(int(code[1:], 16))
        if code[0].isdigit():
            return chr(int(code, 8))
        return chr(ESCAPES.get(code, ord(code)))

    # Escapes may name any byte, and other letters stand for their UTF-8.
    pieces = re.split(r"(\\(?:x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.))", text)
    try:
        return b"".join(
            re.sub(r"\\(.+)", one, piece).encode("latin-1" if piece[:1] == "\\" else "utf-8")
            for piece in pieces
        )
    except UnicodeEncodeError:
        raise AssemblyError(line, f"{text!r} has a wrong escape") from None
