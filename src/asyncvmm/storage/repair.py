"""Repairing qcow2 images: entries that cannot be go, and the refcounts are counted anew.

The new refcount structure is written behind everything else, and takes effect when the header names
it: a repair that is killed leaves the image as it was.
"""

from __future__ import annotations

from array import array

from asyncvmm.base.errors import BackendError
from asyncvmm.storage import layout
from asyncvmm.storage.census import Census
from asyncvmm.storage.hostfile import HostFile
from asyncvmm.storage.progress import Progress, silent
from asyncvmm.storage.words import counts_bytes, counts_from, words_bytes, words_from


def repair_image(file: HostFile, progress: Progress = silent) -> None:
    """Repair what can be repaired without knowing more than the image says."""
    census = Census(file, progress)
    census.count()
    if census.bad_l1 or census.bad_l2:
        for offset in census.bad_l1:
            file.write(offset, bytes(8))
        # What was there is lost; zeros rather than what the backing file has under it.
        lost = layout.ZERO if census.header.version >= 3 else 0
        for offset in census.bad_l2:
            file.write(offset, words_bytes(array("Q", [lost])))
        file.sync()
        census = Census(file, progress)
        census.count()
    _rewrite_refcounts(file, census)
    _set_flags(file, census)
    header = census.header
    header.incompatible &= ~(layout.DIRTY | layout.CORRUPT)
    header.extensions = [e for e in header.extensions if e.kind != layout.EXT_BITMAPS]
    file.write(0, header.pack(file.path))
    file.sync()
    end = census.counts.end * census.geometry.cluster_bytes
    if file.size_bytes > end and file.regular:
        file.truncate(end)
    file.sync()


def _rewrite_refcounts(file: HostFile, census: Census) -> None:
    """A new table and new blocks at the end of the file, for what ``census`` has counted."""
    header, geometry, counts = census.header, census.geometry, census.counts
    cluster = geometry.cluster_bytes
    # The old structure is kept until the header is written, and free from then on.
    start = max(counts.end, geometry.clusters(file.size_bytes))
    table, blocks = geometry.refcount_sizes(start)
    for index in range(start, start + table + blocks):
        counts.add(index, 1)
    most = (1 << (1 << header.refcount_order)) - 1
    words = array("Q", bytes(table * cluster))
    per_block = geometry.block_entries
    place = start + table
    for number in range(blocks):
        values = counts_from(bytes(cluster), header.refcount_order)
        first = number * per_block
        for entry in range(min(per_block, max(0, counts.end - first))):
            count = counts.get(first + entry)
            if count > most:
                raise BackendError(
                    f"disk image {file.path}: cluster {first + entry} is used {count} times, and "
                    f"its refcount cannot be more than {most}"
                )
            values[entry] = count
        words[number] = (place + number) * cluster
        file.write((place + number) * cluster, counts_bytes(values, header.refcount_order))
    file.write(start * cluster, words_bytes(words))
    file.sync()
    header.refcount_offset, header.refcount_clusters = start * cluster, table
    file.write(0, header.pack(file.path))
    file.sync()


def _set_flags(file: HostFile, census: Census) -> None:
    """The flag "not shared" as the counts have it, in the active tables."""
    header = census.header

    def flagged(word: int) -> int:
        where = word & layout.OFFSET_MASK
        if word & layout.COMPRESSED or not where:
            return word & ~layout.COPIED
        shared = census.counts.get(where >> header.cluster_bits) != 1
        return word & ~layout.COPIED if shared else word | layout.COPIED

    tables = [(header.l1_offset, header.l1_entries * 8)]
    tables += [(offset, census.geometry.cluster_bytes) for offset in census.active_l2]
    for offset, length in tables:
        old = words_from(file.read_padded(offset, length))
        new = array("Q", [flagged(word) for word in old])
        if new != old:
            file.write(offset, words_bytes(new))
    file.sync()
