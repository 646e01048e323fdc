"""Object code: what is read of an ELF object, and its bytes at an address."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

RELOCATION_BYTES: Final = {1: 8, 2: 4, 4: 4, 10: 4, 11: 4, 14: 1}
_RELATIVE: Final = frozenset((2, 4))  # R_X86_64_PC32, PLT32


class LinkError(RuntimeError):
    """The object code holds something that the loader does not know."""


@dataclass(frozen=True)
class Relocation:
    """At ``position`` put the value of ``symbol`` plus ``addend``; relative to the place or not.

    A symbol that starts with "." is a section of the object itself.
    """

    position: int
    size: int
    relative: bool
    symbol: str
    addend: int


@dataclass(frozen=True)
class Function:
    """Where a function lies in the text section."""

    start: int
    size: int


@dataclass(frozen=True)
class Object:
    """Text and read-only data, one after the other, with what to fill in."""

    image: bytes
    functions: dict[str, Function]
    sections: dict[str, int]
    relocations: list[Relocation]
    align: int = 16  # of the address where it is put: wide constants need up to 64 bytes

    def link(self, address: int, symbols: Mapping[str, int]) -> bytes:
        """The image as it has to be at ``address``, a multiple of ``align``."""
        if address % self.align:
            raise LinkError(f"{address:#x} is not a multiple of {self.align}")
        image = bytearray(self.image)
        for item in self.relocations:
            if item.symbol in self.sections:
                value = address + self.sections[item.symbol]
            elif item.symbol in self.functions:
                value = address + self.functions[item.symbol].start
            elif item.symbol in symbols:
                value = symbols[item.symbol]
            else:
                raise LinkError(f"no symbol {item.symbol}")
            value += item.addend
            if item.relative:
                value -= address + item.position
            bits = item.size * 8
            if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
                raise LinkError(f"{item.symbol} is too far away for {bits} bits")
            image[item.position : item.position + item.size] = (value & ((1 << bits) - 1)).to_bytes(
                item.size, "little"
            )
        return bytes(image)


def parse_object(data: bytes) -> Object:
    """Read an ELF object for x86-64."""
    if data[:4] != b"\x7fELF" or struct.unpack_from("<H", data, 18)[0] != 62:
        raise LinkError("not an x86-64 ELF object")
    (table,) = struct.unpack_from("<Q", data, 40)
    count, names_index = struct.unpack_from("<HH", data, 60)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, table + 64 * i) for i in range(count)]

    def text_at(offset: int) -> str:
        return data[offset : data.index(b"\0", offset)].decode()

    names = [text_at(headers[names_index][4] + header[0]) for header in headers]
    image = bytearray()
    placed: dict[int, int] = {}
    widest = 16
    for index, (header, name) in enumerate(zip(headers, names, strict=True)):
        if header[1] == 1 and name.startswith((".text", ".rodata", ".data.rel.ro")):
            align = max(header[8], 1)
            widest = max(widest, align)
            image += b"\xcc" * (-len(image) % align)
            placed[index] = len(image)
            image += data[header[4] : header[4] + header[5]]
    symbols: list[tuple[str, int, int, int]] = []
    functions: dict[str, Function] = {}
    for header, name in zip(headers, names, strict=True):
        if name != ".symtab":
            continue
        strings = headers[header[6]][4]
        for offset in range(header[4], header[4] + header[5], 24):
            key, info, _, section, value, size = struct.unpack_from("<IBBHQQ", data, offset)
            label = text_at(strings + key)
            if info & 15 == 3:
                label = f".{section}"
            symbols.append((label, section, value, size))
            if info & 15 == 2 and section in placed:
                functions[label] = Function(placed[section] + value, size)
    sections = {f".{index}": start for index, start in placed.items()}
    for label, section, value, _ in symbols:
        if label.startswith(".L") and section in placed:
            sections[label] = placed[section] + value
    relocations: list[Relocation] = []
    for header in headers:
        if header[1] != 4 or header[7] not in placed:
            continue
        for offset in range(header[4], header[4] + header[5], 24):
            where, info, addend = struct.unpack_from("<QQq", data, offset)
            kind = info & 0xFFFFFFFF
            if kind not in RELOCATION_BYTES:
                raise LinkError(f"relocation type {kind}")
            relocations.append(
                Relocation(
                    placed[header[7]] + where,
                    RELOCATION_BYTES[kind],
                    kind in _RELATIVE,
                    symbols[info >> 32][0],
                    addend,
                )
            )
    return Object(bytes(image), functions, sections, relocations, widest)
