"""Where code of a page is entered: what the first tier learnt, for the next run of the same bytes.

A run that knows it translates a page's blocks when it first comes to the page, and need not interpret
each to find out that it is wanted. One file holds it for all pages, by the name of their bytes. It says
where to begin only, so a wrong one costs time and changes nothing.
"""

from __future__ import annotations

import array
import sys
import threading
from typing import Final

from asyncvmm.engine.jit.object_cache import ObjectCache

MAX_PAGES: Final = 16_384
SLOTS: Final = 2048
_KEY_BYTES: Final = 20
_COUNT_BYTES: Final = 2


class EntryStore:
    """Lists of slots by page. Any thread may call; whoever translates appends to a page's list."""

    def __init__(self, files: ObjectCache, name: str, max_pages: int = MAX_PAGES) -> None:
        """``name`` is the file's; a page's name is forty hexadecimal digits."""
        self.files = files
        self.name = name
        self.max_pages = max_pages
        self._lock = threading.Lock()  # of the two below
        self._pages: dict[str, list[int]] | None = None
        self._known = 0  # how many slots there were in the file

    def of(self, key: str) -> list[int]:
        """The slots of a page, to be read and appended to."""
        with self._lock:
            pages = self._loaded()
            found = pages.pop(key, None)
            if found is None:
                found = []
            pages[key] = found  # the newest are last
            if len(pages) > self.max_pages:
                del pages[next(iter(pages))]
            return found

    def save(self) -> None:
        """Write the file again, with what other processes put there meanwhile, if there is news."""
        with self._lock:
            if self._pages is None:
                return
            ours = {key: set(slots) for key, slots in self._pages.items() if slots}
            if sum(map(len, ours.values())) <= self._known:
                return
        merged = {key: set(slots) for key, slots in _parse(self.files.read(self.name)).items()}
        for key, slots in ours.items():
            merged[key] = merged.pop(key, set()) | slots
        newest = list(merged)[-self.max_pages :]
        self.files.write(self.name, _format({key: sorted(merged[key]) for key in newest}))

    def _loaded(self) -> dict[str, list[int]]:
        if self._pages is None:
            self._pages = _parse(self.files.read(self.name))
            self._known = sum(map(len, self._pages.values()))
        return self._pages


def _format(pages: dict[str, list[int]]) -> bytes:
    """Of each page the name, how many slots there are, and the slots."""
    parts: list[bytes] = []
    for key, slots in pages.items():
        packed = array.array("H", slots)
        if sys.byteorder == "big":
            packed.byteswap()
        parts += [bytes.fromhex(key), len(slots).to_bytes(_COUNT_BYTES, "little"), bytes(packed)]
    return b"".join(parts)


def _parse(data: bytes | None) -> dict[str, list[int]]:
    """What ``_format`` wrote, as far as it is in order."""
    pages: dict[str, list[int]] = {}
    at = 0
    while data is not None and at < len(data):
        head = at + _KEY_BYTES
        start = head + _COUNT_BYTES
        end = start + 2 * int.from_bytes(data[head:start], "little")
        if end > len(data):
            break
        packed = array.array("H", data[start:end])
        if sys.byteorder == "big":
            packed.byteswap()
        slots = packed.tolist()
        if slots and max(slots) < SLOTS:
            pages[data[at:head].hex()] = slots
        at = end
    return pages
