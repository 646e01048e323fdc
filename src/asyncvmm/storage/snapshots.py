"""The table of internal snapshots: read and checked, never changed."""

from __future__ import annotations

import struct
from typing import Final

import attrs

from asyncvmm.storage import layout
from asyncvmm.storage.errors import ImageError
from asyncvmm.storage.header import Header
from asyncvmm.storage.hostfile import HostFile

_ENTRY: Final = struct.Struct(">QIHHIIQII")


@attrs.frozen
class Snapshot:
    """One internal snapshot. ``disk_bytes`` is None where an old program did not write it down."""

    id: str
    name: str
    l1_offset: int
    l1_entries: int
    date_s: int
    clock_ns: int
    vm_state_bytes: int
    disk_bytes: int | None


def read_snapshots(file: HostFile, header: Header) -> tuple[list[Snapshot], int]:
    """The snapshots, and the table's size in bytes. ImageError names the entry that is wrong."""
    if not header.snapshots:
        return [], 0
    cluster = header.geometry.cluster_bytes
    room = min(layout.MAX_SNAPSHOT_TABLE_BYTES, file.size_bytes - header.snapshots_offset)
    data = file.read_some(header.snapshots_offset, max(0, room))
    found: list[Snapshot] = []
    at = 0
    for number in range(header.snapshots):

        def wrong(text: str, number: int = number) -> ImageError:
            return ImageError(f"disk image {file.path}: internal snapshot {number + 1}: {text}")

        if at + _ENTRY.size > len(data):
            raise wrong("the table ends before it")
        l1_offset, l1_entries, id_bytes, name_bytes, date, _, clock, state, extra = (
            _ENTRY.unpack_from(data, at)
        )
        if extra > layout.MAX_SNAPSHOT_EXTRA_BYTES:
            raise wrong(f"{extra} bytes of extra data are too many")
        texts = at + _ENTRY.size + extra
        end = texts + id_bytes + name_bytes
        if end > len(data):
            raise wrong("the table ends within it")
        more = data[at + _ENTRY.size : texts]
        if l1_offset % cluster or not cluster <= l1_offset < layout.MAX_OFFSET:
            raise wrong(f"l1_table_offset {l1_offset:#x} is not at a cluster")
        if l1_entries * 8 > layout.MAX_L1_BYTES or l1_offset + l1_entries * 8 > (
            -(-file.size_bytes // cluster) * cluster
        ):
            raise wrong(f"l1_size {l1_entries} is behind the end of the file")
        found.append(
            Snapshot(
                id=data[texts : texts + id_bytes].decode(errors="replace"),
                name=data[texts + id_bytes : end].decode(errors="replace"),
                l1_offset=l1_offset,
                l1_entries=l1_entries,
                date_s=date,
                clock_ns=clock,
                vm_state_bytes=int.from_bytes(more[:8], "big") if len(more) >= 8 else state,
                disk_bytes=int.from_bytes(more[8:16], "big") if len(more) >= 16 else None,
            )
        )
        at = end + (-end % 8)
    tables = {(each.l1_offset, each.l1_entries * 8) for each in found}
    if sum(length for _, length in tables) > layout.MAX_SNAPSHOT_L1_BYTES:
        raise ImageError(f"disk image {file.path}: its internal snapshots are too large")
    return found, min(at, len(data))
