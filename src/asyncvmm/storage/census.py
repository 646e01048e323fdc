"""Counting who uses each cluster of a qcow2 image, and comparing that with its refcounts."""

from __future__ import annotations

from array import array
from collections import defaultdict
from pathlib import Path
from typing import Final

import attrs

from asyncvmm.storage import layout
from asyncvmm.storage.errors import ImageError
from asyncvmm.storage.header import Header, read_header
from asyncvmm.storage.hostfile import HostFile
from asyncvmm.storage.progress import Progress, silent
from asyncvmm.storage.snapshots import Snapshot, read_snapshots
from asyncvmm.storage.words import counts_from, words_from

MAX_FINDINGS: Final = 100
DENSE_CLUSTERS: Final = 1 << 20


@attrs.define
class CheckReport:
    """``errors`` can lose data, ``leaks`` are clusters that nobody uses and that are not free.

    ``findings`` says where, for the first hundred. ``repaired`` counts what a repair has changed.
    """

    path: Path
    format: str
    size_bytes: int
    cluster_bytes: int = 0
    errors: int = 0
    leaks: int = 0
    repaired: int = 0
    dirty: bool = False
    corrupt: bool = False
    total_clusters: int = 0
    allocated_clusters: int = 0
    compressed_clusters: int = 0
    fragmented_clusters: int = 0
    end_bytes: int = 0
    findings: list[str] = attrs.field(factory=list)

    @property
    def clean(self) -> bool:
        """Neither errors nor leaks."""
        return not (self.errors or self.leaks or self.dirty or self.corrupt)

    def error(self, text: str) -> None:
        """Note an error."""
        self.errors += 1
        self.note(f"error: {text}")

    def note(self, text: str) -> None:
        """Note something, while there is room."""
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(text)


class Counts:
    """How often each cluster of the file is used.

    An array, or a table of those that are used when the file is mostly holes: what a count takes goes
    by what is really in the file.
    """

    def __init__(self, clusters: int, allocated: int) -> None:
        dense = clusters <= max(DENSE_CLUSTERS, 4 * allocated)
        self._dense = array("Q", [0]) * clusters if dense else array("Q")
        self._sparse: defaultdict[int, int] = defaultdict(int)
        self.end = 0

    def add(self, index: int, weight: int) -> None:
        """Used ``weight`` times more."""
        if index < len(self._dense):
            self._dense[index] += weight
        else:
            self._sparse[index] += weight
        if index >= self.end:
            self.end = index + 1

    def get(self, index: int) -> int:
        """How often it is used."""
        return self._dense[index] if index < len(self._dense) else self._sparse.get(index, 0)

    def by_block(self, per_block: int) -> dict[int, dict[int, int]]:
        """Refcount block -> entry in it -> count, of used clusters only."""
        blocks: dict[int, dict[int, int]] = {}
        for first in range(0, len(self._dense), per_block):
            part = self._dense[first : first + per_block]
            if part.count(0) != len(part):
                used = {entry: count for entry, count in enumerate(part) if count}
                blocks[first // per_block] = used
        for index, count in self._sparse.items():
            number, entry = divmod(index, per_block)
            blocks.setdefault(number, {})[entry] = count
        return blocks


class Census:
    """Reads all tables of an image once and counts. Entries that cannot be go to ``bad_l1`` and
    ``bad_l2`` with the offset in the file at which they are.
    """

    def __init__(self, file: HostFile, progress: Progress = silent) -> None:
        self.file = file
        self.header: Header = read_header(file)
        self.geometry = self.header.geometry
        self.snapshots: list[Snapshot]
        self.snapshots, self._table_bytes = read_snapshots(file, self.header)
        self.report = CheckReport(
            file.path, "qcow2", self.header.size_bytes, self.geometry.cluster_bytes
        )
        self.file_clusters = self.geometry.clusters(file.size_bytes)
        allocated = self.geometry.clusters(file.allocated_bytes)
        self.counts = Counts(self.file_clusters, allocated)
        self.refcount_clusters: list[int] = []
        self.bad_l1: list[int] = []
        self.bad_l2: list[int] = []
        self.active_l2: dict[int, int] = {}  # L2 offset -> L1 index
        self._progress = progress
        self._last_offset = 0

    def count(self) -> None:
        """Everything but the refcount structure itself."""
        report = self.report
        report.dirty = bool(self.header.incompatible & layout.DIRTY)
        report.corrupt = bool(self.header.incompatible & layout.CORRUPT)
        report.total_clusters = self.geometry.clusters(self.header.size_bytes)
        self._use(0, self.geometry.cluster_bytes)
        self._use(self.header.snapshots_offset, self._table_bytes)
        self._use_bitmaps()
        l1_tables: defaultdict[tuple[int, int], int] = defaultdict(int)
        l1_tables[self.header.l1_offset, self.header.l1_entries] += 1
        for each in self.snapshots:
            l1_tables[each.l1_offset, each.l1_entries] += 1
        l2_tables: defaultdict[int, int] = defaultdict(int)
        for (offset, entries), weight in l1_tables.items():
            self._use(offset, entries * 8, weight)
            active = offset == self.header.l1_offset and entries == self.header.l1_entries
            self._count_l1(offset, entries, weight, active, l2_tables)
        for number, (offset, weight) in enumerate(l2_tables.items()):
            self._use(offset, self.geometry.cluster_bytes, weight)
            self._count_l2(offset, weight, offset in self.active_l2)
            self._progress(number + 1, len(l2_tables))

    def _use(self, offset: int, length: int, weight: int = 1) -> None:
        bits = self.header.cluster_bits
        if length:
            for index in range(offset >> bits, ((offset + length - 1) >> bits) + 1):
                self.counts.add(index, weight)

    def _use_bitmaps(self) -> None:
        for each in self.header.extensions:
            if each.kind == layout.EXT_BITMAPS and self.header.autoclear & layout.BITMAPS:
                raise ImageError(
                    f"disk image {self.file.path}: has persistent bitmaps: "
                    "checking them is not supported"
                )

    def _outside(self, offset: int) -> bool:
        return offset & (self.geometry.cluster_bytes - 1) != 0 or not (
            0 < offset >> self.header.cluster_bits < self.file_clusters
        )

    def _count_l1(
        self, offset: int, entries: int, weight: int, active: bool, l2_tables: dict[int, int]
    ) -> None:
        words = words_from(self.file.read_padded(offset, entries * 8))
        for index, word in enumerate(words):
            if not word:
                continue
            where = word & layout.OFFSET_MASK
            if word & layout.L1_RESERVED or self._outside(where):
                self.report.error(f"L1 table at {offset:#x}, entry {index}: {word:#x}")
                self.bad_l1.append(offset + index * 8)
                continue
            if active:
                if where in self.active_l2:
                    self.report.error(
                        f"L1 entries {self.active_l2[where]} and {index} share the L2 table at "
                        f"{where:#x}"
                    )
                    self.bad_l1.append(offset + index * 8)
                    continue
                self.active_l2[where] = index
            l2_tables[where] += weight

    def _count_l2(self, offset: int, weight: int, active: bool) -> None:
        words = words_from(self.file.read_padded(offset, self.geometry.cluster_bytes))
        bits, report = self.header.cluster_bits, self.report
        most = self.geometry.cluster_bytes - 1
        for index, word in enumerate(words):
            if not word:
                continue
            if word & layout.COMPRESSED:
                where, length = self.geometry.compressed(word)
                last = (where + length - 1) >> bits
                if where >> bits >= self.file_clusters or where == 0 or last > self.file_clusters:
                    self._bad(offset, index, word)
                    continue
                for cluster in range(where >> bits, last + 1):
                    self.counts.add(cluster, weight)
                if active:
                    report.compressed_clusters += 1
                    report.allocated_clusters += 1
                    report.fragmented_clusters += 1
                continue
            where = word & layout.OFFSET_MASK
            if word & layout.L2_RESERVED or (word & layout.ZERO and self.header.version < 3):
                self._bad(offset, index, word)
                continue
            if not where:
                if word & layout.COPIED:
                    self._bad(offset, index, word)
                continue
            if where & most or where >> bits >= self.file_clusters:
                self._bad(offset, index, word)
                continue
            self.counts.add(where >> bits, weight)
            if active:
                report.allocated_clusters += 1
                if self._last_offset and where != self._last_offset + most + 1:
                    report.fragmented_clusters += 1
                self._last_offset = where

    def _bad(self, offset: int, index: int, word: int) -> None:
        self.report.error(f"L2 table at {offset:#x}, entry {index}: {word:#x} is not possible")
        self.bad_l2.append(offset + index * 8)

    def compare(self) -> bool:
        """Count the refcount structure and compare it with the rest; False when it is broken itself."""
        header, report, geometry = self.header, self.report, self.geometry
        table_bytes = header.refcount_clusters * geometry.cluster_bytes
        self._use(header.refcount_offset, table_bytes)
        table = words_from(self.file.read_padded(header.refcount_offset, table_bytes))
        broken = False
        seen: set[int] = set()
        for number, offset in enumerate(table):
            if not offset:
                continue
            if self._outside(offset) or offset in seen:
                report.error(f"refcount table entry {number}: {offset:#x}")
                broken = True
                table[number] = 0
                continue
            seen.add(offset)
            self._use(offset, geometry.cluster_bytes)
        self._compare_blocks(table)
        self._compare_flags(table)
        report.end_bytes = self.counts.end * geometry.cluster_bytes
        return not broken

    def _compare_blocks(self, table: array[int]) -> None:
        per_block = self.geometry.block_entries
        used = self.counts.by_block(per_block)
        present = {number for number, offset in enumerate(table) if offset}
        for number in sorted(present | used.keys()):
            first, wanted = number * per_block, used.get(number, {})
            if number not in present:
                for entry, real in wanted.items():
                    self._differs(first + entry, 0, real)
                continue
            counted = self.block(table, number)
            if _same(counted, wanted):
                continue
            for entry, count in enumerate(counted):
                real = wanted.get(entry, 0)
                if count != real:
                    self._differs(first + entry, count, real)

    def block(self, table: array[int], number: int) -> array[int]:
        """The counts of a block, all zeros for one that is not there."""
        cluster = self.geometry.cluster_bytes
        offset = table[number] if number < len(table) else 0
        data = self.file.read_padded(offset, cluster) if offset else bytes(cluster)
        return counts_from(data, self.header.refcount_order)

    def _differs(self, index: int, counted: int, real: int) -> None:
        text = f"cluster {index}: its refcount is {counted} and it is used {real} times"
        if counted > real:
            self.report.leaks += 1
            self.report.note(f"leak: {text}")
        else:
            self.report.error(text)

    def _compare_flags(self, table: array[int]) -> None:
        """Where the flag says "not shared" of what is shared, a write would show in a snapshot."""
        header = self.header
        words = words_from(self.file.read_padded(header.l1_offset, header.l1_entries * 8))
        for index, word in enumerate(words):
            where = word & layout.OFFSET_MASK
            if self.active_l2.get(where) != index:
                continue
            self._flag(word, f"L1 entry {index}")
            data = words_from(self.file.read_padded(where, self.geometry.cluster_bytes))
            for at, entry in enumerate(data):
                if entry & layout.COPIED and not entry & layout.COMPRESSED:
                    self._flag(entry, f"L2 table at {where:#x}, entry {at}")

    def _flag(self, word: int, place: str) -> None:
        index = (word & layout.OFFSET_MASK) >> self.header.cluster_bits
        if word & layout.COPIED and self.counts.get(index) > 1:
            self.report.error(f"{place}: {word:#x} is marked as not shared, and is")


def _same(counted: array[int], wanted: dict[int, int]) -> bool:
    """Whether a block's counts are those of the used clusters, and 0 for all others."""
    if any(counted[entry] != real for entry, real in wanted.items()):
        return False
    return len(counted) - counted.count(0) == len(wanted)
