"""ELF files: what is loaded, and that damaged ones are refused by name."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.base.errors import ConfigError
from asyncvmm.firmware.elf import Elf, Segment, parse_elf


def make_elf(
    segments: list[tuple[int, bytes, int]], symbols: dict[str, int], entry: int = 0x80000000
) -> bytes:
    """A static RISC-V executable with the given (address, data, size in memory) and symbols."""
    at_programs = 64
    at_data = at_programs + 56 * len(segments)
    programs, data = b"", b""
    for address, content, size in segments:
        programs += struct.pack(
            "<IIQQQQQQ", 1, 7, at_data + len(data), address, address, len(content), size, 4096
        )
        data += content
    names = b"\0"
    table = bytes(24)
    for name, value in symbols.items():
        table += struct.pack("<IBBHQQ", len(names), 0x10, 0, 1, value, 0)
        names += name.encode() + b"\0"
    at_symbols = at_data + len(data)
    at_names = at_symbols + len(table)
    at_sections = at_names + len(names)
    sections = bytes(64)
    sections += struct.pack("<IIQQQQIIQQ", 0, 2, 0, 0, at_symbols, len(table), 2, 1, 8, 24)
    sections += struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, at_names, len(names), 0, 0, 1, 0)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack(
        "<HHIQQQIHHHHHH",
        *(2, 243, 1, entry, at_programs, at_sections, 0, 64, 56, len(segments), 64, 3, 2),
    )
    return header + programs + data + table + names + sections


GOOD = make_elf(
    [(0x80000000, b"\x13\0\0\0" * 4, 16), (0x80001000, b"data", 4096)],
    {"tohost": 0x80001000, "fromhost": 0x80001040, "_start": 0x80000000},
)


def test_segments_entry_and_symbols() -> None:
    assert parse_elf(GOOD, "good") == Elf(
        entry=0x80000000,
        segments=(
            Segment(0x80000000, b"\x13\0\0\0" * 4, 16),
            Segment(0x80001000, b"data", 4096),
        ),
        symbols={"tohost": 0x80001000, "fromhost": 0x80001040, "_start": 0x80000000},
    )


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, b"\x7fEXE", "not an ELF file"),
        (4, b"\x01", "not a 64-bit little-endian"),
        (18, b"\x3e\0", "for machine 62, not for RISC-V"),
        (16, b"\x01\0", "not an executable: link it first"),
        (56, b"\0\0", "no segment to load"),
        (32, b"\xff" * 8, "program header table .* beyond the end of the file"),
        (64, b"\x03", "link it with -static"),
        (64 + 40, b"\0" * 8, "larger in the file than in memory|no segment"),
        (64 + 24, b"\xff" * 8, "wraps around"),
        (40, b"\xff" * 8, "section header table"),
    ],
)
def test_a_lying_field_is_named(offset: int, value: bytes, message: str) -> None:
    blob = GOOD[:offset] + value + GOOD[offset + len(value) :]
    if message.startswith("larger"):
        blob = GOOD[: 64 + 40] + struct.pack("<Q", 3) + GOOD[64 + 48 :]
    with pytest.raises(ConfigError, match=message) as caught:
        parse_elf(blob, "prog.elf")
    assert str(caught.value).startswith("prog.elf: ")


@pytest.mark.parametrize("length", range(0, len(GOOD), 7))
def test_truncation_is_a_config_error(length: int) -> None:
    with pytest.raises(ConfigError, match=r"^prog\.elf: "):
        parse_elf(GOOD[:length], "prog.elf")


@settings(derandomize=True, deadline=None, max_examples=500)
@given(changes=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=6))
def test_any_damage_is_parsed_or_a_config_error(changes: list[tuple[int, int]]) -> None:
    blob = bytearray(GOOD)
    for offset, value in changes:
        blob[offset] = value
    try:
        elf = parse_elf(bytes(blob), "prog.elf")
    except ConfigError as error:
        assert str(error).startswith("prog.elf: ")
    else:
        assert all(len(segment.data) <= segment.size_bytes for segment in elf.segments)
