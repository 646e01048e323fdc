"""Symbols of programs and kernels: what an address is in."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from asyncvmm.base.errors import ConfigError
from asyncvmm.firmware.symbols import (
    REACH_BYTES,
    Symbol,
    SymbolTable,
    elf_symbols,
    map_symbols,
    read_symbols,
)
from tests.unit.firmware.test_elf import make_elf

KALLSYMS = """\
ffffffff80001000 T _stext
ffffffff80001000 t first_function
ffffffff80001020 W weak_one
ffffffff80002000 D some_data
ffffffff01e6f0f0 t probe\t[virtio_mmio]
ffffffff01e6f100 t $xrv64
"""


def test_the_nearest_symbol_below_within_its_size() -> None:
    table = SymbolTable([Symbol(0x1000, "a", 0x10), Symbol(0x2000, "b"), Symbol(0x1800, "c", 4)])
    assert [each.name for each in table] == ["a", "c", "b"] and len(table) == 3

    def name(address: int) -> str | None:
        found = table.find(address)
        return None if found is None else found.name

    assert name(0xFFF) is None
    assert (name(0x1000), name(0x100F), name(0x1010)) == ("a", "a", None)
    assert (name(0x1803), name(0x1804)) == ("c", None)
    assert (name(0x2000 + REACH_BYTES - 1), name(0x2000 + REACH_BYTES)) == ("b", None)
    assert SymbolTable().find(0) is None


def test_kallsyms() -> None:
    assert map_symbols(KALLSYMS, "kernel") == [
        Symbol(0xFFFFFFFF80001000, "_stext"),
        Symbol(0xFFFFFFFF80001000, "first_function"),
        Symbol(0xFFFFFFFF80001020, "weak_one"),
        Symbol(0xFFFFFFFF01E6F0F0, "probe [virtio_mmio]"),
    ]
    table = SymbolTable(map_symbols(KALLSYMS, "kernel", offset=0x100))
    found = table.find(0xFFFFFFFF80001110)
    assert found is not None and found.name == "first_function"


def test_hidden_addresses_are_no_symbols() -> None:
    assert map_symbols("0000000000000000 T _stext\n", "kernel") == []


@pytest.mark.parametrize("line", ["0 T", "xyz T name", "<html>"])
def test_a_line_that_is_no_symbol_is_named(line: str) -> None:
    with pytest.raises(ConfigError, match=r"System\.map: line 2 is not a symbol"):
        map_symbols(f"80000000 T start\n{line}\n", "System.map")


def test_elf_functions_come_before_labels() -> None:
    elf = make_elf(
        [(0x80000000, bytes(64), 64)],
        {"function": 0x80000000, "label": 0x80000000, "data": 0x80000020, "$x": 0, ".L1": 4},
    )
    at = elf.index(struct.pack("<IBBHQQ", 1, 0x10, 0, 1, 0x80000000, 0))
    blob = bytearray(elf)
    struct.pack_into("<IBBHQQ", blob, at, 1, 0x12, 0, 1, 0x80000000, 0x18)
    struct.pack_into("<B", blob, at + 2 * 24 + 4, 0x11)  # "data" is an object
    found = elf_symbols(bytes(blob), "program", offset=-0x1000)
    assert found == [Symbol(0x7FFFF000, "label"), Symbol(0x7FFFF000, "function", 0x18)]
    best = SymbolTable(found).find(0x7FFFF010)
    assert best is not None and best.name == "function"


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(ConfigError, match="No such file"):
        read_symbols(path)
    path.write_text(KALLSYMS)
    assert read_symbols(path, 16) == map_symbols(KALLSYMS, "kernel", 16)
    path.write_bytes(make_elf([(0x80000000, b"code", 4)], {"start": 0x80000000}))
    assert read_symbols(path) == [Symbol(0x80000000, "start")]
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"file: is neither an ELF file nor a System\.map"):
        read_symbols(path)
