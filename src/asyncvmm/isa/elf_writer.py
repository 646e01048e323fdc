"""Writes an assembled program as a minimal static ELF64 executable with its symbol table."""

from __future__ import annotations

import struct
from typing import Final

from asyncvmm.isa.asm import Program

EM_RISCV: Final = 243
FLAGS_RVC_DOUBLE: Final = 0x5
PAGE: Final = 0x1000
_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT: Final = struct.Struct("<IIQQQQQQ")
_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_SECTION_NAMES: Final = b"\0.text\0.symtab\0.strtab\0.shstrtab\0"


def to_elf(program: Program, entry: int | None = None) -> bytes:
    """The file's bytes: one loaded segment (read, write, execute), every label as a global symbol.

    ``entry`` is an address; without one it is the label ``_start``, or the program's base.
    """
    if entry is None:
        entry = program.symbols.get("_start", program.base)
    strings = b"\0"
    symbols = _SYMBOL.pack(0, 0, 0, 0, 0, 0)
    end = program.base + len(program.data)
    for name, value in program.symbols.items():
        inside = program.base <= value <= end
        section = 1 if inside else 0xFFF1  # SHN_ABS
        symbols += _SYMBOL.pack(len(strings), 0x10, 0, section, value & (1 << 64) - 1, 0)
        strings += name.encode() + b"\0"
    # The file offset must be congruent to the address modulo the page size.
    text = PAGE + program.base % PAGE
    tables = text + len(program.data)
    tables += -tables % 8
    names = tables + len(symbols) + len(strings)
    sections = names + len(_SECTION_NAMES)
    sections += -sections % 8
    header = _HEADER.pack(
        b"\x7fELF\2\1\1" + bytes(9), 2, EM_RISCV, 1, entry, _HEADER.size, sections,
        FLAGS_RVC_DOUBLE, _HEADER.size, _SEGMENT.size, 1, _SECTION.size, 5, 4,
    )  # fmt: skip
    size = len(program.data)
    header += _SEGMENT.pack(1, 7, text, program.base, program.base, size, size, PAGE)
    made = header.ljust(text, b"\0") + program.data
    made = made.ljust(tables, b"\0") + symbols + strings + _SECTION_NAMES
    made = made.ljust(sections, b"\0") + bytes(_SECTION.size)
    made += _SECTION.pack(1, 1, 7, program.base, text, size, 0, 0, 16, 0)
    made += _SECTION.pack(7, 2, 0, 0, tables, len(symbols), 3, 1, 8, _SYMBOL.size)
    made += _SECTION.pack(15, 3, 0, 0, tables + len(symbols), len(strings), 0, 0, 1, 0)
    return made + _SECTION.pack(23, 3, 0, 0, names, len(_SECTION_NAMES), 0, 0, 1, 0)
