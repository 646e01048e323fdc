"""Pages of memory on disk: packs of compressed pages, each page once, found by what it holds.

A pack is written once and never changed: frames (zstd with a checksum, up to 256 pages each), then the
index (a BLAKE2b-128 of every page, and where each frame is), then a footer. A table says which page of
a guest is which page of which pack. Everything is little-endian. A file is written beside its name,
made durable, and renamed, so that a crash leaves it whole or not there.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

import attrs
import zstandard

from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.base.units import PAGE_SIZE
from asyncvmm.storage.bounded import open_regular
from asyncvmm.storage.hostfile import sync_folder

MAGIC: Final = b"AVMPACK1"
TABLE_MAGIC: Final = b"AVMTABL1"
FRAME_PAGES: Final = 256
HASH_BYTES: Final = 16
MAX_PAGES: Final = 1 << 26  # 256 GiB
LEVEL: Final = 1
_FOOTER: Final = struct.Struct("<8sIIQ16s")  # magic, pages, frames, where the index is, its hash
_FRAME: Final = struct.Struct("<QI")  # where it is, how long
_TABLE: Final = struct.Struct("<8sII16s")  # magic, entries, packs, hash of what follows
_ENTRY: Final = struct.Struct("<III")  # page of the guest, number of the pack, page of the pack


class PackError(ConfigError):
    """A file of saved pages is damaged or not one; the text names the file and the place."""


def page_hash(page: bytes) -> bytes:
    """What a page is found by."""
    return hashlib.blake2b(page, digest_size=HASH_BYTES).digest()


def write_durably(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Write, fsync, rename: the file is whole or not there. BackendError when that fails."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.unlink(missing_ok=True)
        with part.open("xb") as file:  # a link of this name would lead elsewhere
            for piece in [data] if isinstance(data, bytes) else data:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise BackendError(f"{path}: cannot be written: {error.strerror or error}") from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@attrs.frozen
class PackIndex:
    """Where the pages of a pack are. ``hashes`` holds 16 bytes for each page."""

    path: Path
    pages: int
    hashes: bytes
    frames: tuple[tuple[int, int], ...]

    def hash_of(self, number: int) -> bytes:
        """The hash of page ``number``."""
        return self.hashes[number * HASH_BYTES : (number + 1) * HASH_BYTES]


def write_pack(folder: Path, pages: Iterable[bytes]) -> PackIndex:
    """A new pack with ``pages`` (4096 bytes each, at least one) in this order."""
    compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
    hashes = bytearray()
    frames: list[tuple[int, int]] = []
    position = 0

    def pieces() -> Iterator[bytes]:
        nonlocal position
        frame: list[bytes] = []
        for page in pages:
            hashes.extend(page_hash(page))
            frame.append(page)
            if len(frame) == FRAME_PAGES:
                yield close(frame)
        if frame:
            yield close(frame)
        index = bytes(hashes) + b"".join(_FRAME.pack(*place) for place in frames)
        count = len(hashes) // HASH_BYTES
        yield index
        yield _FOOTER.pack(MAGIC, count, len(frames), position, page_hash(index))

    def close(frame: list[bytes]) -> bytes:
        nonlocal position
        data = compressor.compress(b"".join(frame))
        frame.clear()
        frames.append((position, len(data)))
        position += len(data)
        return data

    unnamed = folder / "new.pack"
    write_durably(unnamed, pieces())
    path = folder / f"{page_hash(bytes(hashes)).hex()}.pack"
    unnamed.replace(path)
    sync_folder(folder)
    return PackIndex(path, len(hashes) // HASH_BYTES, bytes(hashes), tuple(frames))


def read_index(path: Path) -> PackIndex:
    """The index of a pack; PackError names what is wrong with it."""
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size < _FOOTER.size:
            raise PackError(f"{path}: {size} bytes are too few for a pack")
        file.seek(size - _FOOTER.size)
        magic, pages, count, at, digest = _FOOTER.unpack(file.read(_FOOTER.size))
        length = pages * HASH_BYTES + count * _FRAME.size
        if magic != MAGIC or not 0 < pages <= MAX_PAGES:
            raise PackError(f"{path}: no pack ends at byte {size}")
        if count != -(-pages // FRAME_PAGES) or at + length + _FOOTER.size != size:
            raise PackError(f"{path}: the footer says {pages} pages in {count} frames before {at}")
        file.seek(at)
        index = file.read(length)
    if page_hash(index) != digest:
        raise PackError(f"{path}: the index at byte {at} is damaged")
    frames = tuple(_FRAME.iter_unpack(index[pages * HASH_BYTES :]))
    for start, size in frames:
        if start + size > at:
            raise PackError(f"{path}: a frame at {start} of {size} bytes is outside")
    return PackIndex(path, pages, index[: pages * HASH_BYTES], frames)


def read_frame(index: PackIndex, number: int) -> bytes:
    """The pages of one frame, one after the other; PackError when it is damaged."""
    start, length = index.frames[number]
    pages = min(FRAME_PAGES, index.pages - number * FRAME_PAGES)
    with _opened(index.path) as file:
        file.seek(start)
        data = file.read(length)
    where = f"{index.path}: frame {number} at byte {start}"
    try:
        if zstandard.frame_content_size(data) != pages * PAGE_SIZE:
            raise PackError(f"{where} does not hold {pages} pages")
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=pages * PAGE_SIZE)
    except zstandard.ZstdError as error:
        raise PackError(f"{where} is damaged: {error}") from error


def write_table(path: Path, entries: list[tuple[int, int, int]], packs: list[str]) -> None:
    """Which page of the guest is which page of which of ``packs`` (their files' names)."""
    body = b"".join(_ENTRY.pack(*entry) for entry in entries)
    names = "\n".join(packs).encode()
    rest = struct.pack("<I", len(names)) + names + body
    write_durably(path, _TABLE.pack(TABLE_MAGIC, len(entries), len(packs), page_hash(rest)) + rest)


def read_table(path: Path) -> tuple[list[tuple[int, int, int]], list[str]]:
    """What ``write_table`` wrote; PackError names what is wrong with it."""
    with _opened(path) as file:
        head = file.read(_TABLE.size)
        if len(head) < _TABLE.size:
            raise PackError(f"{path}: {len(head)} bytes are too few for a table of pages")
        magic, count, packs, digest = _TABLE.unpack(head)
        size = os.fstat(file.fileno()).st_size
        if magic != TABLE_MAGIC or count > MAX_PAGES or packs > count:
            raise PackError(f"{path}: no table of pages begins here")
        if not count * _ENTRY.size <= size - _TABLE.size - 4 <= count * _ENTRY.size + 64 * count:
            raise PackError(f"{path}: {size} bytes do not hold {count} entries")
        rest = file.read(size)
    if page_hash(rest) != digest:
        raise PackError(f"{path}: what follows byte {_TABLE.size} is damaged")
    (length,) = struct.unpack_from("<I", rest)
    names = rest[4 : 4 + length].decode(errors="replace").split("\n") if length else []
    body = rest[4 + length :]
    if len(names) != packs or len(body) != count * _ENTRY.size:
        raise PackError(f"{path}: the lengths of its parts do not fit")
    return list(_ENTRY.iter_unpack(body)), names


def _opened(path: Path) -> BinaryIO:
    try:
        return open_regular(path)
    except OSError as error:
        raise PackError(f"{path}: cannot be read: {error.strerror or error}") from error
