"""A disk that is written in place and can still be looked at as it was.

Before a block is written for the first time since the last view, what it held is put aside for that
view; a view finds the rest in later views, and in the disk itself. Nothing is copied when a view is
taken, and nothing at all while there is none.
"""

from __future__ import annotations

from typing import Final

from asyncvmm.base.errors import BackendError
from asyncvmm.device import Blob

BLOCK_BYTES: Final = 65536


class ViewedBlob(Blob):
    """``image``, written in place. It is closed with the last of this and its views."""

    def __init__(self, image: Blob) -> None:
        super().__init__(image.size_bytes, image.read_only)
        self.image: Final = image
        self._views: list[ViewBlob] = []  # in the order in which they were taken
        self._users = 1
        self._closed = False

    def view(self) -> ViewBlob:
        """The contents as they are now, to be read for ever."""
        view = ViewBlob(self)
        self._users += 1
        self._views.append(view)
        return view

    def pread(self, offset: int, length: int) -> bytes:
        """See Blob."""
        return self.image.pread(offset, length)

    def pwrite(self, offset: int, data: bytes) -> None:
        """See Blob."""
        if self._views:
            self._put_aside(offset, len(data))
        self.image.pwrite(offset, data)

    def flush(self) -> None:
        """See Blob."""
        self.image.flush()

    def discard(self, offset: int, length: int) -> None:
        """See Blob."""
        if self._views:
            self._put_aside(offset, length)
        self.image.discard(offset, length)

    def write_zeroes(self, offset: int, length: int, may_unmap: bool = True) -> None:
        """See Blob."""
        if self._views:
            self._put_aside(offset, length)
        self.image.write_zeroes(offset, length, may_unmap)

    def close(self) -> None:
        """See Blob; views can be read still."""
        if not self._closed:
            self._closed = True
            self.leave()

    def leave(self) -> None:
        """One user less; the last one closes the image."""
        self._users -= 1
        if not self._users:
            self.image.close()

    def read_after(self, view: ViewBlob, block: int) -> bytes:
        """What a block held when ``view`` was taken, which has not put it aside itself."""
        for other in self._views[self._views.index(view) + 1 :]:
            if block in other.blocks:
                return other.blocks[block]
        return self._block(block)

    def _block(self, block: int) -> bytes:
        start = block * BLOCK_BYTES
        return self.image.pread(start, min(BLOCK_BYTES, self.size_bytes - start))

    def _put_aside(self, offset: int, length: int) -> None:
        newest = self._views[-1]
        if length <= 0:
            return
        for block in range(offset // BLOCK_BYTES, (offset + length - 1) // BLOCK_BYTES + 1):
            if block not in newest.blocks:
                newest.blocks[block] = self._block(block)

    def closing(self, view: ViewBlob) -> None:
        """``view`` goes: the one before it inherits what it lacks."""
        number = self._views.index(view)
        if number:
            before = self._views[number - 1]
            for block, data in view.blocks.items():
                before.blocks.setdefault(block, data)
        del self._views[number]
        self.leave()


class ViewBlob(Blob):
    """A disk as it was at one instant; read-only, and to be closed."""

    def __init__(self, disk: ViewedBlob) -> None:
        super().__init__(disk.size_bytes, True)
        self.blocks: Final[dict[int, bytes]] = {}
        self._disk = disk
        self._closed = False
        self._users = 1

    def enter(self) -> None:
        """One user more, who goes with ``leave``."""
        self._users += 1

    def leave(self) -> None:
        """One user less; with the last one the view goes."""
        self._users -= 1
        if not self._users:
            self._disk.closing(self)

    def pread(self, offset: int, length: int) -> bytes:
        """See Blob."""
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise BackendError(f"bytes {offset}+{length} are outside this view of a disk")
        parts: list[bytes] = []
        at, end = offset, offset + length
        while at < end:
            block, inside = divmod(at, BLOCK_BYTES)
            count = min(end - at, BLOCK_BYTES - inside)
            data = self.blocks.get(block)
            if data is None:
                data = self._disk.read_after(self, block)
            parts.append(data[inside : inside + count])
            at += count
        return b"".join(parts)

    def close(self) -> None:
        """See Blob; may be called again. Whoever entered reads on."""
        if not self._closed:
            self._closed = True
            self.leave()
