"""The assembler: two passes over GNU-like source, to bytes at fixed addresses.

``assemble(source, base)`` places .text at ``base``, then .rodata, .data and .bss, each aligned to
16 or to the largest alignment in it. Labels, numeric local labels (1f, 1b), .equ, expressions,
%hi %lo %pcrel_hi %pcrel_lo, the usual pseudo-instructions; nothing is compressed or relaxed
unless it is spelled c.*.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from asyncvmm.isa.asm_directives import DATA_SIZES, IGNORED, data_bytes, string_bytes
from asyncvmm.isa.asm_errors import AssemblyError
from asyncvmm.isa.asm_expressions import ExpressionError, evaluate
from asyncvmm.isa.asm_operands import OperandError, parse_operands, split_operands
from asyncvmm.isa.asm_pseudo import IMMEDIATE_FORMS, PSEUDO, expand_li
from asyncvmm.isa.asm_source import Statement, read_source
from asyncvmm.isa.encoding import Encoding
from asyncvmm.isa.registers import F_NUMBERS, X_NUMBERS
from asyncvmm.isa.tables import BY_NAME

__all__ = ["AssemblyError", "Program", "assemble"]

SECTIONS: Final = (".text", ".rodata", ".data", ".bss")
SECTION_ALIGNMENT: Final = 16
_RELOCATION: Final = re.compile(r"\s*%(hi|lo|pcrel_hi|pcrel_lo|back)\s*\((.*)\)\s*", re.DOTALL)
_LOCAL: Final = re.compile(r"(\d+)([fb])")


@dataclass(frozen=True)
class Program:
    """Assembled bytes for address ``base`` and up, and every label and .equ with its value."""

    data: bytes
    symbols: dict[str, int]
    base: int


@dataclass
class _Item:
    """Something that takes ``size`` bytes of a section at ``offset``; pass 2 gives the bytes."""

    statement: Statement
    section: str
    offset: int
    size: int
    encoding: Encoding | None = None


@dataclass
class _Assembler:
    base: int
    items: list[_Item] = field(default_factory=list)
    offsets: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SECTIONS, 0))
    alignments: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(SECTIONS, SECTION_ALIGNMENT)
    )
    starts: dict[str, int] = field(default_factory=dict)
    labels: dict[str, tuple[str, int]] = field(default_factory=dict)
    locals: dict[str, list[tuple[int, str, int]]] = field(default_factory=dict)
    constants: dict[str, int] = field(default_factory=dict)
    high_parts: dict[int, int] = field(default_factory=dict)
    section: str = ".text"

    # Pass 1: sizes and labels

    def place(self, statement: Statement) -> None:
        """Give a statement its place."""
        for label in statement.labels:
            here = (self.section, self.offsets[self.section])
            if label.isdecimal():
                self.locals.setdefault(label, []).append((len(self.items), *here))
            elif label in self.labels or label in self.constants:
                raise AssemblyError(statement.line, f"{label} is already defined")
            else:
                self.labels[label] = here
        name = statement.name
        if not name or name in IGNORED:
            return
        if name.startswith("."):
            self.directive(statement)
            return
        for text in self.spell_out(statement):
            word, _, rest = text.partition(" ")
            inner = Statement(statement.line, (), word, tuple(split_operands(rest)))
            encoding = BY_NAME.get(re.sub(r"\.(aq|rl|aqrl)$", "", word))
            if encoding is None:
                raise AssemblyError(statement.line, f"there is no instruction {name}")
            self.add(inner, encoding.length, encoding)

    def spell_out(self, statement: Statement) -> tuple[str, ...]:
        """The real instructions of a statement."""
        name, operands = statement.name, list(statement.operands)
        if name == "li" and len(operands) == 2:
            return expand_li(operands[0], self.known(operands[1], statement.line))
        if name == "jalr" and len(operands) == 3:
            return (f"jalr {operands[0]},{operands[2]}({operands[1]})",)
        if name == "jalr" and len(operands) == 2 and operands[1] in X_NUMBERS:
            return (f"jalr {operands[0]},0({operands[1]})",)
        if name == "jr" and len(operands) == 1 and operands[0].endswith(")"):
            return (f"jalr x0,{operands[0]}",)
        encoding = BY_NAME.get(name)
        if encoding is not None and encoding.role == "load" and len(operands) == 2:
            if "(" not in operands[1] and encoding.length == 4:
                register = operands[0] if operands[0] in X_NUMBERS else None
                if register is None:
                    raise AssemblyError(statement.line, f"{name} needs offset(register)")
                symbol = operands[1]
                return (
                    f"auipc {register},%pcrel_hi({symbol})",
                    f"{name} {register},%back({symbol})({register})",
                )
        if (lines := PSEUDO.get((name, len(operands)))) is not None:
            return tuple(line.format(*operands) for line in lines)
        if name in IMMEDIATE_FORMS and operands:
            last = operands[-1]
            if last not in X_NUMBERS and last not in F_NUMBERS:
                name = IMMEDIATE_FORMS[name]
        return (f"{name} {','.join(operands)}",)

    def add(self, statement: Statement, size: int, encoding: Encoding | None = None) -> None:
        """Take ``size`` bytes of the current section."""
        offset = self.offsets[self.section]
        self.items.append(_Item(statement, self.section, offset, size, encoding))
        self.offsets[self.section] = offset + size

    def directive(self, statement: Statement) -> None:
        """Anything that starts with a dot."""
        name, operands, line = statement.name, statement.operands, statement.line
        if name in (".text", ".data", ".rodata", ".bss") or name == ".section":
            wanted = name if name != ".section" else (operands or ("",))[0]
            section = next((s for s in SECTIONS if wanted == s or wanted.startswith(s + ".")), None)
            if section is None:
                raise AssemblyError(line, f"there is no section {wanted!r}")
            self.section = section
        elif name in (".equ", ".set") and len(operands) == 2:
            if operands[0] in self.labels or (name == ".equ" and operands[0] in self.constants):
                raise AssemblyError(line, f"{operands[0]} is already defined")
            self.constants[operands[0]] = self.known(operands[1], line)
        elif name in DATA_SIZES:
            self.add(statement, DATA_SIZES[name] * len(operands))
        elif name in (".ascii", ".asciz", ".string"):
            self.add(statement, len(string_bytes(statement)))
        elif name in (".zero", ".space", ".skip") and operands:
            self.fill(statement, self.known(operands[0], line))
        elif name in (".align", ".p2align", ".balign") and operands:
            amount = self.known(operands[0], line)
            if name != ".balign":
                amount = 1 << amount if 0 <= amount <= 16 else 0
            if amount < 1 or amount & (amount - 1):
                raise AssemblyError(line, "an alignment must be a power of two")
            if self.section == ".text" and self.base % amount:
                raise AssemblyError(line, f"the base {self.base:#x} is not aligned to {amount}")
            self.alignments[self.section] = max(self.alignments[self.section], amount)
            self.fill(statement, -self.offsets[self.section] % amount)
        elif name == ".org" and operands:
            self.fill(statement, self.known(operands[0], line) - self.offsets[self.section])
        else:
            raise AssemblyError(line, f"there is no directive {name} of {len(operands)} operands")

    def fill(self, statement: Statement, size: int) -> None:
        """Bytes of padding: nops where code is aligned and they fit, zeros else."""
        if not 0 <= size <= 1 << 28:
            raise AssemblyError(statement.line, f"{size} bytes cannot be filled")
        self.add(statement, size)

    def known(self, text: str, line: int) -> int:
        """An expression of constants already defined (and of distances within a section)."""

        def look(name: str) -> int:
            if name in self.constants:
                return self.constants[name]
            if name == ".":
                return self.offsets[self.section]
            if name in self.labels and self.labels[name][0] == self.section:
                return self.labels[name][1]
            raise KeyError(name)

        try:
            return evaluate(text, look)
        except KeyError as error:
            raise AssemblyError(line, f"{error.args[0]} is not known at this point") from None
        except ExpressionError as error:
            raise AssemblyError(line, str(error)) from None

    # Pass 2: bytes

    def finish(self) -> Program:
        """Fix the sections' addresses and encode every item."""
        address = self.base
        used = [name for name in SECTIONS if self.offsets[name]]
        for name in SECTIONS:
            if name != ".text" and name in used:
                address += -address % self.alignments[name]
            self.starts[name] = address
            address += self.offsets[name]
        data = bytearray(address - self.base)
        for index, item in enumerate(self.items):
            at = self.starts[item.section] + item.offset
            made = self.encode(index, item, at)
            data[at - self.base : at - self.base + item.size] = made
        symbols = {name: self.starts[s] + offset for name, (s, offset) in self.labels.items()}
        return Program(bytes(data), {**self.constants, **symbols}, self.base)

    def encode(self, index: int, item: _Item, at: int) -> bytes:
        """The bytes of one item at its address."""
        statement = item.statement

        def number(text: str) -> int:
            return self.number(text, index, at)

        try:
            if item.encoding is None:
                return data_bytes(statement, item.size, item.section == ".text", number)
            values = parse_operands(item.encoding, list(statement.operands), at, number)
            order = statement.name.removeprefix(item.encoding.name)
            if order:
                values["aq"], values["rl"] = int(".aq" in order), int(order.endswith("rl"))
            word = item.encoding.encode(values)
        except KeyError as error:
            raise AssemblyError(statement.line, f"{error.args[0]} is not defined") from None
        except (ExpressionError, OperandError, ValueError) as error:
            raise AssemblyError(statement.line, f"{statement.name}: {error}") from None
        return word.to_bytes(item.encoding.length, "little")

    def number(self, text: str, index: int, at: int) -> int:
        """An expression, perhaps in one of the relocation functions."""
        found = _RELOCATION.fullmatch(text)
        if found is None:
            return evaluate(text, lambda name: self.lookup(name, index, at))
        value = evaluate(found[2], lambda name: self.lookup(name, index, at))
        match found[1]:
            case "hi":
                return (value + 0x800) >> 12 & 0xFFFFF
            case "lo":
                return (value + 0x800) % 0x1000 - 0x800
            case "pcrel_hi":
                distance = value - at
                if not -(1 << 31) - 0x800 <= distance < (1 << 31) - 0x800:
                    raise OperandError(f"{found[2]} is out of reach")
                self.high_parts[at] = distance
                return (distance + 0x800) >> 12 & 0xFFFFF
            case "pcrel_lo":
                if value not in self.high_parts:
                    raise OperandError(f"{found[2]} is not at a %pcrel_hi before this")
                return (self.high_parts[value] + 0x800) % 0x1000 - 0x800
        # %back: the low part for an auipc right before.
        return (value - (at - 4) + 0x800) % 0x1000 - 0x800

    def lookup(self, name: str, index: int, at: int) -> int:
        """A symbol's value as seen from an item."""
        if name == ".":
            return at
        if (found := _LOCAL.fullmatch(name)) is not None:
            places = self.locals.get(found[1], [])
            before = [place for place in places if place[0] <= index]
            after = places[len(before) :]
            chosen = before[-1:] if found[2] == "b" else after[:1]
            if not chosen:
                raise KeyError(name)
            return self.starts[chosen[0][1]] + chosen[0][2]
        if name in self.constants:
            return self.constants[name]
        section, offset = self.labels[name]
        return self.starts[section] + offset


def assemble(source: str, base: int = 0) -> Program:
    """Assemble a source text for address ``base``; AssemblyError names the line."""
    assembler = _Assembler(base)
    for statement in read_source(source):
        assembler.place(statement)
    return assembler.finish()
