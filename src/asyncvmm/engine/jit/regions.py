"""Optimised code by what it was made of: for all guests of a process, and in files for the next one.

A page's regions have the hash of its 4096 bytes, of the translator and of the host for a name. Code
of a region depends on nothing else: where it lies and what guest it is for is filled in when it is put
into a guest's memory.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import struct
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from asyncvmm.engine.jit.entry_store import EntryStore
from asyncvmm.engine.jit.object_cache import ObjectCache, host_key, translator_key
from asyncvmm.engine.jit.objects import LinkError, Object, parse_object

MAX_PAGES: Final = 4096  # in memory
MAX_BYTES: Final = 64 << 20  # of object code, in memory
MAX_REGIONS: Final = 16  # of one page
_FOLDER: Final = "regions"


@dataclass(frozen=True)
class CachedRegion:
    """``entries`` are slots where it is entered, ``slots`` those of all its instructions."""

    entries: tuple[int, ...]
    slots: tuple[int, ...]
    data: bytes

    @functools.cached_property
    def code(self) -> Object:
        """The object code, parsed. LinkError when it is none."""
        return parse_object(self.data)


def page_key(page: bytes) -> str:
    """The name of what is made of these 4096 bytes."""
    digest = hashlib.sha256(page)
    digest.update(_fixed_key())
    return digest.hexdigest()[:40]


@functools.cache
def _fixed_key() -> bytes:
    return hashlib.sha256(translator_key() + host_key()).digest()


class RegionStore:
    """Regions by page. Any thread may call."""

    def __init__(self, folder: Path | None, max_bytes: int = MAX_BYTES) -> None:
        """At most ``max_bytes`` of object code are kept in memory."""
        self.files = ObjectCache(None if folder is None else folder / _FOLDER)
        self.entries = EntryStore(self.files, f"entries-{_fixed_key().hex()[:32]}")
        self._max_bytes = max_bytes
        self._bytes = 0
        self.evictions = 0  # pages that made room for others
        self._lock = threading.Lock()  # of _pages, _bytes and evictions
        self._pages: OrderedDict[str, tuple[CachedRegion, ...]] = OrderedDict()

    def find(self, key: str) -> tuple[CachedRegion, ...]:
        """What is known for a page, the newest last."""
        with self._lock:
            found = self._pages.get(key)
            if found is not None:
                self._pages.move_to_end(key)
                return found
        data = self.files.read(key)
        if data is None:
            return ()
        read = _parse(data)
        self._keep(key, read)
        return read

    def add(self, key: str, region: CachedRegion) -> None:
        """Keep one more region of a page."""
        regions = (*self.find(key), region)[-MAX_REGIONS:]
        self._keep(key, regions)
        self.files.write(key, _format(regions))

    def _keep(self, key: str, regions: tuple[CachedRegion, ...]) -> None:
        with self._lock:
            self._bytes += _size(regions) - _size(self._pages.pop(key, ()))
            self._pages[key] = regions
            while len(self._pages) > MAX_PAGES or self._bytes > self._max_bytes:
                _, gone = self._pages.popitem(last=False)
                self._bytes -= _size(gone)
                self.evictions += 1


def _size(regions: tuple[CachedRegion, ...]) -> int:
    return sum(len(one.data) for one in regions)


def _format(regions: tuple[CachedRegion, ...]) -> bytes:
    """A line of JSON, then the object code of all regions."""
    head = [[list(one.entries), list(one.slots), len(one.data)] for one in regions]
    return json.dumps(head).encode() + b"\n" + b"".join(one.data for one in regions)


def _parse(data: bytes) -> tuple[CachedRegion, ...]:
    """What ``_format`` wrote; nothing when it was something else."""
    line, _, rest = data.partition(b"\n")
    found: list[CachedRegion] = []
    try:
        for entries, slots, size in json.loads(line):
            region = CachedRegion(tuple(entries), tuple(slots), rest[:size])
            rest = rest[size:]
            if all(type(slot) is int and 0 <= slot < 2048 for slot in (*entries, *slots)):
                region.code.functions["region"]
                found.append(region)
    except (ValueError, TypeError, KeyError, IndexError, struct.error, LinkError):
        return ()
    return tuple(found)


_creating: Final = threading.Lock()


@functools.cache
def _store(folder: Path | None) -> RegionStore:
    store = RegionStore(folder)
    atexit.register(store.entries.save)
    return store


def region_store(folder: Path | None) -> RegionStore:
    """The process's store that keeps its files below ``folder``. Any thread may call."""
    with _creating:
        return _store(folder)
