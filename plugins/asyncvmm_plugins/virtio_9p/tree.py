"""A shared folder as its guest sees it: what was captured on the host, under what the guest wrote.

Files have numbers, as inodes do, and are reached by number or by a name in a folder; there are no paths
here, and nothing in this module knows the host. Numbers of the captured folder are its entries', new ones
count on from there, so that they are the same in every run. Folders list what was captured by name,
then what came later in its order.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from typing import Final

from asyncvmm.base.errors import BackendError
from asyncvmm.device import Folder
from asyncvmm_plugins.virtio_9p.nodes import (
    BLOCK,
    FILE,
    FOLDER,
    LINK,
    MAX_FILE,
    MAX_NAME,
    MAX_NUMBER,
    NAME_COST,
    NODE_COST,
    Node,
    NodeState,
)

COOKIES: Final = 2  # "." and ".." come first


class Refused(Exception):
    """The guest gets this error; ``code`` is Linux's number."""

    def __init__(self, code: int) -> None:
        super().__init__(errno.errorcode.get(code, str(code)))
        self.code: Final = code


def checked_name(name: bytes) -> bytes:
    """A name for a new or an old file; Refused when none can be called so."""
    if len(name) > MAX_NAME:
        raise Refused(errno.ENAMETOOLONG)
    if not name or b"/" in name or b"\0" in name or name in (b".", b".."):
        raise Refused(errno.EINVAL)
    return name


class Tree:
    """``folder`` with an overlay of at most ``limit_bytes``; None for a read-only one.

    ``born_ns`` is the time of everything that was captured (Unix time, ns). Whoever uses a file beyond
    one call holds it with ``hold``, and it stays when its last name goes.
    """

    def __init__(self, folder: Folder, limit_bytes: int | None, born_ns: int) -> None:
        self.folder: Final = folder
        self.limit_bytes: Final = limit_bytes
        self.born_ns: Final = born_ns
        self.own: dict[int, Node] = {}
        self.used_bytes = 0
        self.next_number = len(folder.entries)
        self._held: dict[int, int] = {}

    # -- looking

    def node(self, number: int) -> Node:
        """File ``number``; not to be changed."""
        found = self.own.get(number)
        return found if found is not None else self._captured(number)

    def _captured(self, number: int) -> Node:
        entry = self.folder.entries[number]
        if entry.kind == FOLDER:
            return Node(
                FOLDER, 0o755, lower=number, parent=entry.parent, mtime_ns=self.born_ns, size=4096
            )
        if entry.kind == LINK:
            size = len(entry.target)
            return Node(LINK, 0o777, mtime_ns=self.born_ns, size=size, target=entry.target)
        size = entry.size_bytes
        mode = 0o755 if entry.executable else 0o644
        return Node(FILE, mode, mtime_ns=self.born_ns, size=size, lower=number, lower_size=size)

    def child(self, number: int, name: bytes) -> int:
        """The file of that name in folder ``number``; Refused when there is none."""
        own = self.own.get(number)
        if own is None:
            found = self.folder.child(number, name)
        else:
            found = own.children.get(name, (-1, 0))[0]
        if found < 0:
            raise Refused(errno.ENOENT)
        return found

    def listing(self, number: int, cookie: int) -> Iterator[tuple[bytes, int, int]]:
        """(name, number, cookie) of what follows ``cookie`` in a folder, in order."""
        if cookie < 1:
            yield b".", number, 1
        if cookie < 2:
            yield b"..", self.node(number).parent, 2
        own = self.own.get(number)
        if own is not None:
            for name, (child, mark) in own.children.items():
                if mark > cookie:
                    yield name, child, mark
            return
        entry = self.folder.entries[number]
        end = entry.first_child + entry.child_count
        for child in range(max(entry.first_child, cookie - COOKIES + 1), end):
            yield self.folder.entries[child].name, child, child + COOKIES

    def read(self, number: int, offset: int, count: int) -> bytes:
        """At most ``count`` bytes of a file; Refused with EIO when the host's file has changed."""
        node = self.node(number)
        end = min(node.size, offset + count)
        if offset >= end:
            return b""
        data = self._lower(node, offset, min(end, node.lower_size))
        if not node.blocks and len(data) == end - offset:
            return data
        image = bytearray(data.ljust(end - offset, b"\0"))
        for index in range(offset // BLOCK, (end - 1) // BLOCK + 1):
            block = node.blocks.get(index)
            if block is not None:
                # A short block goes on with zeros, whatever is under it.
                start = index * BLOCK - offset
                full = block.ljust(BLOCK, b"\0")
                low, high = max(start, 0), min(start + BLOCK, end - offset)
                image[low:high] = full[low - start : high - start]
        return bytes(image)

    def _lower(self, node: Node, offset: int, end: int) -> bytes:
        if offset >= end:
            return b""
        try:
            return self.folder.pread(node.lower, offset, end - offset)
        except BackendError:
            raise Refused(errno.EIO) from None

    # -- changing

    def change(self, number: int) -> Node:
        """File ``number``, the guest's own from now on; Refused in a read-only tree or a full one."""
        self.check_writable()
        found = self.own.get(number)
        if found is not None:
            return found
        node = self._captured(number)
        if node.kind == FOLDER:
            node.children = {
                name: (child, mark) for name, child, mark in self.listing(number, COOKIES)
            }
        self._charge(node.cost)
        self.own[number] = node
        return node

    def check_writable(self) -> None:
        """Refused when nothing may be changed."""
        if self.limit_bytes is None:
            raise Refused(errno.EROFS)

    def _charge(self, count: int) -> None:
        assert self.limit_bytes is not None
        if count > 0 and self.used_bytes + count > self.limit_bytes:
            raise Refused(errno.ENOSPC)
        self.used_bytes += count

    def _folder(self, number: int) -> Node:
        if self.node(number).kind != FOLDER:
            raise Refused(errno.ENOTDIR)
        return self.change(number)

    def _touch(self, node: Node, now_ns: int) -> None:
        node.mtime_ns = now_ns
        node.version = (node.version + 1) & 0xFFFFFFFF

    def _fresh(self) -> int:
        if self.next_number >= MAX_NUMBER - COOKIES:
            raise Refused(errno.ENOSPC)
        self.next_number += 1
        return self.next_number - 1

    def _enter(self, folder: Node, name: bytes, number: int, now_ns: int) -> None:
        """A new name; its cookie is later than all that were given out."""
        if folder.links == 0:
            raise Refused(errno.ENOENT)
        self._charge(NAME_COST + len(name))
        folder.children[name] = (number, self._fresh() + COOKIES)
        self._touch(folder, now_ns)

    def _leave(self, folder: Node, name: bytes, now_ns: int) -> None:
        del folder.children[name]
        self._charge(-NAME_COST - len(name))
        self._touch(folder, now_ns)

    def make(self, parent: int, name: bytes, node: Node, now_ns: int) -> int:
        """A new file, folder or link; its number."""
        self.check_writable()
        checked_name(name)
        folder = self._folder(parent)
        if name in folder.children:
            raise Refused(errno.EEXIST)
        if self.limit_bytes is not None and (
            self.used_bytes + node.cost + NAME_COST + len(name) > self.limit_bytes
        ):
            raise Refused(errno.ENOSPC)
        number = self._fresh()
        node.parent = parent
        node.mtime_ns = now_ns
        self._enter(folder, name, number, now_ns)
        self._charge(node.cost)
        self.own[number] = node
        return number

    def link(self, parent: int, name: bytes, number: int, now_ns: int) -> None:
        """Another name for a file."""
        checked_name(name)
        folder = self._folder(parent)
        if self.node(number).kind == FOLDER:
            raise Refused(errno.EPERM)
        if name in folder.children:
            raise Refused(errno.EEXIST)
        node = self.change(number)
        if node.links == 0:
            raise Refused(errno.ENOENT)
        self._enter(folder, name, number, now_ns)
        node.links += 1

    def unlink(self, parent: int, name: bytes, folder_wanted: bool, now_ns: int) -> None:
        """Take a name away: of a folder, which must be empty, or of something else."""
        checked_name(name)
        folder = self._folder(parent)
        number = self.child(parent, name)
        is_folder = self.node(number).kind == FOLDER
        if is_folder and not folder_wanted:
            raise Refused(errno.EISDIR)
        if folder_wanted and not is_folder:
            raise Refused(errno.ENOTDIR)
        if is_folder and next(self.listing(number, COOKIES), None) is not None:
            raise Refused(errno.ENOTEMPTY)
        self._drop_link(number)
        self._leave(folder, name, now_ns)

    def _drop_link(self, number: int) -> None:
        if number in self.own or number in self._held:
            self.change(number).links -= 1
            self._forget(number)

    def _forget(self, number: int) -> None:
        node = self.own.get(number)
        if node is not None and node.links == 0 and number not in self._held:
            self._charge(-node.cost)
            del self.own[number]

    def rename(self, parent: int, name: bytes, other: int, new: bytes, now_ns: int) -> None:
        """Move a name, over another file if one is there, as rename(2) does."""
        checked_name(name)
        checked_name(new)
        old_folder, new_folder = self._folder(parent), self._folder(other)
        number = self.child(parent, name)
        if (parent, name) == (other, new):
            return
        is_folder = self.node(number).kind == FOLDER
        if is_folder and number in self._above(other):
            raise Refused(errno.EINVAL)
        found = new_folder.children.get(new)
        if found is not None and found[0] == number:
            return  # two names of one file: both stay
        node = self.change(number)
        if found is not None:
            self._check_replaced(found[0], is_folder)
        elif new_folder.links == 0:
            raise Refused(errno.ENOENT)
        self._charge(len(new) + NAME_COST)  # so that nothing below fails half done
        self.used_bytes -= len(new) + NAME_COST
        if found is not None:
            self._drop_link(found[0])
            self._leave(new_folder, new, now_ns)
        self._enter(new_folder, new, number, now_ns)
        self._leave(old_folder, name, now_ns)
        node.parent = other

    def _check_replaced(self, number: int, by_folder: bool) -> None:
        kind = self.node(number).kind
        if kind == FOLDER:
            if not by_folder:
                raise Refused(errno.EISDIR)
            if next(self.listing(number, COOKIES), None) is not None:
                raise Refused(errno.ENOTEMPTY)
        elif by_folder:
            raise Refused(errno.ENOTDIR)
        if number in self._held:
            self.change(number)

    def _above(self, number: int) -> set[int]:
        """A folder and all that it is in."""
        found = {number}
        while number:
            number = self.node(number).parent
            if number in found:
                break
            found.add(number)
        return found

    def write(self, number: int, offset: int, data: bytes, now_ns: int) -> None:
        """Write ``data`` at ``offset``, all or nothing."""
        if offset + len(data) > MAX_FILE:
            raise Refused(errno.EFBIG)
        node = self.change(number)
        fresh: dict[int, bytes] = {}
        growth = 0
        done = 0
        while done < len(data):
            index, at = divmod(offset + done, BLOCK)
            piece = data[done : done + BLOCK - at]
            old = node.blocks.get(index)
            base = old
            if base is None:
                end = min(node.lower_size, (index + 1) * BLOCK)
                base = b"" if len(piece) == BLOCK else self._lower(node, index * BLOCK, end)
            fresh[index] = base[:at].ljust(at, b"\0") + piece + base[at + len(piece) :]
            growth += len(fresh[index]) - (len(old) if old is not None else -NAME_COST)
            done += len(piece)
        self._charge(growth)
        node.blocks.update(fresh)
        node.size = max(node.size, offset + len(data))
        self._touch(node, now_ns)

    def truncate(self, number: int, size: int, now_ns: int) -> None:
        """Make a file ``size`` bytes long."""
        if size > MAX_FILE:
            raise Refused(errno.EFBIG)
        node = self.change(number)
        if node.kind == FOLDER:
            raise Refused(errno.EISDIR)
        if node.kind != FILE:
            raise Refused(errno.EINVAL)
        before = node.cost
        node.lower_size = min(node.lower_size, size)
        last, rest = divmod(size, BLOCK)
        node.blocks = {
            index: block[:rest] if index == last else block
            for index, block in node.blocks.items()
            if index < last or (index == last and rest)
        }
        node.size = size
        self._charge(node.cost - before)
        self._touch(node, now_ns)

    # -- keeping

    def hold(self, number: int) -> None:
        """Somebody uses the file."""
        self._held[number] = self._held.get(number, 0) + 1

    def release(self, number: int) -> None:
        """Somebody does not any more."""
        left = self._held[number] - 1
        if left:
            self._held[number] = left
        else:
            del self._held[number]
            self._forget(number)

    def known(self, number: int) -> bool:
        """Whether there is a file of that number."""
        return number in self.own or 0 <= number < len(self.folder.entries)

    def states(self) -> tuple[NodeState, ...]:
        """The overlay for a snapshot."""
        return tuple(NodeState.of(number, self.own[number]) for number in sorted(self.own))

    def restore(self, states: Iterable[NodeState], next_number: int) -> None:
        """Have the overlay that ``states`` say (see ``problem``); nobody holds a file."""
        self.own = {state.number: state.node() for state in states}
        self.used_bytes = sum(node.cost for node in self.own.values())
        self.next_number = next_number
        self._held.clear()

    def problem(self, states: Iterable[NodeState], next_number: int) -> str:
        """What is wrong with a saved overlay; nothing when it can be restored."""
        nodes = {state.number: state for state in states}
        entries = self.folder.entries
        if next_number < len(entries) or (nodes and self.limit_bytes is None):
            return "it is of another folder"
        for number, node in nodes.items():
            if number >= next_number:
                return f"file {number} is not known yet"
            if node.lower >= 0 and (
                node.lower >= len(entries)
                or (node.kind == FILE and node.lower_size > entries[node.lower].size_bytes)
            ):
                return f"file {number} shows what is not there"
            if node.lower < 0 and node.lower_size:
                return f"file {number} shows what is not there"
            if node.kind == FOLDER and not self._is_folder(nodes, node.parent):
                return f"file {number} is in no folder"
            for _, child, cookie in node.children:
                if (child not in nodes and child >= len(entries)) or (
                    cookie >= next_number + COOKIES
                ):
                    return f"a child of {number} is not there"
        return ""

    def _is_folder(self, nodes: dict[int, NodeState], number: int) -> bool:
        if number in nodes:
            return nodes[number].kind == FOLDER
        entries = self.folder.entries
        return number < len(entries) and entries[number].kind == FOLDER

    @property
    def room_bytes(self) -> int:
        """What may still be written."""
        return 0 if self.limit_bytes is None else max(0, self.limit_bytes - self.used_bytes)


__all__ = ["NODE_COST", "Refused", "Tree", "checked_name"]
