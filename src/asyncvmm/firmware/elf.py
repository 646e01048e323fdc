"""Static ELF64 files for RISC-V: what to load where, the entry, and the symbols."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import attrs

from asyncvmm.base.errors import ConfigError

MAGIC = b"\x7fELF"
HEADER_SIZE = 64
PROGRAM_HEADER_SIZE = 56
SECTION_HEADER_SIZE = 64
SYMBOL_SIZE = 24
MACHINE_RISCV = 243
TYPE_EXECUTABLE = 2
TYPE_SHARED = 3
PT_LOAD = 1
PT_INTERP = 3
SHT_SYMTAB = 2
MAX_SYMBOLS = 1_000_000


@attrs.frozen
class Segment:
    """``data`` goes to guest-physical ``address``, followed by zeros up to ``size_bytes``."""

    address: int
    data: bytes = attrs.field(repr=lambda data: f"{len(data)} bytes")
    size_bytes: int


@attrs.frozen
class Elf:
    """A parsed file. ``symbols`` holds the defined, named ones of its symbol table."""

    entry: int
    segments: tuple[Segment, ...]
    symbols: dict[str, int]


@attrs.frozen
class ElfSymbol:
    """A defined, named symbol. ``size_bytes`` is 0 where the file does not say; ``kind`` is STT_*."""

    name: str
    value: int
    size_bytes: int
    kind: int


def is_elf(blob: bytes) -> bool:
    """Whether ``blob`` begins like an ELF file."""
    return blob[:4] == MAGIC


def parse_elf(blob: bytes, name: str) -> Elf:
    """Check and take apart ``blob``; a ConfigError names the file ``name`` and what is wrong."""
    return _Parser(blob, name).parse()


def parse_symbols(blob: bytes, name: str) -> list[ElfSymbol]:
    """Every symbol of the file's symbol tables, in their order; ConfigError as ``parse_elf``."""
    parser = _Parser(blob, name)
    _, _, (at_sections, section_size, sections) = parser.header()
    return list(parser.symbols(at_sections, section_size, sections)) if sections else []


class _Parser:
    def __init__(self, blob: bytes, name: str) -> None:
        self.blob = blob
        self.name = name

    def error(self, what: str) -> ConfigError:
        return ConfigError(f"{self.name}: {what}")

    def part(self, offset: int, size: int, what: str) -> bytes:
        if offset > len(self.blob) or size > len(self.blob) - offset:
            raise self.error(
                f"truncated or damaged ELF file: {what} ({size} bytes at {offset:#x}) is beyond "
                f"the end of the file ({len(self.blob)} bytes)"
            )
        return self.blob[offset : offset + size]

    def header(self) -> tuple[int, tuple[int, int, int], tuple[int, int, int]]:
        """The entry, and (offset, size of one, number) of program and of section headers."""
        header = self.part(0, HEADER_SIZE, "the header")
        if header[:4] != MAGIC:
            raise self.error("not an ELF file")
        if header[4] != 2 or header[5] != 1:
            raise self.error("not a 64-bit little-endian ELF file")
        kind, machine = struct.unpack_from("<HH", header, 16)
        if machine != MACHINE_RISCV:
            raise self.error(f"an ELF file for machine {machine}, not for RISC-V ({MACHINE_RISCV})")
        if kind not in (TYPE_EXECUTABLE, TYPE_SHARED):
            raise self.error(f"ELF type {kind} is not an executable: link it first")
        entry, at_programs, at_sections = struct.unpack_from("<QQQ", header, 24)
        program_size, programs, section_size, sections = struct.unpack_from("<HHHH", header, 54)
        return entry, (at_programs, program_size, programs), (at_sections, section_size, sections)

    def parse(self) -> Elf:
        entry, programs, (at_sections, section_size, sections) = self.header()
        segments = tuple(self.segments(*programs))
        if not segments:
            raise self.error("the ELF file has no segment to load")
        symbols = {}
        if sections:
            found = self.symbols(at_sections, section_size, sections)
            symbols = {symbol.name: symbol.value for symbol in found}
        return Elf(entry, segments, symbols)

    def segments(self, offset: int, size: int, count: int) -> Iterator[Segment]:
        if count and size < PROGRAM_HEADER_SIZE:
            raise self.error(f"damaged ELF file: program headers of {size} bytes")
        table = self.part(offset, size * count, "the program header table")
        for i in range(count):
            kind, _flags, at, _virtual, physical, in_file, in_memory = struct.unpack_from(
                "<IIQQQQQ", table, i * size
            )
            if kind == PT_INTERP:
                raise self.error("a dynamically linked program: link it with -static")
            if kind != PT_LOAD or in_memory == 0:
                continue
            if in_file > in_memory:
                raise self.error(
                    f"damaged ELF file: segment {i} is larger in the file than in memory"
                )
            if physical + in_memory > 1 << 64:
                raise self.error(f"damaged ELF file: segment {i} wraps around the address space")
            yield Segment(physical, self.part(at, in_file, f"segment {i}"), in_memory)

    def symbols(self, offset: int, size: int, count: int) -> Iterator[ElfSymbol]:
        if size < SECTION_HEADER_SIZE:
            raise self.error(f"damaged ELF file: section headers of {size} bytes")
        table = self.part(offset, size * count, "the section header table")
        headers = [struct.unpack_from("<IIQQQQIIQQ", table, i * size) for i in range(count)]
        for header in headers:
            if header[1] != SHT_SYMTAB:
                continue
            link = header[6]
            if link >= count:
                raise self.error("damaged ELF file: the symbol table has no string table")
            names = self.part(headers[link][4], headers[link][5], "the string table")
            yield from self.read_symbols(self.part(header[4], header[5], "the symbol table"), names)

    def read_symbols(self, table: bytes, names: bytes) -> Iterator[ElfSymbol]:
        count = len(table) // SYMBOL_SIZE
        if count > MAX_SYMBOLS:
            raise self.error(f"the ELF file has {count} symbols, more than {MAX_SYMBOLS}: strip it")
        for i in range(count):
            at_name, info, _other, section, value, size = struct.unpack_from(
                "<IBBHQQ", table, i * SYMBOL_SIZE
            )
            if at_name == 0 or section == 0:
                continue
            end = names.find(b"\0", at_name)
            if end < 0:
                raise self.error(f"damaged ELF file: the name of symbol {i} has no end")
            name = names[at_name:end].decode(errors="replace")
            yield ElfSymbol(name, value, size, info & 0xF)
