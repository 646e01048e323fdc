"""A device tree as objects: nodes with properties, which are bytes underneath."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

Value = bytes | str | int | bool | None | Sequence[int] | Sequence[str]


def cells(*values: int) -> bytes:
    """Numbers as 32-bit big-endian cells."""
    return struct.pack(f">{len(values)}I", *(value & 0xFFFFFFFF for value in values))


def cells64(*values: int) -> bytes:
    """Numbers as 64-bit big-endian values (two cells each): ``reg`` with two address and size
    cells.
    """
    return struct.pack(f">{len(values)}Q", *values)


def split_cells(value: bytes) -> tuple[int, ...]:
    """The 32-bit cells of a property; bytes beyond a multiple of four are left out."""
    count = len(value) // 4
    return struct.unpack(f">{count}I", value[: 4 * count])


def encode(value: Value) -> bytes:
    """The bytes of a property given as a Python value.

    bytes as they are; str as a NUL-terminated string; a sequence of str as a string list; an int as
    one cell; a sequence of ints as cells; None and True as the empty value of a flag.
    """
    if isinstance(value, bytes):
        return value
    if value is None or value is True:
        return b""
    if value is False:
        raise ValueError("a false flag is an absent property")
    if isinstance(value, str):
        return value.encode() + b"\0"
    if isinstance(value, int):
        if not 0 <= value <= 0xFFFFFFFF:
            raise ValueError(f"{value:#x} does not fit in one cell: use cells64")
        return cells(value)
    parts = [encode(item) for item in value]
    return b"".join(parts)


class Node:
    """One node: ``name`` with its unit address, ``properties`` in order, ``children`` in order."""

    def __init__(self, name: str, **properties: Value) -> None:
        """Keyword names have ``_`` for ``-``, but for the standard ``device_type``; other names
        go through ``set``.
        """
        self.name = name
        self.properties: dict[str, bytes] = {}
        self.children: list[Node] = []
        for key, value in properties.items():
            self.set(key if key == "device_type" else key.replace("_", "-"), value)

    def set(self, name: str, value: Value) -> Node:
        """Set a property (see ``encode`` for the values) and return the node."""
        self.properties[name] = encode(value)
        return self

    def add(self, child: Node) -> Node:
        """Append a child and return the child; ValueError when its name is taken."""
        if any(other.name == child.name for other in self.children):
            raise ValueError(f"node {self.name!r} already has a child {child.name!r}")
        self.children.append(child)
        return child

    def child(self, name: str) -> Node | None:
        """The child called ``name`` exactly, or None."""
        return next((child for child in self.children if child.name == name), None)

    def walk(self) -> Iterator[Node]:
        """The node and all below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()

    def text(self, name: str) -> str | None:
        """A string property (the first string of a list), or None."""
        value = self.properties.get(name)
        if value is None or b"\0" not in value:
            return None
        return value.split(b"\0", 1)[0].decode(errors="replace")

    def number(self, name: str) -> int | None:
        """A property of one or two cells as a number, or None."""
        value = self.properties.get(name)
        return int.from_bytes(value, "big") if value is not None and len(value) in (4, 8) else None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Node):
            return NotImplemented
        return (
            self.name == other.name
            and self.properties == other.properties
            and self.children == other.children
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        counts = f"{len(self.properties)} properties, {len(self.children)} children"
        return f"<Node {self.name!r}: {counts}>"


class Tree:
    """A whole tree: the root, memory reservations (address, size) and the boot hart."""

    def __init__(
        self,
        root: Node | None = None,
        reservations: Iterable[tuple[int, int]] = (),
        boot_hart: int = 0,
    ) -> None:
        self.root = root if root is not None else Node("")
        self.reservations = list(reservations)
        self.boot_hart = boot_hart
        self._phandles = 0

    def phandle(self, node: Node) -> int:
        """The node's phandle; a new one (1, 2, 3, ...) is set when it has none."""
        existing = node.number("phandle")
        if existing is not None:
            return existing
        self._phandles += 1
        taken = {other.number("phandle") for other in self.root.walk()}
        while self._phandles in taken:
            self._phandles += 1
        node.set("phandle", self._phandles)
        return self._phandles

    def find(self, path: str) -> Node | None:
        """The node at an absolute ``path``, unit addresses included, or None."""
        node: Node | None = self.root
        for part in path.split("/"):
            if part and node is not None:
                node = node.child(part)
        return node

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tree):
            return NotImplemented
        return (
            self.root == other.root
            and self.reservations == other.reservations
            and self.boot_hart == other.boot_hart
        )

    __hash__ = None  # type: ignore[assignment]
