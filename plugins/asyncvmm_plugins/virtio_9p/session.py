"""One client of a shared folder: its fids, and what each 9P2000.L request does to the tree.

``answer`` takes a request's type and body and gives the answer's. Whatever the client sends, the answer is
a message: Rlerror with one of Linux's error numbers where something is wrong.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import Any, ClassVar, Final

import attrs
from attrs.validators import and_, ge, lt

from asyncvmm.plugin import VersionedState
from asyncvmm_plugins.virtio_9p import messages
from asyncvmm_plugins.virtio_9p.messages import MAX_WALK, NO_FID, Reader, packed
from asyncvmm_plugins.virtio_9p.nodes import FIFO, FILE, FOLDER, LINK, MAX_NUMBER, SOCKET, Node
from asyncvmm_plugins.virtio_9p.tree import Refused, Tree

MAX_FIDS: Final = 4096
MIN_MSIZE: Final = 4096
MAX_TARGET: Final = 4095
MAGIC: Final = 0x01021997  # V9FS_MAGIC
BASIC: Final = 0x7FF  # everything of a getattr but the birth time, generation and data version
AT_REMOVEDIR: Final = 0x200
NS: Final = 10**9

# open(2), as 9P2000.L numbers it.
O_ACCESS: Final = 3
O_RDONLY, O_WRONLY, O_RDWR = 0, 1, 2
O_TRUNC: Final = 0o1000
O_APPEND: Final = 0o2000
O_DIRECTORY: Final = 0o200000

# setattr.
A_MODE, A_UID, A_GID, A_SIZE, A_MTIME, A_MTIME_SET = 1, 2, 4, 8, 32, 256

TYPES: Final = {FILE: 0o100000, FOLDER: 0o040000, LINK: 0o120000, FIFO: 0o010000, SOCKET: 0o140000}
KINDS: Final = {number: kind for kind, number in TYPES.items()}
CLOSED: Final = -1


@attrs.frozen
class FidState(VersionedState):
    """A fid in a snapshot: which file it is, how it was opened (-1: not), and for which user."""

    fid: int = attrs.field(validator=and_(ge(0), lt(NO_FID)))
    number: int = attrs.field(validator=and_(ge(0), lt(MAX_NUMBER)))
    flags: int = attrs.field(validator=and_(ge(CLOSED), lt(1 << 32)))
    uid: int = attrs.field(validator=and_(ge(0), lt(1 << 32)))


@attrs.define
class Fid:
    """A file in use."""

    number: int
    uid: int
    flags: int = CLOSED


class Session:
    """Everything between two Tversion. ``now_ns`` gives Unix time; ``msize`` is 0 before the first."""

    def __init__(self, tree: Tree, max_msize: int, now_ns: Callable[[], int]) -> None:
        self.tree: Final = tree
        self.max_msize: Final = max_msize
        self.msize = 0
        self.fids: dict[int, Fid] = {}
        self._now_ns = now_ns
        self._room = 0

    def clear(self) -> None:
        """Nothing is open, no version is agreed."""
        for fid in self.fids.values():
            self.tree.release(fid.number)
        self.fids.clear()
        self.msize = 0

    def answer(self, kind: int, body: bytes, room: int) -> tuple[int, bytes]:
        """Type and body of the answer to a request; ``room`` is what the answer's body may have."""
        self._room = room
        handler = self._HANDLERS.get(kind)
        try:
            if handler is None or (self.msize == 0 and kind != messages.TVERSION):
                raise Refused(errno.EOPNOTSUPP)
            data = handler(self, Reader(body))
            if len(data) > room:
                raise Refused(errno.ENOBUFS)
        except Refused as refused:
            return messages.RLERROR, messages.error(refused.code)
        return kind + 1, data

    # -- fids

    def _fid(self, number: int) -> Fid:
        found = self.fids.get(number)
        if found is None:
            raise Refused(errno.EBADF)
        return found

    def _add(self, fid: int, number: int, uid: int) -> None:
        if fid in self.fids or fid == NO_FID:
            raise Refused(errno.EBADF)
        if len(self.fids) >= MAX_FIDS:
            raise Refused(errno.EMFILE)
        self.tree.hold(number)
        self.fids[fid] = Fid(number, uid)

    def _remove(self, fid: int) -> None:
        self.tree.release(self._fid(fid).number)
        del self.fids[fid]

    def _opened(self, number: int, write: bool) -> Fid:
        fid = self._fid(number)
        refused = O_RDONLY if write else O_WRONLY
        if fid.flags == CLOSED or fid.flags & O_ACCESS == refused:
            raise Refused(errno.EBADF)
        return fid

    def _qid(self, number: int) -> bytes:
        node = self.tree.node(number)
        kind = {FOLDER: messages.QT_FOLDER, LINK: messages.QT_LINK}.get(node.kind, 0)
        return struct.pack("<BIQ", kind, node.version, number + 1)

    # -- sessions

    def _version(self, reader: Reader) -> bytes:
        msize, version = reader.number(4), reader.text()
        self.clear()
        agreed = min(msize, self.max_msize)
        if version != messages.VERSION or agreed < MIN_MSIZE:
            return agreed.to_bytes(4, "little") + packed(b"unknown")
        self.msize = agreed
        return agreed.to_bytes(4, "little") + packed(version)

    def _attach(self, reader: Reader) -> bytes:
        fid, authentication = reader.numbers(4, 4)
        reader.text()
        wanted = reader.text()
        uid = reader.number(4)
        if authentication != NO_FID:
            raise Refused(errno.EINVAL)
        if wanted not in (b"", b"/"):
            raise Refused(errno.ENOENT)
        self._add(fid, 0, uid if uid != NO_FID else 0)
        return self._qid(0)

    def _nothing(self, reader: Reader) -> bytes:
        return b""

    def _clunk(self, reader: Reader) -> bytes:
        self._remove(reader.number(4))
        return b""

    def _remove_fid(self, reader: Reader) -> bytes:
        """Tremove lets go of the fid in any case; clients use Tunlinkat."""
        self._remove(reader.number(4))
        raise Refused(errno.EOPNOTSUPP)

    def _walk(self, reader: Reader) -> bytes:
        fid, new, count = reader.numbers(4, 4, 2)
        if count > MAX_WALK:
            raise Refused(errno.EINVAL)
        names = [reader.text() for _ in range(count)]
        start = self._fid(fid)
        if start.flags != CLOSED:
            raise Refused(errno.EBUSY)
        number = start.number
        qids: list[bytes] = []
        for name in names:
            try:
                number = self._step(number, name)
            except Refused:
                if not qids:
                    raise
                return len(qids).to_bytes(2, "little") + b"".join(qids)
            qids.append(self._qid(number))
        if new == fid:
            self.tree.hold(number)
            self.tree.release(start.number)
            start.number = number
        else:
            self._add(new, number, start.uid)
        return len(qids).to_bytes(2, "little") + b"".join(qids)

    def _step(self, number: int, name: bytes) -> int:
        node = self.tree.node(number)
        if node.kind != FOLDER:
            raise Refused(errno.ENOTDIR)
        if name == b"..":
            return node.parent
        if name == b".":
            return number
        return self.tree.child(number, name)

    # -- looking

    def _getattr(self, reader: Reader) -> bytes:
        number = self._fid(reader.number(4)).number
        reader.number(8)
        node = self.tree.node(number)
        seconds, rest = divmod(node.mtime_ns, NS)
        return (
            struct.pack("<Q", BASIC)
            + self._qid(number)
            + struct.pack(
                "<III5Q",
                TYPES[node.kind] | node.mode,
                node.uid,
                node.gid,
                node.links,
                0,
                node.size,
                4096,
                -(-node.size // 512),
            )
            + struct.pack("<QQ", seconds, rest) * 3
            + bytes(32)
        )

    def _statfs(self, reader: Reader) -> bytes:
        self._fid(reader.number(4))
        free = self.tree.room_bytes // 4096
        total = sum(entry.size_bytes for entry in self.tree.folder.entries) // 4096 + free
        count = len(self.tree.folder.entries)
        return struct.pack("<IIQQQQQQI", MAGIC, 4096, total, free, free, count + free, free, 0, 255)

    def _readlink(self, reader: Reader) -> bytes:
        node = self.tree.node(self._fid(reader.number(4)).number)
        if node.kind != LINK:
            raise Refused(errno.EINVAL)
        return packed(node.target)

    def _count(self, count: int) -> int:
        """How much data fits into the message and into the buffers that are there for it."""
        return max(0, min(count, self.msize - messages.DATA_BYTES, self._room - 4))

    def _readdir(self, reader: Reader) -> bytes:
        fid, offset, count = reader.numbers(4, 8, 4)
        opened = self._opened(fid, False)
        if self.tree.node(opened.number).kind != FOLDER:
            raise Refused(errno.ENOTDIR)
        left = self._count(count)
        parts: list[bytes] = []
        for name, number, cookie in self.tree.listing(opened.number, offset):
            kind = TYPES[self.tree.node(number).kind] >> 12
            entry = self._qid(number) + struct.pack("<QB", cookie, kind) + packed(name)
            left -= len(entry)
            if left < 0:
                if not parts:
                    raise Refused(errno.EINVAL)
                break
            parts.append(entry)
        data = b"".join(parts)
        return len(data).to_bytes(4, "little") + data

    def _read(self, reader: Reader) -> bytes:
        fid, offset, count = reader.numbers(4, 8, 4)
        opened = self._opened(fid, False)
        if self.tree.node(opened.number).kind == FOLDER:
            raise Refused(errno.EISDIR)
        data = self.tree.read(opened.number, offset, self._count(count))
        return len(data).to_bytes(4, "little") + data

    # -- changing

    def _open(self, reader: Reader) -> bytes:
        number, flags = reader.numbers(4, 4)
        fid = self._fid(number)
        if fid.flags != CLOSED:
            raise Refused(errno.EBUSY)
        kind = self.tree.node(fid.number).kind
        writes = flags & O_ACCESS != O_RDONLY or flags & O_TRUNC
        if kind == FOLDER and writes:
            raise Refused(errno.EISDIR)
        if kind != FOLDER and flags & O_DIRECTORY:
            raise Refused(errno.ENOTDIR)
        if kind not in (FOLDER, FILE):
            raise Refused(errno.ELOOP if kind == LINK else errno.ENXIO)
        if writes:
            self.tree.check_writable()
        if flags & O_TRUNC:
            self.tree.truncate(fid.number, 0, self._now_ns())
        fid.flags = flags
        return self._qid(fid.number) + bytes(4)

    def _create(self, reader: Reader) -> bytes:
        number, name, flags = reader.number(4), reader.text(), reader.number(4)
        mode, gid = reader.numbers(4, 4)
        fid = self._fid(number)
        if fid.flags != CLOSED:
            raise Refused(errno.EBUSY)
        node = Node(FILE, mode & 0o7777, fid.uid, gid)
        made = self.tree.make(fid.number, name, node, self._now_ns())
        self.tree.hold(made)
        self.tree.release(fid.number)
        fid.number, fid.flags = made, flags & ~O_TRUNC
        return self._qid(made) + bytes(4)

    def _symlink(self, reader: Reader) -> bytes:
        fid, name, target = self._fid(reader.number(4)), reader.text(), reader.text()
        gid = reader.number(4)
        if not target or len(target) > MAX_TARGET or b"\0" in target:
            raise Refused(errno.EINVAL)
        node = Node(LINK, 0o777, fid.uid, gid, size=len(target), target=target)
        return self._qid(self.tree.make(fid.number, name, node, self._now_ns()))

    def _mknod(self, reader: Reader) -> bytes:
        fid, name = self._fid(reader.number(4)), reader.text()
        mode, _, _, gid = reader.numbers(4, 4, 4, 4)
        kind = KINDS.get(mode & 0o170000, "") if mode & 0o170000 else FILE
        if kind not in (FILE, FIFO, SOCKET):
            raise Refused(errno.EPERM)  # no devices, whoever asks
        node = Node(kind, mode & 0o7777, fid.uid, gid)
        return self._qid(self.tree.make(fid.number, name, node, self._now_ns()))

    def _mkdir(self, reader: Reader) -> bytes:
        fid, name = self._fid(reader.number(4)), reader.text()
        mode, gid = reader.numbers(4, 4)
        node = Node(FOLDER, mode & 0o7777, fid.uid, gid, size=4096)
        return self._qid(self.tree.make(fid.number, name, node, self._now_ns()))

    def _write(self, reader: Reader) -> bytes:
        number, offset, count = reader.numbers(4, 8, 4)
        data = reader.rest()
        fid = self._opened(number, True)
        if len(data) < count:
            raise Refused(errno.EINVAL)
        if fid.flags & O_APPEND:
            offset = self.tree.node(fid.number).size
        self.tree.write(fid.number, offset, data[:count], self._now_ns())
        return count.to_bytes(4, "little")

    def _setattr(self, reader: Reader) -> bytes:
        number, valid, mode, uid, gid, size = reader.numbers(4, 4, 4, 4, 4, 8)
        _, _, seconds, rest = reader.numbers(8, 8, 8, 8)
        number = self._fid(number).number
        now_ns = self._now_ns()
        if valid & A_SIZE:
            self.tree.truncate(number, size, now_ns)
        node = self.tree.change(number)
        if valid & A_MODE:
            node.mode = mode & 0o7777
        if valid & A_UID:
            node.uid = uid
        if valid & A_GID:
            node.gid = gid
        if valid & A_MTIME:
            given = (seconds & (1 << 63) - 1) * NS + rest % NS
            node.mtime_ns = given if valid & A_MTIME_SET else now_ns
        return b""

    def _link(self, reader: Reader) -> bytes:
        folder, fid = reader.numbers(4, 4)
        name = reader.text()
        number = self._fid(fid).number
        self.tree.link(self._fid(folder).number, name, number, self._now_ns())
        return b""

    def _rename(self, reader: Reader) -> bytes:
        folder, name = self._fid(reader.number(4)).number, reader.text()
        other, new = self._fid(reader.number(4)).number, reader.text()
        self.tree.rename(folder, name, other, new, self._now_ns())
        return b""

    def _unlink(self, reader: Reader) -> bytes:
        folder, name = self._fid(reader.number(4)).number, reader.text()
        wanted = reader.number(4) & AT_REMOVEDIR != 0
        self.tree.unlink(folder, name, wanted, self._now_ns())
        return b""

    def _fsync(self, reader: Reader) -> bytes:
        self._fid(reader.number(4))
        return b""

    # -- locks: a guest has its share for itself, so whoever asks gets them

    def _lock(self, reader: Reader) -> bytes:
        self._fid(reader.number(4))
        return b"\0"

    def _getlock(self, reader: Reader) -> bytes:
        self._fid(reader.number(4))
        _, start, length, process = reader.numbers(1, 8, 8, 4)
        return b"\2" + struct.pack("<QQI", start, length, process) + packed(reader.text())

    _HANDLERS: ClassVar[dict[int, Callable[[Session, Reader], bytes]]] = {
        8: _statfs,
        12: _open,
        14: _create,
        16: _symlink,
        18: _mknod,
        22: _readlink,
        24: _getattr,
        26: _setattr,
        40: _readdir,
        50: _fsync,
        52: _lock,
        54: _getlock,
        70: _link,
        72: _mkdir,
        74: _rename,
        76: _unlink,
        messages.TVERSION: _version,
        104: _attach,
        108: _nothing,  # requests are answered in order: what is flushed was answered
        110: _walk,
        116: _read,
        messages.TWRITE: _write,
        120: _clunk,
        122: _remove_fid,
    }

    # -- snapshots

    def states(self) -> tuple[FidState, ...]:
        """All fids for a snapshot."""
        return tuple(
            FidState(number, fid.number, fid.flags, fid.uid) for number, fid in self.fids.items()
        )

    def restore(self, msize: int, states: Any) -> None:
        """Have these fids; the tree was restored before."""
        self.msize = msize
        self.fids = {state.fid: Fid(state.number, state.uid, state.flags) for state in states}
        for fid in self.fids.values():
            self.tree.hold(fid.number)
