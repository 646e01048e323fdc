"""Flattened blob -> Tree. The blob is untrusted: whatever is wrong with it is a ConfigError."""

from __future__ import annotations

import struct

from asyncvmm.base.errors import ConfigError
from asyncvmm.fdt.layout import BEGIN_NODE, END, END_NODE, HEADER, HEADER_SIZE, MAGIC, NOP, PROP
from asyncvmm.fdt.node import Node, Tree

MAX_SIZE = 4 * 1024 * 1024
MAX_DEPTH = 64
MAX_NODES = 65536


def parse(blob: bytes, name: str = "device tree") -> Tree:
    """The tree in ``blob``; ``name`` (a file) opens the text of the ConfigError."""
    return _Reader(blob, name).tree()


class _Reader:
    def __init__(self, blob: bytes, name: str) -> None:
        self.name = name
        if len(blob) < HEADER_SIZE:
            raise self.error(f"{len(blob)} bytes are too few for a header of {HEADER_SIZE}")
        fields = struct.unpack_from(HEADER, blob)
        magic, total, structure, strings, reservations, version, compatible, boot, *sizes = fields
        strings_size, structure_size = sizes
        if magic != MAGIC:
            raise self.error(f"magic is {magic:#x}, not {MAGIC:#x}")
        if not HEADER_SIZE <= total <= MAX_SIZE:
            raise self.error(f"the header claims a size of {total} bytes")
        if total > len(blob):
            raise self.error(f"truncated: the header claims {total} bytes, {len(blob)} are there")
        if version < 17 or compatible > 17:
            raise self.error(f"version {version} (compatible with {compatible}), not 17")
        self.blob = blob[:total]
        self.boot_hart = boot
        self.structure = self.block("structure", structure, structure_size)
        self.strings = self.block("strings", strings, strings_size)
        self.reservations = reservations
        self.at = 0
        self.nodes = 0

    def error(self, what: str) -> ConfigError:
        return ConfigError(f"{self.name}: not a valid device tree: {what}")

    def block(self, what: str, offset: int, size: int) -> bytes:
        if offset > len(self.blob) or size > len(self.blob) - offset:
            raise self.error(f"the {what} block ({offset} + {size}) leaves the blob")
        return self.blob[offset : offset + size]

    def tree(self) -> Tree:
        reserved = self.read_reservations()
        if self.token() != BEGIN_NODE:
            raise self.error("the structure block does not begin with a node")
        root = self.node()
        if self.token() != END:
            raise self.error("something follows the root node")
        return Tree(root, reserved, self.boot_hart)

    def read_reservations(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        at = self.reservations
        while True:
            if at + 16 > len(self.blob):
                raise self.error("the memory reservations have no end")
            address, size = struct.unpack_from(">QQ", self.blob, at)
            if (address, size) == (0, 0):
                return found
            found.append((address, size))
            at += 16

    def word(self) -> int:
        if self.at + 4 > len(self.structure):
            raise self.error("the structure block ends too early")
        value: int = struct.unpack_from(">I", self.structure, self.at)[0]
        self.at += 4
        return value

    def token(self) -> int:
        while True:
            value = self.word()
            if value != NOP:
                return value

    def node(self) -> Node:
        """The root, whose BEGIN_NODE has been read, with all below it; no recursion."""
        open_nodes = [Node(self.node_name())]
        while True:
            current = open_nodes[-1]
            token = self.token()
            if token == BEGIN_NODE:
                if len(open_nodes) >= MAX_DEPTH or self.nodes >= MAX_NODES:
                    raise self.error("too many nodes, or nodes nested too deep")
                self.nodes += 1
                child = Node(self.node_name())
                current.children.append(child)
                open_nodes.append(child)
            elif token == PROP:
                self.property(current)
            elif token == END_NODE:
                open_nodes.pop()
                if not open_nodes:
                    self.check_names(current)
                    return current
            else:
                raise self.error(f"unknown token {token:#x} in node {current.name!r}")

    def check_names(self, root: Node) -> None:
        for node in root.walk():
            names = [child.name for child in node.children]
            if len(set(names)) != len(names):
                raise self.error(f"two children of node {node.name!r} have the same name")

    def node_name(self) -> str:
        name = self.string(self.structure, self.at, "a node's name")
        self.at += (len(name.encode()) + 4) & ~3
        return name

    def property(self, node: Node) -> None:
        length, at_name = self.word(), self.word()
        name = self.string(self.strings, at_name, "a property's name")
        if length > len(self.structure) - self.at:
            raise self.error(f"property {name!r} of {node.name!r} claims {length} bytes")
        if name in node.properties:
            raise self.error(f"node {node.name!r} has property {name!r} twice")
        node.properties[name] = self.structure[self.at : self.at + length]
        self.at += (length + 3) & ~3

    def string(self, block: bytes, at: int, what: str) -> str:
        end = block.find(b"\0", at) if at < len(block) else -1
        if end < 0:
            raise self.error(f"{what} has no end")
        try:
            return block[at:end].decode("ascii")
        except UnicodeDecodeError:
            raise self.error(f"{what} is not ASCII") from None
