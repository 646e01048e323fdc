"""Where the clusters of the disk are in the file: L1 and L2 tables in memory."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from typing import Final

from asyncvmm.storage import layout
from asyncvmm.storage.errors import DamagedImageError, ImageError
from asyncvmm.storage.header import Header
from asyncvmm.storage.hostfile import HostFile
from asyncvmm.storage.refcounts import Refcounts
from asyncvmm.storage.words import words_bytes, words_from

CACHE_BYTES: Final = 16 << 20


class L2Table:
    """One L2 table; entries ``low`` to ``high`` differ from the file's."""

    def __init__(self, offset: int, words: array[int]) -> None:
        self.offset = offset
        self.words = words
        self.low = len(words)
        self.high = 0

    def touch(self, low: int, high: int) -> None:
        """Entries of this range are to be written."""
        self.low = min(self.low, low)
        self.high = max(self.high, high)


class Tables:
    """The active L1 table and a bounded number of L2 tables."""

    def __init__(self, file: HostFile, header: Header) -> None:
        self.file = file
        self.header = header
        self.geometry = header.geometry
        self.l1 = words_from(file.read_padded(header.l1_offset, header.l1_entries * 8))
        self._l1_dirty: set[int] = set()
        self._cache: OrderedDict[int, L2Table] = OrderedDict()
        self._most = max(4, CACHE_BYTES // self.geometry.cluster_bytes)
        self._dirty = 0

    def l2_offset(self, index: int) -> int:
        """Where the L2 table of an L1 entry is, 0 for none; DamagedImageError when it cannot be."""
        word = self.l1[index]
        offset = word & layout.OFFSET_MASK
        if word & layout.L1_RESERVED or offset % self.geometry.cluster_bytes:
            raise self._damaged(f"L1 entry {index}: {word:#x} is not an L2 table's place")
        return offset

    def check_l1(self, metadata: set[int]) -> None:
        """Add the L2 tables to ``metadata``; ImageError when one is no place of its own."""
        cluster = self.geometry.cluster_bytes
        for index, word in enumerate(self.l1):
            if not word:
                continue
            try:
                offset = self.l2_offset(index)
            except DamagedImageError as error:
                raise ImageError(str(error)) from None
            if not offset:
                continue
            if offset + cluster > self.geometry.clusters(self.file.size_bytes) * cluster:
                raise ImageError(
                    f"disk image {self.file.path}: L1 entry {index}: {offset:#x} is behind the end "
                    "of the file"
                )
            if offset // cluster in metadata:
                raise ImageError(
                    f"disk image {self.file.path}: L1 entry {index}: the cluster at {offset:#x} is "
                    "used for something else too (asyncvmm disk check --repair all)"
                )
            metadata.add(offset // cluster)

    def table(self, index: int) -> L2Table | None:
        """The L2 table of an L1 entry, None where there is none."""
        cached = self._cache.get(index)
        if cached is not None:
            self._cache.move_to_end(index)
            return cached
        if index >= len(self.l1):
            return None
        offset = self.l2_offset(index)
        if not offset:
            return None
        cluster = self.geometry.cluster_bytes
        data = self.file.read_some(offset, cluster)
        if len(data) < cluster:
            raise self._damaged(f"L1 entry {index}: the L2 table at {offset:#x} is cut off")
        return self._keep(index, L2Table(offset, words_from(data)))

    def _keep(self, index: int, table: L2Table) -> L2Table:
        if len(self._cache) >= self._most:
            clean = next((n for n, each in self._cache.items() if not each.high), None)
            if clean is not None:
                del self._cache[clean]
        self._cache[index] = table
        return table

    def entry(self, cluster: int) -> int:
        """The L2 entry of a cluster of the disk; 0 where there is none."""
        index, at = divmod(cluster, self.geometry.l2_entries)
        table = self.table(index)
        return 0 if table is None else self.checked(table.words[at], cluster)

    def checked(self, word: int, cluster: int) -> int:
        """The word itself; DamagedImageError when it cannot be an L2 entry of this image."""
        if word & layout.COMPRESSED:
            if self.geometry.compressed(word)[0] < layout.MAX_OFFSET:
                return word
        elif not (
            word & layout.L2_RESERVED
            or (word & layout.OFFSET_MASK) % self.geometry.cluster_bytes
            or (word & layout.ZERO and self.header.version < 3)
        ):
            return word
        raise self._damaged(f"L2 entry of cluster {cluster} of the disk: {word:#x} is not one")

    def _damaged(self, text: str) -> DamagedImageError:
        return DamagedImageError(
            f"disk image {self.file.path}: {text} (asyncvmm disk check --repair all)"
        )

    def set(self, cluster: int, word: int, refcounts: Refcounts) -> None:
        """Change an L2 entry; its table comes into being or is copied when it must."""
        index, at = divmod(cluster, self.geometry.l2_entries)
        table = self.writable(index, refcounts)
        table.words[at] = word
        if not table.high:
            self._dirty += 1
        table.touch(at, at + 1)

    def writable(self, index: int, refcounts: Refcounts) -> L2Table:
        """The L2 table of an L1 entry as one that nobody shares."""
        word = self.l1[index]
        if word & layout.COPIED:
            table = self.table(index)
            if table is not None:
                return table
        cluster = self.geometry.cluster_bytes
        shared = self.table(index)
        if shared is not None and refcounts.get(shared.offset // cluster) == 1:
            self._point(index, shared.offset)
            return shared
        new = refcounts.allocate()
        words = words_from(bytes(cluster)) if shared is None else shared.words[:]
        table = L2Table(new * cluster, words)
        if shared is not None:
            refcounts.release(shared.offset // cluster)
            del self._cache[index]
        refcounts.metadata.add(new)
        self._keep(index, table)
        table.touch(0, len(words))
        self._dirty += 1
        self._point(index, table.offset)
        return table

    def _point(self, index: int, offset: int) -> None:
        self.l1[index] = offset | layout.COPIED
        self._l1_dirty.add(index)

    @property
    def dirty(self) -> bool:
        """Whether ``write`` has anything to do."""
        return bool(self._dirty or self._l1_dirty)

    @property
    def full(self) -> bool:
        """Whether so much is to be written that it should be done now."""
        return self._dirty >= self._most // 2

    def write(self) -> None:
        """Write L2 tables, make them durable where L1 is to name new ones, and then write L1."""
        for table in self._cache.values():
            if table.high:
                data = words_bytes(table.words[table.low : table.high])
                self.file.write(table.offset + table.low * 8, data)
                table.low, table.high = len(table.words), 0
        self._dirty = 0
        if not self._l1_dirty:
            return
        self.file.sync()
        for index in sorted(self._l1_dirty):
            self.file.write(
                self.header.l1_offset + index * 8, words_bytes(self.l1[index : index + 1])
            )
        self._l1_dirty.clear()
