"""Where code of a page is entered: what the first tier learnt, for the next run of the same bytes.

A run that knows it need not interpret a block to find out that it is wanted, and translates with a block
those that it leads to. One file holds it for all pages, by the name of their bytes. It says where to
begin only, so a wrong one costs time and changes nothing.

The file is bounded in pages and bytes: the pages that came last stay. Of a page, slots stay that one of
the last MAX_AGE runs that learnt anything translated.
"""

from __future__ import annotations

import array
import sys
import threading
from typing import Final

from asyncvmm.engine.jit.object_cache import ObjectCache

MAX_PAGES: Final = 16_384
MAX_BYTES: Final = 1 << 20  # of the file
MAX_AGE: Final = 31
SLOTS: Final = 2048
NEWS: Final = SLOTS
_AGE_SHIFT: Final = 11  # above the slot
_KEY_BYTES: Final = 20
_COUNT_BYTES: Final = 2


class Entries:
    """What is known of one page.

    ``used`` are the slots translated in this run; those that were not known yet have NEWS added.
    """

    def __init__(self, stored: bytes) -> None:
        self._stored = stored
        self.used: list[int] = []

    def known(self) -> list[int]:
        """The slots where blocks begin."""
        return list(self.slots().union(_ages(self._stored)))

    def slots(self) -> set[int]:
        """Those of this run."""
        return {value & (SLOTS - 1) for value in self.used}

    def has_news(self) -> bool:
        """Whether a slot is used that was not known."""
        return max(self.used, default=0) >= NEWS

    def tidy(self) -> None:
        """Have every used slot once: code comes and goes, and who translates only appends."""
        if len(self.used) > SLOTS:
            self.used[:] = sorted(set(self.used))


class EntryStore:
    """Entries by page. Any thread may call; whoever translates appends to a page's ``used``."""

    def __init__(
        self,
        files: ObjectCache,
        name: str,
        max_pages: int = MAX_PAGES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        """``name`` is the file's; a page's name is forty hexadecimal digits."""
        self.files = files
        self.name = name
        self.max_pages = max_pages
        self.max_bytes = max_bytes
        self._lock = threading.Lock()  # of the two below
        self._stored: dict[bytes, bytes] | None = None
        self._pages: dict[bytes, Entries] = {}

    def of(self, key: str) -> Entries:
        """What is known of a page."""
        name = bytes.fromhex(key)
        with self._lock:
            if self._stored is None:
                self._stored = _parse(self.files.read(self.name))
            found = self._pages.pop(name, None)
            if found is None:
                found = Entries(self._stored.get(name, b""))
            self._pages[name] = found  # the newest are last
            if len(self._pages) > self.max_pages:
                del self._pages[next(iter(self._pages))]
        found.tidy()
        return found

    def save(self) -> None:
        """Write the file again, with what other processes put there meanwhile, if there is news."""
        with self._lock:
            if not any(page.has_news() for page in self._pages.values()):
                return
            ours = {name: page.slots() for name, page in self._pages.items() if page.used}
        pages = _parse(self.files.read(self.name))
        for name, used in ours.items():
            pages[name] = _after(pages.pop(name, b""), used)
        kept: list[bytes] = []
        size = 0
        for name in reversed(pages):
            record = name + (len(pages[name]) // 2).to_bytes(_COUNT_BYTES, "little") + pages[name]
            size += len(record)
            if size > self.max_bytes or len(kept) == self.max_pages:
                break
            kept.append(record)
        self.files.write(self.name, b"".join(reversed(kept)))


def _ages(stored: bytes) -> dict[int, int]:
    """How many runs ago each slot was used."""
    return {value & (SLOTS - 1): value >> _AGE_SHIFT for value in _little(array.array("H", stored))}


def _after(stored: bytes, used: set[int]) -> bytes:
    """What is kept of a page after a run that used these slots."""
    ages = {slot: age + 1 for slot, age in _ages(stored).items() if age < MAX_AGE}
    ages.update(dict.fromkeys(used, 0))
    values = (age << _AGE_SHIFT | slot for slot, age in sorted(ages.items()))
    return bytes(_little(array.array("H", values)))


def _little(values: array.array[int]) -> array.array[int]:
    """From the file's order of bytes to the host's, or back."""
    if sys.byteorder == "big":
        values.byteswap()
    return values


def _parse(data: bytes | None) -> dict[bytes, bytes]:
    """The file by page, as far as it is in order: of each the name, how many slots, and the slots."""
    pages: dict[bytes, bytes] = {}
    at = 0
    while data is not None and at < len(data):
        start = at + _KEY_BYTES + _COUNT_BYTES
        count = int.from_bytes(data[at + _KEY_BYTES : start], "little")
        end = start + 2 * count
        if end > len(data) or count > SLOTS:
            break
        pages[data[at : at + _KEY_BYTES]] = data[start:end]
        at = end
    return pages
