"""As much of ELF as building a guest's file system takes: what a program needs, and a file for our own
assembled code."""

from __future__ import annotations

import struct
from typing import Final

from asyncvmm.plugin.images import BuildError

PT_LOAD: Final = 1
PT_DYNAMIC: Final = 2
PT_INTERP: Final = 3
DT_NEEDED: Final = 1
DT_STRTAB: Final = 5
EM_RISCV: Final = 243
PAGE: Final = 4096
MAX_HEADERS: Final = 64


def needed_libraries(binary: bytes) -> tuple[str, list[str]]:
    """A 64-bit little-endian program's interpreter ("" if static) and the libraries it names.

    Raises `BuildError` for a file that is no such program or whose tables point outside of it.
    """
    try:
        return _needed(binary)
    except (struct.error, IndexError, ValueError, OverflowError) as error:
        raise BuildError("a program of the archive is not a readable ELF file") from error


def static_program(text: bytes, base: int, data: int, data_bytes: int) -> bytes:
    """An ELF program of ``text`` loaded and entered at ``base`` (a multiple of 4096) and ``data_bytes``
    of zeroes at ``data``."""
    read_execute, read_write = 5, 6
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01" + bytes(9),
        2,
        EM_RISCV,
        1,
        base,
        64,
        0,
        5,
        64,
        56,
        2,
        64,
        0,
        0,
    )
    header += _program_header(read_execute, PAGE, base, len(text), len(text))
    header += _program_header(read_write, 0, data, 0, data_bytes)
    return header + bytes(PAGE - len(header)) + text


def _program_header(flags: int, offset: int, address: int, in_file: int, in_memory: int) -> bytes:
    return struct.pack(
        "<IIQQQQQQ", PT_LOAD, flags, offset, address, address, in_file, in_memory, PAGE
    )


def _needed(binary: bytes) -> tuple[str, list[str]]:
    if binary[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    table_at = struct.unpack_from("<Q", binary, 32)[0]
    entry_bytes, count = struct.unpack_from("<HH", binary, 54)
    if count > MAX_HEADERS or entry_bytes != 56:
        raise ValueError("bad program headers")
    interpreter = ""
    dynamic = b""
    loads: list[tuple[int, int, int]] = []
    for index in range(count):
        kind, _, offset, address, _, size, _, _ = struct.unpack_from(
            "<IIQQQQQQ", binary, table_at + index * 56
        )
        if kind == PT_LOAD:
            loads.append((address, offset, size))
        elif kind == PT_INTERP:
            interpreter = _string(binary, offset)
        elif kind == PT_DYNAMIC:
            dynamic = binary[offset : offset + size]
    entries = list(struct.iter_unpack("<QQ", dynamic[: len(dynamic) // 16 * 16]))
    strings = [value for tag, value in entries if tag == DT_STRTAB]
    if not strings:
        return interpreter, []
    start = _file_offset(strings[0], loads)
    return interpreter, [_string(binary, start + v) for tag, v in entries if tag == DT_NEEDED]


def _file_offset(address: int, loads: list[tuple[int, int, int]]) -> int:
    for start, offset, size in loads:
        if start <= address < start + size:
            return address - start + offset
    raise ValueError("a table lies outside of the file")


def _string(binary: bytes, at: int) -> str:
    if not 0 <= at < len(binary):
        raise ValueError("a string lies outside of the file")
    return binary[at : binary.index(b"\0", at)].decode("utf-8")
