"""Tree -> flattened blob, version 17."""

from __future__ import annotations

import struct

from asyncvmm.fdt.layout import (
    BEGIN_NODE,
    END,
    END_NODE,
    HEADER,
    HEADER_SIZE,
    LAST_COMPATIBLE,
    MAGIC,
    PROP,
    VERSION,
)
from asyncvmm.fdt.node import Node, Tree


def flatten(tree: Tree, spare_bytes: int = 0) -> bytes:
    """The blob; ``spare_bytes`` of free space at its end let firmware add nodes in place."""
    strings = _Strings()
    structure = bytearray()
    _write_node(tree.root, structure, strings)
    structure += struct.pack(">I", END)
    reservations = b"".join(
        struct.pack(">QQ", address, size) for address, size in [*tree.reservations, (0, 0)]
    )
    at_structure = HEADER_SIZE + len(reservations)
    at_strings = at_structure + len(structure)
    total = _align(at_strings + len(strings.block), 8) + _align(spare_bytes, 8)
    header = struct.pack(
        HEADER,
        MAGIC,
        total,
        at_structure,
        at_strings,
        HEADER_SIZE,
        VERSION,
        LAST_COMPATIBLE,
        tree.boot_hart,
        len(strings.block),
        len(structure),
    )
    return (header + reservations + bytes(structure) + bytes(strings.block)).ljust(total, b"\0")


class _Strings:
    """The block of property names, each once."""

    def __init__(self) -> None:
        self.block = bytearray()
        self._offsets: dict[str, int] = {}

    def offset(self, name: str) -> int:
        if name not in self._offsets:
            self._offsets[name] = len(self.block)
            self.block += name.encode() + b"\0"
        return self._offsets[name]


def _write_node(node: Node, out: bytearray, strings: _Strings) -> None:
    out += struct.pack(">I", BEGIN_NODE) + _padded(node.name.encode() + b"\0")
    for name, value in node.properties.items():
        out += struct.pack(">III", PROP, len(value), strings.offset(name)) + _padded(value)
    for child in node.children:
        _write_node(child, out, strings)
    out += struct.pack(">I", END_NODE)


def _padded(data: bytes) -> bytes:
    return data.ljust(_align(len(data), 4), b"\0")


def _align(value: int, to: int) -> int:
    return (value + to - 1) // to * to
