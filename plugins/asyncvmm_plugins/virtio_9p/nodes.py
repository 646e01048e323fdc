"""What the guest has changed in a shared folder: files, folders and links that are its own."""

from __future__ import annotations

import base64
from typing import Any, Final

import attrs
from attrs.validators import and_, ge, in_, le, lt

from asyncvmm.plugin import VersionedState

FILE: Final = "file"
FOLDER: Final = "folder"
LINK: Final = "link"
FIFO: Final = "fifo"
SOCKET: Final = "socket"
KINDS: Final = (FILE, FOLDER, LINK, FIFO, SOCKET)

BLOCK: Final = 16 << 10
MAX_FILE: Final = 1 << 40
MAX_NUMBER: Final = 1 << 48
MAX_NAME: Final = 255
NODE_COST: Final = 512
NAME_COST: Final = 128


@attrs.define
class Node:
    """One file, folder or link as it is now. ``parent`` is a folder's.

    A file shows ``lower_size`` bytes of entry ``lower`` of the folder (-1 for none), under ``blocks`` of
    at most BLOCK bytes; zeros where there is neither. ``children`` are number and cookie by name, in the
    order of the cookies.
    """

    kind: str
    mode: int
    uid: int = 0
    gid: int = 0
    links: int = 1
    version: int = 0
    mtime_ns: int = 0
    size: int = 0
    lower: int = -1
    lower_size: int = 0
    parent: int = 0
    target: bytes = b""
    blocks: dict[int, bytes] = attrs.Factory(dict)
    children: dict[bytes, tuple[int, int]] = attrs.Factory(dict)

    @property
    def cost(self) -> int:
        """How much of the overlay it takes, in bytes."""
        names = sum(NAME_COST + len(name) for name in self.children)
        data = sum(NAME_COST + len(block) for block in self.blocks.values())
        return NODE_COST + len(self.target) + names + data


def _bounded(limit: int) -> Any:
    return and_(ge(0), lt(limit))


def _children(state: Any, attribute: Any, value: Any) -> None:
    last = 0
    seen = set()
    for item in value:
        name, number, cookie = item if isinstance(item, (list, tuple)) else ()
        data = bytes.fromhex(name)
        if not data or len(data) > MAX_NAME or b"/" in data or b"\0" in data:
            raise ValueError(f"a child is called {name!r}")
        if type(number) is not int or not 0 < number < MAX_NUMBER:
            raise ValueError(f"child {name!r} has number {number!r}")
        if type(cookie) is not int or not last < cookie < MAX_NUMBER or data in seen:
            raise ValueError(f"child {name!r} is out of order")
        seen.add(data)
        last = cookie


def _blocks(state: Any, attribute: Any, value: Any) -> None:
    last = -1
    for item in value:
        index, text = item if isinstance(item, (list, tuple)) else ()
        if type(index) is not int or not last < index < MAX_FILE // BLOCK:
            raise ValueError(f"block {index!r} is out of order")
        if len(base64.b64decode(text, validate=True)) > BLOCK:
            raise ValueError(f"block {index} is too long")
        last = index


@attrs.frozen
class NodeState(VersionedState):
    """A node of the overlay in a snapshot. Blocks are base64."""

    number: int = attrs.field(validator=_bounded(MAX_NUMBER))
    kind: str = attrs.field(validator=in_(KINDS))
    mode: int = attrs.field(validator=_bounded(0o10000))
    uid: int = attrs.field(validator=_bounded(1 << 32))
    gid: int = attrs.field(validator=_bounded(1 << 32))
    links: int = attrs.field(validator=_bounded(1 << 32))
    file_version: int = attrs.field(validator=_bounded(1 << 32))
    mtime_ns: int = attrs.field(validator=_bounded(1 << 100))
    size: int = attrs.field(validator=and_(ge(0), le(MAX_FILE)))
    lower: int = attrs.field(validator=and_(ge(-1), lt(MAX_NUMBER)))
    lower_size: int = attrs.field(validator=and_(ge(0), le(MAX_FILE)))
    parent: int = attrs.field(validator=_bounded(MAX_NUMBER))
    target: bytes
    blocks: tuple[Any, ...] = attrs.field(validator=_blocks)
    children: tuple[Any, ...] = attrs.field(validator=_children)

    @classmethod
    def of(cls, number: int, node: Node) -> NodeState:
        """What a snapshot keeps of ``node``."""
        return cls(
            number=number,
            kind=node.kind,
            mode=node.mode,
            uid=node.uid,
            gid=node.gid,
            links=node.links,
            file_version=node.version,
            mtime_ns=node.mtime_ns,
            size=node.size,
            lower=node.lower,
            lower_size=node.lower_size,
            parent=node.parent,
            target=node.target,
            blocks=tuple(
                (index, base64.b64encode(node.blocks[index]).decode())
                for index in sorted(node.blocks)
            ),
            children=tuple(
                (name.hex(), number, cookie) for name, (number, cookie) in node.children.items()
            ),
        )

    def node(self) -> Node:
        """The node that it was."""
        return Node(
            kind=self.kind,
            mode=self.mode,
            uid=self.uid,
            gid=self.gid,
            links=self.links,
            version=self.file_version,
            mtime_ns=self.mtime_ns,
            size=self.size,
            lower=self.lower,
            lower_size=self.lower_size,
            parent=self.parent,
            target=self.target,
            blocks={index: base64.b64decode(text) for index, text in self.blocks},
            children={
                bytes.fromhex(name): (number, cookie) for name, number, cookie in self.children
            },
        )
