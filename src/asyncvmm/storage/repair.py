"""Repairing qcow2 images: entries that cannot be go, and the refcounts are counted anew.

The new refcount structure is written behind everything else, and takes effect when the header names
it: a repair that is killed leaves the image as it was.
"""

from __future__ import annotations

from array import array
from typing import Final

from asyncvmm.base.errors import BackendError
from asyncvmm.storage import layout
from asyncvmm.storage.census import Census
from asyncvmm.storage.hostfile import HostFile
from asyncvmm.storage.progress import Progress, is_zero, silent
from asyncvmm.storage.words import counts_bytes, counts_from, words_bytes, words_from

PAGE_BYTES: Final = 4096


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
    """A new table and new blocks at the end of the file, for what ``census`` has counted.

    Blocks that would count nothing are left out. The old structure is kept until the header is
    written, and free from then on.
    """
    header, geometry, counts = census.header, census.geometry, census.counts
    cluster, per_block = geometry.cluster_bytes, geometry.block_entries
    start = max(counts.end, geometry.clusters(file.size_bytes))
    numbers = set(counts.by_block(per_block))
    table = 1
    while True:
        end = start + table + len(numbers)
        more = numbers | set(range(start // per_block, (end - 1) // per_block + 1))
        need = geometry.clusters((max(more) + 1) * 8)
        if more == numbers and need <= table:
            break
        numbers, table = more, max(table, need)
        if table * cluster > layout.MAX_REFCOUNT_TABLE_BYTES:
            raise BackendError(f"disk image {file.path}: is too long to be repaired")
    for index in range(start, end):
        counts.add(index, 1)
    words = array("Q", bytes(table * cluster))
    used = counts.by_block(per_block)
    file.truncate(end * cluster)  # zeros, of which most blocks consist, take no place
    for place, number in enumerate(sorted(numbers), start + table):
        words[number] = place * cluster
        at, data = _block_bytes(file, header.refcount_order, used[number])
        for piece in range(0, len(data), PAGE_BYTES):
            if not is_zero(data[piece : piece + PAGE_BYTES]):
                file.write(place * cluster + at + piece, data[piece : piece + PAGE_BYTES])
    file.write(start * cluster, words_bytes(words))
    file.sync()
    header.refcount_offset, header.refcount_clusters = start * cluster, table
    file.write(0, header.pack(file.path))
    file.sync()


def _block_bytes(file: HostFile, order: int, used: dict[int, int]) -> tuple[int, bytes]:
    """Where in a block what is not zero begins, and its bytes."""
    per_byte, most = max(1, 8 >> order), (1 << (1 << order)) - 1
    low = min(used) // per_byte * per_byte
    length = -(-(max(used) + 1 - low) // per_byte) * per_byte
    values = counts_from(bytes((length << order) // 8), order)
    for entry, count in used.items():
        if count > most:
            raise BackendError(
                f"disk image {file.path}: a cluster is used {count} times, and its refcount cannot "
                f"be more than {most}"
            )
        values[entry - low] = count
    return (low << order) // 8, counts_bytes(values, order)


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
