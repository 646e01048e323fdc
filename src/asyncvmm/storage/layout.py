"""Numbers of the qcow2 format, by the names of its public specification."""

from __future__ import annotations

from typing import Final

import attrs

MAGIC: Final = b"QFI\xfb"
HEADER_V2_BYTES: Final = 72
HEADER_V3_BYTES: Final = 104
HEADER_FULL_BYTES: Final = 112  # with compression_type and its padding

MIN_CLUSTER_BITS: Final = 9
MAX_CLUSTER_BITS: Final = 21
DEFAULT_CLUSTER_BYTES: Final = 65536

# Incompatible features.
DIRTY: Final = 1 << 0
CORRUPT: Final = 1 << 1
EXTERNAL_DATA: Final = 1 << 2
COMPRESSION_TYPE: Final = 1 << 3
EXTENDED_L2: Final = 1 << 4
KNOWN_INCOMPATIBLE: Final = DIRTY | CORRUPT | COMPRESSION_TYPE
# Compatible features.
LAZY_REFCOUNTS: Final = 1 << 0
# Auto-clear features.
BITMAPS: Final = 1 << 0

FEATURE_NAMES: Final = {
    (0, 0): "dirty bit",
    (0, 1): "corrupt bit",
    (0, 2): "external data file",
    (0, 3): "compression type",
    (0, 4): "extended L2 entries",
    (1, 0): "lazy refcounts",
    (2, 0): "bitmaps",
    (2, 1): "raw external data",
}

# Header extensions.
EXT_END: Final = 0
EXT_BACKING_FORMAT: Final = 0xE2792ACA
EXT_FEATURE_NAMES: Final = 0x6803F857
EXT_BITMAPS: Final = 0x23852875

COMPRESSION_DEFLATE: Final = 0
COMPRESSION_ZSTD: Final = 1

# Entries of L1 and L2 tables.
COPIED: Final = 1 << 63
COMPRESSED: Final = 1 << 62
ZERO: Final = 1
OFFSET_MASK: Final = 0x00FF_FFFF_FFFF_FE00
L1_RESERVED: Final = 0x7F00_0000_0000_01FF
L2_RESERVED: Final = 0x3F00_0000_0000_01FE
MAX_OFFSET: Final = 1 << 56

# No image needs more; a hostile one cannot make us hold more.
MAX_L1_BYTES: Final = 32 << 20
MAX_REFCOUNT_TABLE_BYTES: Final = 8 << 20
MAX_SNAPSHOTS: Final = 65536
MAX_SNAPSHOT_TABLE_BYTES: Final = 16 << 20
MAX_SNAPSHOT_L1_BYTES: Final = 128 << 20  # of all snapshots together
MAX_SNAPSHOT_EXTRA_BYTES: Final = 1024
MAX_BACKING_NAME_BYTES: Final = 1023
MAX_SIZE_BYTES: Final = 1 << 62


@attrs.frozen
class Geometry:
    """What follows from cluster_bits and refcount_order."""

    cluster_bits: int
    refcount_order: int

    @property
    def cluster_bytes(self) -> int:
        """Size of a cluster."""
        return 1 << self.cluster_bits

    @property
    def l2_entries(self) -> int:
        """Entries of an L2 table."""
        return 1 << (self.cluster_bits - 3)

    @property
    def l2_covers_bytes(self) -> int:
        """How much of the disk an L2 table describes."""
        return 1 << (2 * self.cluster_bits - 3)

    @property
    def block_entries(self) -> int:
        """Clusters whose refcounts are in one refcount block."""
        return 1 << (self.cluster_bits + 3 - self.refcount_order)

    def clusters(self, size_bytes: int) -> int:
        """How many clusters hold so many bytes."""
        return -(-size_bytes >> self.cluster_bits)

    def l1_entries(self, size_bytes: int) -> int:
        """L1 entries of a disk of so many bytes."""
        return -(-size_bytes // self.l2_covers_bytes)

    def refcount_sizes(self, others: int) -> tuple[int, int]:
        """Clusters of a refcount table, and of its blocks, that count themselves and ``others``."""
        table, blocks = 1, 1
        while True:
            need_blocks = -(-(others + table + blocks) // self.block_entries)
            need_table = self.clusters(need_blocks * 8)
            if need_blocks <= blocks and need_table <= table:
                return table, blocks
            table, blocks = max(table, need_table), max(blocks, need_blocks)

    def compressed(self, entry: int) -> tuple[int, int]:
        """Where in the file a compressed cluster's data is, and the most bytes that it takes."""
        shift = 62 - (self.cluster_bits - 8)
        offset = entry & ((1 << shift) - 1)
        sectors = ((entry & ~(COPIED | COMPRESSED)) >> shift) + 1
        return offset, sectors * 512 - (offset & 511)
