"""Tree -> device tree source, as ``dtc`` prints and reads it."""

from __future__ import annotations

from asyncvmm.fdt.node import Node, Tree, split_cells


def to_source(tree: Tree) -> str:
    """The source text; properties whose type cannot be seen are printed as cells or bytes."""
    lines = ["/dts-v1/;", ""]
    lines += [f"/memreserve/ {address:#x} {size:#x};" for address, size in tree.reservations]
    _node(tree.root, 0, lines)
    return "\n".join(lines) + "\n"


def _node(node: Node, depth: int, lines: list[str]) -> None:
    indent = "\t" * depth
    lines.append(f"{indent}{node.name or '/'} {{")
    for name, value in node.properties.items():
        text = _value(value)
        lines.append(f"{indent}\t{name} = {text};" if text else f"{indent}\t{name};")
    for child in node.children:
        _node(child, depth + 1, lines)
    lines.append(f"{indent}}};")


def _value(value: bytes) -> str:
    if not value:
        return ""
    if _is_text(value):
        strings = value[:-1].split(b"\0")
        return ", ".join('"' + _escaped(string) + '"' for string in strings)
    if len(value) % 4 == 0:
        return "<" + " ".join(f"{cell:#x}" for cell in split_cells(value)) + ">"
    return "[" + value.hex(" ") + "]"


def _is_text(value: bytes) -> bool:
    if value[-1] != 0 or value[0] == 0 or b"\0\0" in value:
        return False
    return all(32 <= byte < 127 or byte == 0 for byte in value)


def _escaped(string: bytes) -> str:
    return string.decode().replace("\\", "\\\\").replace('"', '\\"')
