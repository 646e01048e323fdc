"""Saved pages: packs and tables, damaged, and such as their hashes fit."""

from __future__ import annotations

import functools
import struct
from pathlib import Path
from typing import Final

from asyncvmm.base.units import PAGE_SIZE
from asyncvmm.storage.packs import page_hash
from asyncvmm.storage.pagestore import PageStore
from tools.fuzz.files import read_or_refused, scratch

PAGES: Final = 300  # more than a frame
_FOOTER: Final = struct.Struct("<8sIIQ16s")
_TABLE: Final = struct.Struct("<8sII16s")


@functools.cache
def _good() -> tuple[Path, bytes, bytes]:
    """A pack, what it holds, and a table."""
    folder = scratch() / "pages"
    store = PageStore(folder)
    pages = [(number, number.to_bytes(8, "little") * (PAGE_SIZE // 8)) for number in range(PAGES)]
    table = scratch() / "good.table"
    store.save(table, pages, zeros=True)
    (pack,) = folder.glob("*.pack")
    return pack, pack.read_bytes(), table.read_bytes()


def fuzz_pack(data: bytes) -> None:
    """A good pack, changed in places that ``data`` tells."""
    _load_pack(_changed(_good()[1], data))


def fuzz_sealed_pack(data: bytes) -> None:
    """The index and the footer of a good pack changed, with the hash that fits the index."""
    good = _good()[1]
    *_, at, _ = _FOOTER.unpack(good[-_FOOTER.size :])
    index = _changed(good[at : -_FOOTER.size], data[1:])
    footer = bytearray(_changed(good[-_FOOTER.size :], data[:1] and data[-6:]))
    footer = footer[: _FOOTER.size].ljust(_FOOTER.size, b"\0")
    footer[-16:] = page_hash(index)
    if data[:1] < b"\x80":  # of the changed footer only sometimes its magic
        footer[:8] = good[-_FOOTER.size :][:8]
    _load_pack(good[:at] + index + bytes(footer))


def fuzz_table(data: bytes) -> None:
    """A good table, changed."""
    _load_table(_changed(_good()[2], data))


def fuzz_sealed_table(data: bytes) -> None:
    """A good table, changed, with the hash that fits."""
    raw = bytearray(_changed(_good()[2], data))
    if len(raw) >= _TABLE.size:
        raw[_TABLE.size - 16 : _TABLE.size] = page_hash(bytes(raw[_TABLE.size :]))
        raw[:8] = _good()[2][:8]
    _load_table(bytes(raw))


def _load_pack(data: bytes) -> None:
    pack, good, _ = _good()
    pack.write_bytes(data)
    try:
        _load(scratch() / "good.table", pack)
    finally:
        pack.write_bytes(good)


def _load_table(data: bytes) -> None:
    path = scratch() / "fuzzed.table"
    path.write_bytes(data)
    _load(path, path)


def _load(table: Path, *names: Path) -> None:
    def read() -> int:
        count = 0
        for number, frame, at in PageStore(scratch() / "pages").load(table, PAGES):
            assert 0 <= number < PAGES
            assert 0 <= at <= len(frame) - PAGE_SIZE
            count += 1
        return count

    count = read_or_refused(read, *names, scratch() / "pages")
    assert count is None or count <= PAGES


def _changed(good: bytes, data: bytes) -> bytes:
    """Some numbers replaced, pieces cut out, doubled or the end cut off, where ``data`` tells."""
    raw = bytearray(good)
    for at in range(0, min(len(data) - 5, 24), 6):
        place = int.from_bytes(data[at : at + 2], "little") % (len(raw) + 1)
        if data[at + 2] & 1:  # near the end, where the index is
            place = max(0, len(raw) - place % 128)
        size = (1, 2, 4, 8)[data[at + 3] & 3]
        how = data[at + 4] % 5
        if how == 0:
            del raw[place:]
        elif how == 1:
            del raw[place : place + size]
        elif how == 2:
            raw[place:place] = raw[place : place + size]
        elif how == 3:
            raw[place : place + size] = (b"\xff", b"\0", b"\x80", b"\x7f")[data[at + 5] & 3] * size
        else:
            raw[place : place + 1] = data[at + 5 : at + 6]
    return bytes(raw)
