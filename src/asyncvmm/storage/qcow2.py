"""qcow2 images as blobs: reading through to backing files, allocation, zeros, discard, flush.

Data goes to the file at once; tables wait in memory until ``flush`` writes them in an order in which
the file is consistent at every instant: refcounts, then L2, then L1, and only then what became
free. A killed process therefore loses nothing that was flushed, and what it had not flushed was in
clusters that nothing points at.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from asyncvmm.base.errors import BackendError
from asyncvmm.device import Blob
from asyncvmm.storage import layout
from asyncvmm.storage.compressed import Decompressor
from asyncvmm.storage.errors import DamagedImageError, ImageError
from asyncvmm.storage.extents import COMPRESSED, DATA, UNALLOCATED, ZERO, Extent, merged
from asyncvmm.storage.header import feature_list, read_header
from asyncvmm.storage.hostfile import HostFile
from asyncvmm.storage.refcounts import Refcounts
from asyncvmm.storage.snapshots import Snapshot, read_snapshots
from asyncvmm.storage.tables import Tables

UNPACKED_CACHE_BYTES: Final = 4 << 20


class Qcow2Image(Blob):
    """An open qcow2 image over ``backing``, which it closes too.

    ImageError when the header or the tables that are read first are wrong; DamagedImageError (a
    BackendError) for one request when something else turns out to be. ``read_only`` follows the file.
    """

    def __init__(self, file: HostFile, backing: Blob | None = None) -> None:
        self.file = file
        self.path = file.path
        self.backing = backing
        self.header = read_header(file)
        self.geometry = self.header.geometry
        self.snapshots: list[Snapshot]
        self.snapshots, self._snapshot_bytes = read_snapshots(file, self.header)
        self._bits = self.header.cluster_bits
        self._cluster = 1 << self._bits
        self._decompressor = Decompressor(self.header.compression, self.path)
        self._unpacked: OrderedDict[int, bytes] = OrderedDict()
        self.tables = Tables(file, self.header)
        super().__init__(self.header.size_bytes, file.read_only)
        self.refcounts: Refcounts | None = None
        if not file.read_only:
            self.refcounts = self._open_for_writing()

    def _open_for_writing(self) -> Refcounts:
        header = self.header
        if header.incompatible & (layout.CORRUPT | layout.DIRTY):
            named = feature_list(header, 0, header.incompatible & (layout.CORRUPT | layout.DIRTY))
            raise ImageError(
                f"disk image {self.path}: {', '.join(named)} is set: it can be read, and written to "
                f"after `asyncvmm disk check --repair all {self.path}`"
            )
        metadata = {0}
        places = [(header.l1_offset, header.l1_entries * 8)]
        places += [(each.l1_offset, each.l1_entries * 8) for each in self.snapshots]
        places.append((header.snapshots_offset, self._snapshot_bytes))
        for offset, length in places:
            metadata.update(self._clusters_of(offset, length))
        refcounts = Refcounts(self.file, header, metadata)
        self.tables.check_l1(metadata)
        if header.autoclear:
            # We do not keep up what these describe (bitmaps): others must know.
            header.autoclear = 0
            self.file.write(88, bytes(8))
            self.file.sync()
        return refcounts

    def _clusters_of(self, offset: int, length: int) -> range:
        return range(offset >> self._bits, (offset + length + self._cluster - 1) >> self._bits)

    # Reading

    def extents(self, offset: int, length: int) -> Iterator[Extent]:
        """What the range consists of in this image alone, in order, adjacent pieces merged."""
        return merged(self._pieces(offset, min(offset + length, self.size_bytes)))

    def _pieces(self, at: int, end: int) -> Iterator[Extent]:
        while at < end:
            extent = self._extent_at(at, end)
            yield extent
            at += extent.length

    def _extent_at(self, at: int, end: int) -> Extent:
        covered = self.geometry.l2_covers_bytes
        if self.tables.table(at // covered) is None:
            return Extent(UNALLOCATED, at, min(end, (at // covered + 1) * covered) - at, 0)
        cluster, inside = at >> self._bits, at & (self._cluster - 1)
        word = self.tables.entry(cluster)
        length = min(end - at, self._cluster - inside)
        if word & layout.COMPRESSED:
            return Extent(COMPRESSED, at, length, word)
        offset = word & layout.OFFSET_MASK
        where = offset + inside if offset else 0
        if word & layout.ZERO:
            return Extent(ZERO, at, length, where)
        if not offset:
            return Extent(UNALLOCATED, at, length, 0)
        return Extent(DATA, at, length, where)

    def pread(self, offset: int, length: int) -> bytes:
        """See Blob."""
        self._inside(offset, length)
        parts = [self._read_extent(extent) for extent in self.extents(offset, length)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_extent(self, extent: Extent) -> bytes:
        if extent.kind == DATA:
            if extent.offset >= self.file.size_bytes:
                raise DamagedImageError(
                    f"disk image {self.path}: the data of byte {extent.start} of the disk is at "
                    f"{extent.offset:#x}, behind the end of the file"
                )
            return self.file.read_padded(extent.offset, extent.length)
        if extent.kind == UNALLOCATED:
            return self.read_backing(extent.start, extent.length)
        if extent.kind == ZERO:
            return bytes(extent.length)
        inside = extent.start & (self._cluster - 1)
        return self._unpack(extent.offset)[inside : inside + extent.length]

    def read_backing(self, offset: int, length: int) -> bytes:
        """What shows through where nothing is allocated: zeros behind the backing file's end."""
        if self.backing is None:
            return bytes(length)
        inside = max(0, min(length, self.backing.size_bytes - offset))
        data = self.backing.pread(offset, inside) if inside else b""
        return data.ljust(length, b"\0")

    def _unpack(self, word: int) -> bytes:
        data = self._unpacked.get(word)
        if data is None:
            offset, most = self.geometry.compressed(word)
            place = f"compressed cluster at {offset:#x}"
            data = self._decompressor.cluster(
                self.file.read_some(offset, most), self._cluster, place
            )
            while len(self._unpacked) >= max(1, UNPACKED_CACHE_BYTES >> self._bits):
                self._unpacked.popitem(last=False)
            self._unpacked[word] = data
        return data

    # Writing

    def pwrite(self, offset: int, data: bytes) -> None:
        """See Blob."""
        self._inside(offset, len(data))
        refcounts = self._writable()
        view = memoryview(data)
        at, end = offset, offset + len(data)
        run_at, run_offset = at, -1  # a stretch of the file that is overwritten where it is
        while at < end:
            cluster, inside = at >> self._bits, at & (self._cluster - 1)
            length = min(end - at, self._cluster - inside)
            place = self._own_place(cluster, refcounts)
            if place < 0 or place + inside != run_offset + (at - run_at):
                if run_offset >= 0:
                    self.file.write(run_offset, view[run_at - offset : at - offset])
                run_at, run_offset = at, (place + inside if place >= 0 else -1)
            if place < 0:
                piece = view[at - offset : at - offset + length]
                self._write_elsewhere(cluster, inside, piece, refcounts)
                run_at, run_offset = at + length, -1
            at += length
        if run_offset >= 0:
            self.file.write(run_offset, view[run_at - offset :])
        if self.tables.full:
            self._write_tables(refcounts)

    def _own_place(self, cluster: int, refcounts: Refcounts) -> int:
        """Where the cluster's data can be overwritten; -1 where it must go elsewhere."""
        word = self.tables.entry(cluster)
        offset = word & layout.OFFSET_MASK
        if word & (layout.COMPRESSED | layout.ZERO) or not offset:
            return -1  # a zero cluster with a place has to be filled as a whole
        index = offset >> self._bits
        if index in refcounts.metadata or offset >= self.file.size_bytes:
            where = "holds metadata" if index in refcounts.metadata else "is behind the file's end"
            raise DamagedImageError(
                f"disk image {self.path}: the data of cluster {cluster} of the disk is at "
                f"{offset:#x}, which {where} (asyncvmm disk check --repair all)"
            )
        return offset if self._unshared(cluster, word) else -1

    def _unshared(self, cluster: int, word: int) -> bool:
        """Whether no internal snapshot uses the entry's place too."""
        l1_word = self.tables.l1[cluster // self.geometry.l2_entries]
        return bool(word & l1_word & layout.COPIED)

    def _write_elsewhere(
        self, cluster: int, inside: int, piece: memoryview, refcounts: Refcounts
    ) -> None:
        """Put a whole cluster with ``piece`` in it into a new place, then point at it in memory."""
        word = self.tables.entry(cluster)
        whole = len(piece) == self._cluster
        before = b"" if whole else self._before(cluster, word)
        index = refcounts.allocate()
        offset = index << self._bits
        try:
            if whole:
                self.file.write(offset, piece)
            elif before or offset < self.file.size_bytes:
                self.file.write(offset, _merge(before, inside, piece, self._cluster))
            else:  # the file is zeros from here on
                self.file.truncate(offset + self._cluster)
                self.file.write(offset + inside, piece)
            self.tables.set(cluster, offset | layout.COPIED, refcounts)
        except BackendError:
            refcounts.release(index)
            raise
        self._let_go(word, refcounts)

    def _before(self, cluster: int, word: int) -> bytes:
        """The whole cluster as it reads now; empty for zeros."""
        if word & layout.ZERO and not word & layout.COMPRESSED:
            return b""
        start = cluster << self._bits
        if word == 0 and self._zeros_from(start):
            return b""
        data = self.pread(start, min(self._cluster, self.size_bytes - start))
        return data.ljust(self._cluster, b"\0")

    def _let_go(self, word: int, refcounts: Refcounts) -> None:
        """Release what an L2 entry pointed at."""
        if word & layout.COMPRESSED:
            self._unpacked.pop(word, None)
            offset, most = self.geometry.compressed(word)
            for index in self._clusters_of(offset, most):
                refcounts.release(index)
        elif word & layout.OFFSET_MASK:
            refcounts.release((word & layout.OFFSET_MASK) >> self._bits)

    def discard(self, offset: int, length: int) -> None:
        """Let go of whole clusters in the range; they read as zeros or, over a backing file of an
        old image without zero clusters, stay.
        """
        self._inside(offset, length)
        refcounts = self._writable()
        first = -(-offset >> self._bits)
        last = (offset + length) >> self._bits
        if offset + length == self.size_bytes:
            last = self.geometry.clusters(self.size_bytes)
        for cluster in self._allocated(first, last):
            self._unmap(cluster, refcounts)
        if self.tables.full:
            self._write_tables(refcounts)

    def _allocated(self, first: int, last: int) -> Iterator[int]:
        """Clusters of the range whose L2 entry is not 0."""
        per_table = self.geometry.l2_entries
        while first < last:
            end = min(last, (first // per_table + 1) * per_table)
            table = self.tables.table(first // per_table)
            if table is not None:
                for cluster in range(first, end):
                    if table.words[cluster % per_table]:
                        yield cluster
            first = end

    def _zeros_from(self, offset: int) -> bool:
        """Whether what is not allocated reads as zeros from this byte on."""
        return self.backing is None or offset >= self.backing.size_bytes

    def _no_table(self, cluster: int) -> bool:
        return self.tables.table(cluster // self.geometry.l2_entries) is None

    def _unmap(self, cluster: int, refcounts: Refcounts) -> None:
        hidden = not self._zeros_from(cluster << self._bits)
        if hidden and self.header.version < 3:
            return
        self._point(cluster, layout.ZERO if hidden else 0, refcounts)

    def _point(self, cluster: int, word: int, refcounts: Refcounts) -> None:
        """Change an L2 entry to one without a new place."""
        before = self.tables.entry(cluster)
        if before == word:
            return
        self.tables.set(cluster, word, refcounts)
        self._let_go(before, refcounts)
        if self.tables.full:
            self._write_tables(refcounts)

    def write_zeroes(self, offset: int, length: int, may_unmap: bool = True) -> None:
        """See Blob: whole clusters become zero clusters, which take no place."""
        self._inside(offset, length)
        refcounts = self._writable()
        end = offset + length
        first = -(-offset >> self._bits)
        last = end >> self._bits
        if end == self.size_bytes:
            last = self.geometry.clusters(end)
        if self.header.version < 3 or first >= last:
            self._zero_bytes(offset, length)
            return
        if offset < first << self._bits:
            self._zero_bytes(offset, (first << self._bits) - offset)
        cluster = first
        while cluster < last:
            if self._zeros_from(cluster << self._bits) and self._no_table(cluster):
                cluster = (cluster // self.geometry.l2_entries + 1) * self.geometry.l2_entries
                continue
            self._zero_cluster(cluster, may_unmap, refcounts)
            cluster += 1
        if last << self._bits < end:
            self._zero_bytes(last << self._bits, end - (last << self._bits))

    def _zero_cluster(self, cluster: int, may_unmap: bool, refcounts: Refcounts) -> None:
        word = self.tables.entry(cluster)
        start = cluster << self._bits
        if word == 0 and self._zeros_from(start):
            return
        kept = 0 if may_unmap or word & layout.COMPRESSED else word & layout.OFFSET_MASK
        if kept and word & layout.COPIED:
            self.tables.set(cluster, word | layout.ZERO, refcounts)
        else:
            self._point(cluster, layout.ZERO, refcounts)

    def _zero_bytes(self, offset: int, length: int) -> None:
        """Zeros for less than a cluster, or where there are no zero clusters."""
        for extent in list(self.extents(offset, length)):
            if extent.kind == ZERO or (
                extent.kind == UNALLOCATED and self._zeros_from(extent.start)
            ):
                continue
            super().write_zeroes(extent.start, extent.length, False)

    def forget(self, offset: int, length: int) -> None:
        """Make whole clusters unallocated, so that the backing file shows through."""
        refcounts = self._writable()
        last = self.geometry.clusters(offset + length)
        for cluster in self._allocated(-(-offset >> self._bits), last):
            self._point(cluster, 0, refcounts)

    def hide(self, cluster: int) -> None:
        """Make an unallocated cluster a zero cluster, whatever shows through it now."""
        refcounts = self._writable()
        self.tables.set(cluster, layout.ZERO, refcounts)
        if self.tables.full:
            self._write_tables(refcounts)

    # Flushing

    def flush(self) -> None:
        """See Blob; tables in memory are written in an order that is safe at every instant."""
        refcounts = self._writable()
        if self.tables.dirty or refcounts.dirty:
            self._write_tables(refcounts)
        else:
            self.file.sync()

    def _write_tables(self, refcounts: Refcounts) -> None:
        refcounts.write()
        self.file.sync()
        refcounts.point()
        self.tables.write()
        self.file.sync()
        refcounts.settle()

    def write_header(self) -> None:
        """Write the header as it is now, durably; everything it names must be durable already."""
        self._writable()
        data = self.header.pack(self.path)
        # What an older, longer backing file name left behind is cleared, as far as a sector goes.
        self.file.write(0, data.ljust(min(self._cluster, -(-len(data) // 512) * 512), b"\0"))
        self.file.sync()

    def close(self) -> None:
        """See Blob; what was written is flushed. May be called again."""
        try:
            if self.refcounts is not None and (self.tables.dirty or self.refcounts.dirty):
                self._write_tables(self.refcounts)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close without a flush: the file stays as the last one left it."""
        self.refcounts = None
        self.file.close()
        if self.backing is not None:
            self.backing.close()

    def _writable(self) -> Refcounts:
        if self.refcounts is None:
            raise BackendError(f"disk image {self.path}: is open for reading only")
        return self.refcounts

    def _inside(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise BackendError(
                f"disk image {self.path}: bytes {offset}+{length} are beyond its end"
            )


def _merge(before: bytes, inside: int, piece: memoryview, cluster_bytes: int) -> bytes:
    """``before`` (or zeros) with ``piece`` over it."""
    tail = before[inside + len(piece) :].ljust(cluster_bytes - inside - len(piece), b"\0")
    return b"".join((before[:inside].ljust(inside, b"\0"), piece, tail))
