"""Making new images: a file appears under its name only when it is complete."""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from asyncvmm.storage import layout
from asyncvmm.storage.chain import format_of, open_image
from asyncvmm.storage.errors import ImageError
from asyncvmm.storage.header import Extension, Header
from asyncvmm.storage.hostfile import HostFile, sync_directory
from asyncvmm.storage.words import counts_bytes, counts_from, words_bytes

SECTOR: Final = 512


@contextmanager
def new_file(path: Path, force: bool = False) -> Iterator[Path]:
    """A path beside ``path`` to write to: it takes the name when the block is done.

    When the block fails nothing is left. ImageError when ``path`` exists, unless ``force``.
    """
    if not force and os.path.lexists(path):
        raise ImageError(f"disk image {path}: exists already (--force replaces it)")
    if path.exists() and not path.is_file():
        raise ImageError(f"disk image {path}: not a file")
    if force and path.exists():
        HostFile(path).close()  # not while a guest has it open
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.unlink(missing_ok=True)
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise ImageError(f"disk image {path}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    sync_directory(path.parent)


def create_image(
    path: Path | str,
    size_bytes: int | None = None,
    *,
    format: str | None = None,
    backing: Path | str | None = None,
    backing_format: str | None = None,
    cluster_bytes: int = layout.DEFAULT_CLUSTER_BYTES,
    refcount_bits: int = 16,
    lazy_refcounts: bool = False,
    force: bool = False,
) -> None:
    """Make an empty image of ``size_bytes`` (a multiple of 512), or as large as its backing file.

    ``backing`` is written down as it is given, so a relative one is relative to the new image. The
    format goes by the name's end unless it is given.
    """
    path = Path(path)
    form = format or ("qcow2" if path.suffix.lower() == ".qcow2" else "raw")
    if form == "raw" and (backing is not None or lazy_refcounts):
        raise ImageError(f"disk image {path}: a raw image has no backing file and no refcounts")
    if backing is not None:
        where = path.parent / backing
        backing_format = format_of(where, backing_format)
        below = open_image(where, backing_format, read_only=True)
        size_bytes = below.size_bytes if size_bytes is None else size_bytes
        below.close()
    elif backing_format is not None:
        raise ImageError(f"disk image {path}: a backing format without a backing file")
    check_size(path, size_bytes)
    assert size_bytes is not None
    with new_file(path, force) as partial:
        file = HostFile(partial, create=True)
        try:
            if format_of(partial, form) == "raw":
                file.truncate(size_bytes)
            else:
                name = None if backing is None else os.fspath(backing)
                header = new_header(path, size_bytes, cluster_bytes, refcount_bits)
                header.compatible = layout.LAZY_REFCOUNTS if lazy_refcounts else 0
                header.set_backing(name, backing_format)
                format_qcow2(file, header)
            file.sync()
        finally:
            file.close()


def check_size(path: Path, size_bytes: int | None) -> None:
    """ImageError for a size that a disk cannot have."""
    if size_bytes is None:
        raise ImageError(f"disk image {path}: its size is missing")
    if size_bytes <= 0 or size_bytes % SECTOR or size_bytes > layout.MAX_SIZE_BYTES:
        raise ImageError(
            f"disk image {path}: {size_bytes} bytes are not a possible number of 512-byte sectors"
        )


def new_header(path: Path, size_bytes: int, cluster_bytes: int, refcount_bits: int) -> Header:
    """The header of a new image, without the places of its tables."""
    bits, order = cluster_bytes.bit_length() - 1, refcount_bits.bit_length() - 1
    if cluster_bytes != 1 << bits or not layout.MIN_CLUSTER_BITS <= bits <= layout.MAX_CLUSTER_BITS:
        raise ImageError(
            f"disk image {path}: cluster size {cluster_bytes} is not a power of two from 512 to 2M"
        )
    if refcount_bits != 1 << order or order > 6:
        raise ImageError(f"disk image {path}: refcount bits {refcount_bits} are not 1, 2, ... 64")
    header = Header(3, bits, size_bytes, 0, 0, 0, 0, refcount_order=order)
    header.l1_entries = header.geometry.l1_entries(size_bytes)
    if header.l1_entries * 8 > layout.MAX_L1_BYTES:
        raise ImageError(f"disk image {path}: {size_bytes} bytes need larger clusters")
    if cluster_bytes >= 4096:
        names = b"".join(
            struct.pack(">BB46s", kind, bit, name.encode())
            for (kind, bit), name in layout.FEATURE_NAMES.items()
        )
        header.extensions.append(Extension(layout.EXT_FEATURE_NAMES, names))
    return header


def format_qcow2(file: HostFile, header: Header) -> None:
    """Write an empty image: header, refcount table and blocks, L1 table, in this order."""
    geometry = header.geometry
    cluster = geometry.cluster_bytes
    l1 = geometry.clusters(header.l1_entries * 8)
    table, blocks = geometry.refcount_sizes(1 + l1)
    header.refcount_offset, header.refcount_clusters = cluster, table
    header.l1_offset = (1 + table + blocks) * cluster
    data = header.pack(file.path)
    used = 1 + table + blocks + l1
    file.truncate(used * cluster)
    words, counts = refcount_words(header, used, 1 + table, blocks)
    file.write(cluster, words_bytes(words))
    file.write((1 + table) * cluster, counts_bytes(counts, header.refcount_order))
    file.write(0, data)


def refcount_words(
    header: Header, used: int, first_block: int, blocks: int
) -> tuple[array[int], array[int]]:
    """A table and the counts of its blocks when the first ``used`` clusters are used once each."""
    geometry = header.geometry
    cluster = geometry.cluster_bytes
    words = array("Q", bytes(header.refcount_clusters * cluster))
    for number in range(blocks):
        words[number] = (first_block + number) * cluster
    counts = counts_from(bytes(blocks * cluster), header.refcount_order)
    counts[:used] = array(counts.typecode, [1]) * used
    return words, counts
