"""Headers of qcow2 images."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

from asyncvmm.storage import ImageError
from asyncvmm.storage.header import Extension, Header, parse_header
from asyncvmm.storage.layout import EXT_BACKING_FORMAT, EXT_FEATURE_NAMES

PATH: Final = Path("fuzzed.qcow2")
FILE_BYTES: Final = 1 << 24


def _seed(version: int, bits: int, size: int, **more: object) -> bytes:
    cluster = 1 << bits
    entries = -(-size // (cluster * cluster // 8))
    header = Header(version, bits, size, entries, 2 * cluster, cluster, 1)
    for name, value in more.items():
        setattr(header, name, value)
    return header.pack(PATH)


SEEDS: Final = (
    _seed(3, 16, 1 << 30),
    _seed(2, 16, 1 << 20),
    _seed(3, 9, 1 << 16),
    _seed(3, 12, 1 << 24, snapshots=2, snapshots_offset=8 << 12),
    _seed(
        3,
        16,
        1 << 30,
        backing_file="base.img",
        extensions=[
            Extension(EXT_BACKING_FORMAT, b"raw"),
            Extension(EXT_FEATURE_NAMES, struct.pack("BB46s", 0, 0, b"dirty bit")),
            Extension(0x12345678, b"unknown"),
        ],
    ),
)


def fuzz_one(data: bytes) -> None:
    """The header is refused with an ImageError, or bounded, and the same when it is written."""
    try:
        header = parse_header(data, PATH, FILE_BYTES)
    except ImageError:
        return
    assert 9 <= header.cluster_bits <= 21
    if header.l1_entries:
        assert header.l1_offset + 8 * header.l1_entries <= FILE_BYTES
    try:
        packed = header.pack(PATH)
    except ImageError:
        return
    again = parse_header(packed, PATH, FILE_BYTES)
    assert again == header
