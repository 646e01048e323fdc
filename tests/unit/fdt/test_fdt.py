"""Device trees: round trip, hostile blobs, and dtc as oracle."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.base.errors import ConfigError
from asyncvmm.fdt import Node, Tree, cells, cells64, flatten, parse, to_source

names = st.text("abcdefgh0123456789,-@", min_size=1, max_size=12)
values = st.one_of(
    st.binary(max_size=40),
    st.text('abc XYZ"\\', min_size=1, max_size=10),
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 2**32 - 1), max_size=5),
    st.lists(st.text("abc", min_size=1), min_size=1, max_size=3),
    st.none(),
)


def build(name: str, properties: dict[str, object], children: list[Node]) -> Node:
    node = Node(name)
    for key, value in properties.items():
        node.set(key, value)  # type: ignore[arg-type]
    taken: set[str] = set()
    for child in children:
        if child.name not in taken:
            taken.add(child.name)
            node.add(child)
    return node


properties = st.dictionaries(names, values, max_size=5)
nodes = st.recursive(
    st.builds(build, names, properties, st.just([])),
    lambda below: st.builds(build, names, properties, st.lists(below, max_size=4)),
    max_leaves=12,
)
reservations = st.lists(st.tuples(st.integers(1, 2**64 - 1), st.integers(1, 2**64 - 1)), max_size=3)
trees = st.builds(
    lambda children, more, reserved, boot: Tree(build("", more, children), reserved, boot),
    st.lists(nodes, max_size=3),
    properties,
    reservations,
    st.integers(0, 2**32 - 1),
)


@settings(derandomize=True, deadline=None)
@given(tree=trees, spare=st.integers(0, 100))
def test_what_is_written_is_read_back(tree: Tree, spare: int) -> None:
    blob = flatten(tree, spare)
    assert parse(blob) == tree
    assert int.from_bytes(blob[4:8], "big") == len(blob)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(tree=trees, data=st.data())
def test_a_damaged_blob_is_a_config_error_that_names_the_file(
    tree: Tree, data: st.DataObject
) -> None:
    blob = bytearray(flatten(tree))
    if data.draw(st.booleans(), label="truncate"):
        del blob[data.draw(st.integers(0, len(blob) - 1), label="length") :]
    for _ in range(data.draw(st.integers(1, 4), label="changes")):
        if blob:
            blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    try:
        parse(bytes(blob), "board.dtb")
    except ConfigError as error:
        assert str(error).startswith("board.dtb: ")


def test_nesting_is_bounded() -> None:
    root = node = Node("")
    for _ in range(70):
        node = node.add(Node("a"))
    with pytest.raises(ConfigError, match="nested too deep"):
        parse(flatten(Tree(root)))


def test_values() -> None:
    node = Node("uart@10000000", compatible=["ns16550a", "ns16550"], reg=cells64(1, 2), flag=None)
    assert node.properties["compatible"] == b"ns16550a\0ns16550\0"
    assert node.properties["reg"] == cells(0, 1, 0, 2)
    assert node.properties["flag"] == b""
    assert node.text("compatible") == "ns16550a"
    assert Node("n", clock_frequency=7).number("clock-frequency") == 7
    with pytest.raises(ValueError, match="cells64"):
        Node("n", reg=1 << 32)


def test_phandles_are_given_once_and_avoid_taken_ones() -> None:
    tree = Tree()
    taken = tree.root.add(Node("a", phandle=1))
    fresh = tree.root.add(Node("b"))
    assert tree.phandle(taken) == 1
    assert tree.phandle(fresh) == 2
    assert tree.phandle(fresh) == 2
    assert tree.find("/b") is fresh
    assert tree.find("/b/none") is None


@pytest.mark.oracle
@pytest.mark.skipif(shutil.which("dtc") is None, reason="dtc is not installed")
def test_dtc_reads_the_blob_and_our_source_to_the_same_tree() -> None:
    tree = Tree(Node("", **{"#address-cells": 2, "#size-cells": 2}, compatible="vendor,board"))
    tree.reservations.append((0x80000000, 0x1000))
    chosen = tree.root.add(Node("chosen", bootargs='say "hi" \\ there', rng_seed=bytes(range(3))))
    chosen.set("linux,initrd-start", cells64(0x84000000))
    tree.root.add(Node("memory@80000000", device_type="memory", reg=cells64(0x80000000, 1 << 27)))

    def dtc(source: bytes, *form: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["dtc", *form, "-o", "-"], input=source, capture_output=True, check=True
        )

    read = dtc(flatten(tree), "-I", "dtb", "-O", "dtb")
    assert read.stderr == b""
    assert parse(read.stdout) == tree
    assert parse(dtc(to_source(tree).encode(), "-I", "dts", "-O", "dtb").stdout) == tree
