"""The qcow2 header with its extensions: parsed strictly, written back with what is not understood."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from asyncvmm.storage import layout
from asyncvmm.storage.errors import ImageError
from asyncvmm.storage.hostfile import HostFile
from asyncvmm.storage.layout import Geometry

_V2: Final = struct.Struct(">4sIQIIQIIQQIIQ")
_V3: Final = struct.Struct(">QQQII")
MAX_EXTENSIONS: Final = 64

_Wrong = Callable[[str], ImageError]


@attrs.frozen
class Extension:
    """One header extension, understood or not."""

    kind: int
    data: bytes


@attrs.define
class Header:
    """The fields of the header by the specification's meaning; sizes and offsets in bytes."""

    version: int
    cluster_bits: int
    size_bytes: int
    l1_entries: int
    l1_offset: int
    refcount_offset: int
    refcount_clusters: int
    snapshots: int = 0
    snapshots_offset: int = 0
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    refcount_order: int = 4
    compression: int = layout.COMPRESSION_DEFLATE
    backing_file: str | None = None
    extensions: list[Extension] = attrs.field(factory=list)
    unknown_fields: bytes = b""  # of a longer header than ours, kept as they are

    @property
    def geometry(self) -> Geometry:
        """Sizes that follow from the header."""
        return Geometry(self.cluster_bits, self.refcount_order)

    @property
    def backing_format(self) -> str | None:
        """The format that the header gives to the backing file."""
        for extension in self.extensions:
            if extension.kind == layout.EXT_BACKING_FORMAT:
                return extension.data.decode("ascii", errors="replace")
        return None

    def set_backing(self, name: str | None, form: str | None) -> None:
        """Name another backing file, or none."""
        kept = [each for each in self.extensions if each.kind != layout.EXT_BACKING_FORMAT]
        if name is not None and form is not None:
            kept.insert(0, Extension(layout.EXT_BACKING_FORMAT, form.encode("ascii")))
        self.extensions = kept
        self.backing_file = name

    def pack(self, path: Path) -> bytes:
        """The bytes of the whole first cluster up to the last one used.

        ImageError when a name does not fit in there; ``path`` is for its text.
        """
        fixed = b""
        if self.version >= 3:
            length = layout.HEADER_FULL_BYTES + len(self.unknown_fields)
            fixed = _V3.pack(
                self.incompatible, self.compatible, self.autoclear, self.refcount_order, length
            )
            fixed += bytes([self.compression]) + bytes(7) + self.unknown_fields
        body = b""
        for each in self.extensions:
            body += struct.pack(">II", each.kind, len(each.data))
            body += each.data + bytes(-len(each.data) % 8)
        body += bytes(8)
        name = b"" if self.backing_file is None else os.fsencode(self.backing_file)
        name_offset = _V2.size + len(fixed) + len(body) if name else 0
        if len(name) > layout.MAX_BACKING_NAME_BYTES:
            raise ImageError(f"disk image {path}: the backing file's name is too long")
        head = _V2.pack(
            layout.MAGIC,
            self.version,
            name_offset,
            len(name),
            self.cluster_bits,
            self.size_bytes,
            0,
            self.l1_entries,
            self.l1_offset,
            self.refcount_offset,
            self.refcount_clusters,
            self.snapshots,
            self.snapshots_offset,
        )
        data = head + fixed + body + name
        if len(data) > 1 << self.cluster_bits:
            raise ImageError(
                f"disk image {path}: the header with the backing file's name takes {len(data)} "
                f"bytes and a cluster has {1 << self.cluster_bits}"
            )
        return data


def parse_header(data: bytes, path: Path, file_bytes: int) -> Header:
    """The header at the begin of ``data`` (the first cluster, or all there is of it).

    ImageError names the file and the field that is wrong. ``file_bytes`` bounds all offsets.
    """

    def wrong(text: str) -> ImageError:
        return ImageError(f"disk image {path}: qcow2 header: {text}")

    if data[:4] != layout.MAGIC:
        raise ImageError(f"disk image {path}: is not a qcow2 image (no magic at its begin)")
    if len(data) < _V2.size:
        raise wrong(f"only {len(data)} bytes are there")
    fields = _V2.unpack_from(data)
    version, name_offset, name_bytes, cluster_bits, size, crypt = fields[1:7]
    if version not in (2, 3):
        raise wrong(f"version {version} is not 2 or 3")
    if not layout.MIN_CLUSTER_BITS <= cluster_bits <= layout.MAX_CLUSTER_BITS:
        raise wrong(f"cluster_bits {cluster_bits} is not 9 to 21")
    if crypt:
        names = {1: "AES", 2: "LUKS"}
        raise wrong(f"encrypted ({names.get(crypt, crypt)}): not supported")
    header = Header(version, cluster_bits, size, *fields[7:13])
    length = _V2.size
    if version >= 3:
        if len(data) < layout.HEADER_V3_BYTES:
            raise wrong(f"only {len(data)} bytes are there")
        (
            header.incompatible,
            header.compatible,
            header.autoclear,
            header.refcount_order,
            length,
        ) = _V3.unpack_from(data, _V2.size)
        limit = min(len(data), 1 << cluster_bits)
        if length < layout.HEADER_V3_BYTES or length % 8 or length > limit:
            raise wrong(f"header_length {length} is not a multiple of 8 from 104 to {limit}")
        if length >= layout.HEADER_FULL_BYTES:
            header.compression = data[104]
            header.unknown_fields = data[layout.HEADER_FULL_BYTES : length]
        if header.refcount_order > 6:
            raise wrong(f"refcount_order {header.refcount_order} is more than 6")
    end = min(len(data), 1 << cluster_bits)
    if name_offset:
        if not length <= name_offset <= end or name_bytes > min(
            end - name_offset, layout.MAX_BACKING_NAME_BYTES
        ):
            raise wrong(
                f"backing_file_offset {name_offset} + {name_bytes} leaves the first cluster"
            )
        name = data[name_offset : name_offset + name_bytes]
        if b"\0" in name:
            raise wrong("the backing file's name contains a NUL byte")
        header.backing_file = os.fsdecode(name) if name else None
        end = name_offset
    header.extensions = _parse_extensions(data[length:end], length, path)
    _check_features(header, wrong)
    _check_places(header, file_bytes, wrong)
    return header


def read_header(file: HostFile) -> Header:
    """The header of an open file; ImageError when it is none."""
    start = file.read_some(0, layout.HEADER_FULL_BYTES)
    bits = int.from_bytes(start[20:24], "big")
    if layout.MIN_CLUSTER_BITS <= bits <= layout.MAX_CLUSTER_BITS:
        start = file.read_some(0, 1 << bits)
    return parse_header(start, file.path, file.size_bytes)


def _parse_extensions(area: bytes, base: int, path: Path) -> list[Extension]:
    extensions: list[Extension] = []
    at = 0
    while at + 8 <= len(area):
        kind, length = struct.unpack_from(">II", area, at)
        if kind == layout.EXT_END:
            break
        place = f"disk image {path}: qcow2 header extension {kind:#x} at {base + at}"
        if length > len(area) - at - 8:
            raise ImageError(f"{place}: {length} bytes leave the header")
        if len(extensions) == MAX_EXTENSIONS:
            raise ImageError(f"{place}: more than {MAX_EXTENSIONS} extensions")
        if any(each.kind == kind for each in extensions):
            raise ImageError(f"{place}: appears twice")
        extensions.append(Extension(kind, area[at + 8 : at + 8 + length]))
        at += 8 + length + (-length % 8)
    return extensions


def _feature_names(header: Header) -> dict[tuple[int, int], str]:
    names: dict[tuple[int, int], str] = {}
    for each in header.extensions:
        if each.kind == layout.EXT_FEATURE_NAMES:
            for at in range(0, len(each.data) - 47, 48):
                text = each.data[at + 2 : at + 48].split(b"\0")[0].decode("ascii", "replace")
                if text.isprintable() and text:
                    names[each.data[at], each.data[at + 1]] = text
    return names | layout.FEATURE_NAMES


def feature_list(header: Header, kind: int, bits: int) -> list[str]:
    """The names of feature bits; ``kind`` is 0 incompatible, 1 compatible, 2 auto-clear."""
    names = _feature_names(header)
    return [names.get((kind, bit), f"bit {bit}") for bit in range(64) if bits >> bit & 1]


def _check_features(header: Header, wrong: _Wrong) -> None:
    unknown = header.incompatible & ~layout.KNOWN_INCOMPATIBLE
    if unknown:
        names = ", ".join(feature_list(header, 0, unknown))
        raise wrong(f"uses features that are not supported: {names}")
    typed = bool(header.incompatible & layout.COMPRESSION_TYPE)
    if typed != (header.compression != layout.COMPRESSION_DEFLATE):
        raise wrong(f"compression_type {header.compression} contradicts its feature bit")
    if header.compression not in (layout.COMPRESSION_DEFLATE, layout.COMPRESSION_ZSTD):
        raise wrong(f"compression_type {header.compression} is unknown")


def _check_places(header: Header, file_bytes: int, wrong: _Wrong) -> None:
    """Tables are where they can be, small enough, and not one upon the other."""
    geometry = header.geometry
    cluster = geometry.cluster_bytes
    if header.size_bytes % 512 or header.size_bytes > layout.MAX_SIZE_BYTES:
        raise wrong(f"size {header.size_bytes} is not a possible number of 512-byte sectors")
    needed = geometry.l1_entries(header.size_bytes)
    if header.l1_entries < needed or header.l1_entries * 8 > layout.MAX_L1_BYTES:
        most = layout.MAX_L1_BYTES // 8
        raise wrong(f"l1_size {header.l1_entries} is not {needed} to {most}")
    table_bytes = header.refcount_clusters * cluster
    if not 0 < table_bytes <= layout.MAX_REFCOUNT_TABLE_BYTES:
        raise wrong(f"refcount_table_clusters {header.refcount_clusters} is out of bounds")
    if header.snapshots > layout.MAX_SNAPSHOTS:
        raise wrong(f"nb_snapshots {header.snapshots} is more than {layout.MAX_SNAPSHOTS}")
    places = [("refcount_table_offset", header.refcount_offset, table_bytes, 1)]
    if header.l1_entries:
        places.append(("l1_table_offset", header.l1_offset, header.l1_entries * 8, 0))
    if header.snapshots:
        places.append(("snapshots_offset", header.snapshots_offset, 40 * header.snapshots, 0))
    taken = [("the header", 0, cluster)]
    for name, offset, length, may_hang_out in places:
        if offset % cluster or not cluster <= offset < layout.MAX_OFFSET:
            raise wrong(f"{name} {offset:#x} is not at a cluster behind the header")
        if offset + (cluster if may_hang_out else length) > geometry.clusters(file_bytes) * cluster:
            raise wrong(f"{name} {offset:#x} + {length} is behind the end of the file")
        for other, begin, size in taken:
            if offset < begin + size and begin < offset + length:
                raise wrong(f"{name} {offset:#x} overlaps {other}")
        taken.append((name, offset, length))
