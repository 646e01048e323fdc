"""Who uses which cluster of the file: refcounts in memory, allocation, and writing them in order."""

from __future__ import annotations

import struct
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from asyncvmm.base.errors import BackendError
from asyncvmm.storage import layout
from asyncvmm.storage.errors import DamagedImageError, ImageError
from asyncvmm.storage.header import Header
from asyncvmm.storage.hostfile import HostFile
from asyncvmm.storage.words import counts_bytes, counts_from, words_bytes, words_from

CACHE_BYTES: Final = 8 << 20
_TABLE_FIELDS: Final = struct.Struct(">QI")
_TABLE_FIELDS_AT: Final = 48


class _Block:
    """One refcount block; entries ``low`` to ``high`` differ from the file's."""

    def __init__(self, counts: array[int]) -> None:
        self.counts = counts
        self.low = len(counts)
        self.high = 0

    def set(self, entry: int, count: int) -> None:
        self.counts[entry] = count
        self.low = min(self.low, entry)
        self.high = max(self.high, entry + 1)


class Refcounts:
    """Refcounts of an image that is written to. Clusters are named by their index in the file.

    ``write`` makes increments durable, before anything points at the clusters; what was released
    stays counted, so that nobody gets it, until ``settle`` after nothing in the file points at it
    any more. ``metadata`` are clusters that never hold a guest's data: whatever refcounts say, they
    are not given away.
    """

    def __init__(self, file: HostFile, header: Header, metadata: set[int]) -> None:
        self.file = file
        self.header = header
        self.metadata = metadata
        self.geometry = header.geometry
        self._order = header.refcount_order
        cluster = self.geometry.cluster_bytes
        self._table = words_from(
            file.read_padded(header.refcount_offset, header.refcount_clusters * cluster)
        )
        self._table_dirty: set[int] = set()
        self._moved = False
        self._blocks: OrderedDict[int, _Block] = OrderedDict()
        self._most_blocks = max(4, CACHE_BYTES // cluster)
        self._first_free = 0
        self._fresh: set[int] = (
            set()
        )  # allocated since the last flush: nothing in the file uses them
        self._released: list[int] = []
        first = header.refcount_offset // cluster
        metadata.update(range(first, first + header.refcount_clusters))
        for number, offset in enumerate(self._table):
            if offset:
                self._check_block(number, offset)
                metadata.add(offset // cluster)

    def _check_block(self, number: int, offset: int) -> None:
        cluster = self.geometry.cluster_bytes
        bad = ""
        if offset % cluster or offset >= min(layout.MAX_OFFSET, self.file.size_bytes):
            bad = "is not a cluster of the file"
        elif offset // cluster in self.metadata:
            bad = "is used for something else too"
        if bad:
            raise ImageError(
                f"disk image {self.file.path}: refcount table entry {number}: {offset:#x} {bad} "
                "(asyncvmm disk check --repair all)"
            )

    @property
    def dirty(self) -> bool:
        """Whether ``write`` or ``settle`` has anything to do."""
        return bool(
            self._released
            or self._table_dirty
            or self._moved
            or any(block.high for block in self._blocks.values())
        )

    @property
    def blocks(self) -> Iterator[int]:
        """Indices of the clusters that hold refcount blocks."""
        return (offset // self.geometry.cluster_bytes for offset in self._table if offset)

    def get(self, index: int) -> int:
        """The refcount of a cluster."""
        number, entry = divmod(index, self.geometry.block_entries)
        block = self._block(number)
        return 0 if block is None else block.counts[entry]

    def _block(self, number: int) -> _Block | None:
        block = self._blocks.get(number)
        if block is not None:
            self._blocks.move_to_end(number)
            return block
        if number >= len(self._table) or not self._table[number]:
            return None
        data = self.file.read_padded(self._table[number], self.geometry.cluster_bytes)
        return self._keep(number, _Block(counts_from(data, self._order)))

    def _keep(self, number: int, block: _Block) -> _Block:
        if len(self._blocks) >= self._most_blocks:
            clean = next((n for n, each in self._blocks.items() if not each.high), None)
            if clean is not None:
                del self._blocks[clean]
        self._blocks[number] = block
        return block

    def allocate(self) -> int:
        """The index of a cluster that nobody used; its refcount is 1 now."""
        index = self._first_free
        while True:
            number, entry = divmod(index, self.geometry.block_entries)
            block = self._need_block(number)
            try:
                entry = block.counts.index(0, entry)
            except ValueError:
                index = (number + 1) * self.geometry.block_entries
                continue
            index = number * self.geometry.block_entries + entry
            self._take(index)
            self._first_free = index + 1
            return index

    def allocate_run(self, count: int) -> int:
        """The first of ``count`` adjacent clusters that nobody used, behind all that is in the file."""
        first = self.geometry.clusters(self.file.size_bytes)
        index = first
        while index < first + count:
            self._need_block(index // self.geometry.block_entries)
            if self.get(index):
                first = index + 1
            index += 1
        for index in range(first, first + count):
            self._take(index)
        return first

    def _take(self, index: int) -> None:
        if index in self.metadata:
            raise DamagedImageError(
                f"disk image {self.file.path}: cluster {index} holds metadata and its refcount is 0 "
                "(asyncvmm disk check --repair all)"
            )
        if (index + 1) * self.geometry.cluster_bytes > layout.MAX_OFFSET:
            raise BackendError(f"disk image {self.file.path}: there is no free cluster left")
        self._set(index, 1)
        self._fresh.add(index)

    def _set(self, index: int, count: int) -> None:
        number, entry = divmod(index, self.geometry.block_entries)
        block = self._block(number)
        assert block is not None
        block.set(entry, count)

    def _need_block(self, number: int) -> _Block:
        """The block, which is made when there is none: it lies in the first cluster that it counts."""
        if number >= len(self._table):
            self._grow_table(number + 1)
        block = self._block(number)
        if block is not None:
            return block
        index = number * self.geometry.block_entries
        block = self._new_block(number, index)
        self._take(index)
        self.metadata.add(index)
        return block

    def _new_block(self, number: int, index: int) -> _Block:
        counts = counts_from(bytes(self.geometry.cluster_bytes), self._order)
        block = self._keep(number, _Block(counts))
        block.low, block.high = 0, len(counts)
        self._table[number] = index * self.geometry.cluster_bytes
        self._table_dirty.add(number)
        return block

    def _grow_table(self, wanted: int) -> None:
        """A larger table, and the blocks that count it, behind everything that the old one counts."""
        per_block, cluster = self.geometry.block_entries, self.geometry.cluster_bytes
        old = len(self._table)
        start = old * per_block
        table = -(-max(old + old // 2 + 1, wanted) * 8 // cluster)
        blocks = 1
        while True:
            while table + blocks > blocks * per_block:
                blocks += 1
            if table * cluster // 8 >= old + blocks:
                break
            table += 1
        if table * cluster > layout.MAX_REFCOUNT_TABLE_BYTES:
            raise BackendError(f"disk image {self.file.path}: the refcount table cannot grow more")
        for index in range(start, start + table + blocks):
            if index in self.metadata:
                raise DamagedImageError(
                    f"disk image {self.file.path}: cluster {index} holds metadata and is not counted"
                )
        before, header = self.header.refcount_offset // cluster, self.header
        released = range(before, before + header.refcount_clusters)
        self._table.extend([0] * (table * cluster // 8 - old))
        for number in range(blocks):
            self._new_block(old + number, start + table + number)
        for index in range(start, start + table + blocks):
            self._take(index)
            self.metadata.add(index)
        header.refcount_offset, header.refcount_clusters = start * cluster, table
        self._moved = True
        for index in released:
            self.release(index)

    def release(self, index: int) -> None:
        """Nothing in memory points at this cluster any more."""
        count = self.get(index)
        if count == 0:
            raise DamagedImageError(
                f"disk image {self.file.path}: cluster {index} is in use and its refcount is 0 "
                "(asyncvmm disk check --repair all)"
            )
        if index in self._fresh and count == 1:
            self._fresh.discard(index)
            self._free(index)
        else:
            self._released.append(index)

    def _free(self, index: int) -> None:
        self._set(index, 0)
        self.metadata.discard(index)
        self._first_free = min(self._first_free, index)

    def write(self) -> None:
        """Write counts that grew, so that a later ``sync`` makes them durable."""
        self._write_blocks()
        cluster = self.geometry.cluster_bytes
        if self._moved:
            # The new table is in the file before the header names it.
            offset = self.header.refcount_offset
            self.file.write(offset, words_bytes(self._table))
            self.file.sync()
            fields = _TABLE_FIELDS.pack(offset, len(self._table) * 8 // cluster)
            self.file.write(_TABLE_FIELDS_AT, fields)
        elif self._table_dirty:
            self.file.sync()
            for number in sorted(self._table_dirty):
                entry = words_bytes(self._table[number : number + 1])
                self.file.write(self.header.refcount_offset + number * 8, entry)
        self._moved = False
        self._table_dirty.clear()

    def point(self) -> None:
        """From now on the file may point at clusters that were allocated before."""
        self._fresh.clear()

    def settle(self) -> None:
        """The file does not point at what was released: let go of it."""
        freed: list[int] = []
        while self._released:
            index = self._released.pop()
            count = self.get(index)
            if count == 1:
                self._free(index)
                freed.append(index)
            elif count > 1:
                self._set(index, count - 1)
        self._write_blocks()
        self._punch(freed)

    def _punch(self, freed: list[int]) -> None:
        """Give the storage of freed clusters back to the host, adjacent ones at once."""
        cluster = self.geometry.cluster_bytes
        freed.sort()
        at = 0
        while at < len(freed):
            end = at + 1
            while end < len(freed) and freed[end] == freed[end - 1] + 1:
                end += 1
            self.file.punch(freed[at] * cluster, (end - at) * cluster)
            at = end

    def _write_blocks(self) -> None:
        per_byte = max(1, 8 >> self._order)
        for number, block in self._blocks.items():
            if not block.high:
                continue
            low = block.low // per_byte * per_byte
            high = -(-block.high // per_byte) * per_byte
            data = counts_bytes(block.counts[low:high], self._order)
            self.file.write(self._table[number] + (low << self._order) // 8, data)
            block.low, block.high = len(block.counts), 0
