"""``fuzz_one``: a share of either kind, and messages made of ``data``: never an exception."""

from __future__ import annotations

import struct

from asyncvmm.device import MemoryFolder
from asyncvmm_plugins.virtio_9p.session import Session
from asyncvmm_plugins.virtio_9p.tree import Tree

FOLDER = MemoryFolder(
    {"a": b"x" * 5000, "s/b": b"yy", "s/t/c": b"", "l": "/etc/passwd", "m": "../.."}
)
NAMES = (b"a", b"s", b"b", b"t", b"c", b"l", b"n", b"o", b"..", b".", b"", b"/", b"x" * 300, b"a\0")
# The fields of each request: f fid, n name, s string, 1 2 4 8 numbers, d data, w names of a walk.
FORMS = {
    8: "f", 12: "f4", 14: "fn444", 16: "fns4", 18: "fn4444", 20: "ffn", 22: "f", 24: "f8",
    26: "f444488888", 30: "ffn", 32: "fn84", 40: "f84", 50: "f4", 52: "f14884s", 54: "f1884s",
    70: "ffn", 72: "fn44", 74: "fnfn", 76: "fn4", 100: "4v", 102: "fss4", 104: "ffss4", 108: "2",
    110: "ffw", 116: "f84", 118: "f84d", 120: "f", 122: "f",
}  # fmt: skip
KINDS = tuple(FORMS)
NUMBERS = (
    0,
    1,
    2,
    3,
    0x200,
    0o1102,
    0o40755,
    4095,
    4096,
    16384,
    20000,
    0xFFFF,
    1 << 31,
    -1,
    1 << 62,
)


class _Bytes:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self) -> int:
        self.at += 1
        return self.data[self.at - 1] if self.at <= len(self.data) else 0

    def string(self, value: bytes) -> bytes:
        return struct.pack("<H", len(value)) + value

    def field(self, form: str) -> bytes:
        if form == "f":
            pick = self.take()
            return (pick % 8 if pick < 250 else 0xFFFFFFFF).to_bytes(4, "little")
        if form == "n":
            return self.string(NAMES[self.take() % len(NAMES)])
        if form == "s":
            return self.string(self.data[self.at : self.at + self.take() % 16])
        if form == "v":
            return self.string(b"9P2000.L" if self.take() % 8 else b"9P2000.u")
        if form == "w":
            count = self.take() % 18
            return struct.pack("<H", count) + b"".join(self.field("n") for _ in range(count))
        if form == "d":
            return bytes([self.take()]) * (self.take() * 40)
        size = int(form)
        number = NUMBERS[self.take() % len(NUMBERS)] + self.take() % 4
        return (number & ((1 << 8 * size) - 1)).to_bytes(size, "little")


def fuzz_one(data: bytes) -> None:
    """AssertionError when the share breaks one of its promises; anything else is a bug, too."""
    source = _Bytes(data)
    first = source.take()
    limit = None if first & 1 else 20_000
    tree = Tree(FOLDER, limit, 10**18)
    session = Session(tree, 8192, lambda: 10**18 + source.at)
    if first & 2:
        session.answer(100, struct.pack("<I", 8192) + source.string(b"9P2000.L"), 8185)
        session.answer(104, struct.pack("<II", 0, 0xFFFFFFFF) + bytes(8), 8185)
    while source.at < len(data):
        pick = source.take()
        kind = KINDS[pick % len(KINDS)] if pick < 240 else source.take()
        body = b"".join(source.field(form) for form in FORMS.get(kind, "s"))
        cut = source.take()
        if cut > 240:
            body = body[: len(body) * (cut - 240) // 16]
        room = 8185 if cut & 7 else 4 + cut
        answer, result = session.answer(kind, body, room)
        assert answer in (7, kind + 1) and len(result) <= room
    assert tree.used_bytes == sum(node.cost for node in tree.own.values()) <= (limit or 0)
    assert len(session.fids) <= 4096
    states = tree.states()
    assert tree.problem(states, tree.next_number) == ""
    copy = Tree(FOLDER, limit, 10**18)
    again = Session(copy, 8192, lambda: 0)
    copy.restore(states, tree.next_number)
    again.restore(session.msize, session.states())
    assert copy.states() == states and copy.used_bytes == tree.used_bytes
    again.clear()
    session.clear()
    assert copy.states() == tree.states()
    assert all(node.links for node in tree.own.values())
