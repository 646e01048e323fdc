"""The assembler's reader: source text to statements."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from asyncvmm.isa.asm_errors import AssemblyError
from asyncvmm.isa.asm_operands import split_operands

_LABEL: Final = re.compile(r"\s*([A-Za-z_.$][\w.$]*|\d+):")
_STRING: Final = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])\'')


class Statement(NamedTuple):
    """Labels, name and operands of (a part of) a line; ``name`` is "" for a bare label."""

    line: int
    labels: tuple[str, ...]
    name: str
    operands: tuple[str, ...]


def read_source(source: str) -> Iterator[Statement]:
    """The statements; comments are #, // and /* */; a semicolon separates statements."""
    for number, line in enumerate(_without_blocks(source).split("\n"), 1):
        for part in _parts(line):
            labels = []
            while found := _LABEL.match(part):
                labels.append(found[1])
                part = part[found.end() :]
            words = part.split(None, 1)
            name = words[0].lower() if words else ""
            operands = split_operands(words[1]) if len(words) > 1 else []
            if any(not operand for operand in operands):
                raise AssemblyError(number, "an operand is missing")
            if labels or name:
                yield Statement(number, tuple(labels), name, tuple(operands))


def _without_blocks(source: str) -> str:
    """The source with /* */ comments blanked, line breaks kept."""
    return re.sub(r"/\*.*?\*/", lambda found: re.sub(r"[^\n]", " ", found[0]), source, flags=re.S)


def _parts(line: str) -> list[str]:
    """Split at semicolons and cut comments, but not within strings."""
    parts: list[str] = []
    start = place = 0
    while place < len(line):
        if (found := _STRING.match(line, place)) is not None:
            place = found.end()
            continue
        if line[place] == "#" or line.startswith("//", place):
            break
        if line[place] == ";":
            parts.append(line[start:place])
            start = place + 1
        place += 1
    parts.append(line[start:place])
    return [part for part in parts if part.strip()]
