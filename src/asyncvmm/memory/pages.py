"""Guest RAM as a table of 4 KiB pages, each absent until first written, some shared until then.

A page is ``vec[i64]`` of 512 little-endian words. All absent pages are one zero page, and shared pages
belong to a store (``shared.py``): both are read in place and never written. A store to such a page
first gives the guest one of its own (``materialize``). Host code outside the engines (loaders, DMA)
goes through ``read``/``write`` and the ``load*``/``store*`` methods, which also tell ``watcher`` about
every page that changed identity or content behind the engines' back.

After RAM's own pages the table may have those of a *view*: memory of devices (flash) that the harts load
and fetch from as they do from RAM, but that is no RAM: stores, DMA and snapshots do not see it. Code
caches and TLBs know its pages by page numbers that follow RAM's, which no guest can address.
"""

from __future__ import annotations

from typing import Final

from librt.strings import read_i64_le
from librt.vecs import append, vec
from mypy_extensions import i32, i64, mypyc_attr

from asyncvmm.base.errors import DmaError
from asyncvmm.base.units import PAGE_SIZE, PAGE_WORDS
from asyncvmm.memory.shared import SharedPages

# What ``Ram.kind`` holds for a page. Only a PRESENT page may be written in place.
OPEN_VIEW: Final = -1  # of a view that is open: read in place, but not frozen as what is shared
ABSENT: Final = 0
PRESENT: Final = 1
SHARED: Final = (
    2  # plus the page's number in the store; alone: of a store that is not ours any more
)


@mypyc_attr(allow_interpreted_subclasses=True)
class PageWatcher:
    """Hears of changes to pages; the harts' TLBs and code caches are behind it."""

    def page_replaced(self, ppn: i64) -> None:
        """Page ``ppn`` (physical page number) is another object now: forget cached references."""

    def pages_frozen(self) -> None:
        """No page may be written in place any more: forget all cached rights to store."""

    def code_created(self, ppn: i64) -> None:
        """Page ``ppn`` has decoded code from now on: stores to it must be seen."""

    def page_written(self, ppn: i64, offset: i64, length: i64) -> None:
        """Bytes of a page that holds decoded code were written: forget what was decoded there."""

    def view_closed(self, ppn: i64, count: i64) -> None:
        """These pages of a view cannot be read any more: forget cached references."""


def page_of(data: bytes, offset: i64) -> vec[i64]:
    """A page with the 4096 bytes from ``offset`` of ``data``, which must be there."""
    page: vec[i64] = vec[i64]([0] * PAGE_WORDS)
    i: i64 = 0
    while i < PAGE_WORDS:
        page[i] = read_i64_le(data, offset + (i << 3))
        i += 1
    return page


def new_table(page_count: i64) -> PageTable:
    """A table of absent pages in a store of its own: see ``PageTable.put``."""
    zero: vec[i64] = vec[i64]([0] * PAGE_WORDS)
    pages: vec[vec[i64]] = vec[vec[i64]]([zero] * int(page_count))
    return PageTable(SharedPages(), pages, vec[i32]([0] * int(page_count)))


class PageTable:
    """All pages of a RAM at one instant, as a value: ``Ram.freeze`` makes it, ``Ram.thaw`` takes it.

    It costs a table; the pages are the store's. ``release`` it when it is not wanted any more.
    """

    def __init__(self, store: SharedPages, pages: vec[vec[i64]], kind: vec[i32]) -> None:
        self.shared_pages: SharedPages = store
        self.pages: vec[vec[i64]] = pages
        self.kind: vec[i32] = kind
        self.page_count: i64 = len(kind)
        self.released: bool = False

    def put(self, index: i64, data: bytes, offset: i64) -> None:
        """Fill page ``index``, which was absent, with the 4096 bytes from ``offset`` of ``data``."""
        if self.kind[index] != ABSENT:
            raise ValueError(f"page {int(index)} is there already")
        page = page_of(data, offset)
        number = self.shared_pages.adopt(page)
        self.shared_pages.use(number)
        self.pages[index] = page
        self.kind[index] = i32(SHARED + number)

    @property
    def resident(self) -> int:
        """How many pages are not absent."""
        count = 0
        i: i64 = 0
        while i < self.page_count:
            if self.kind[i] != ABSENT:
                count += 1
            i += 1
        return count

    def is_absent(self, index: i64) -> bool:
        """Whether page ``index`` was never written, or only with zeros."""
        return self.kind[index] == ABSENT

    def page_bytes(self, index: i64) -> bytes:
        """The 4096 bytes of page ``index``."""
        return bytes(memoryview(self.pages[index]).cast("B"))

    def moved(self, store: SharedPages) -> PageTable:
        """The same pages as a table of another store."""
        kinds: vec[i32] = vec[i32]([0] * int(self.page_count))
        pages: vec[vec[i64]] = vec[vec[i64]]([self.pages[0]] * int(self.page_count))
        i: i64 = 0
        while i < self.page_count:
            pages[i] = self.pages[i]
            if self.kind[i] != ABSENT:
                number = store.adopt(self.pages[i])
                store.use(number)
                kinds[i] = i32(SHARED + number)
            i += 1
        return PageTable(store, pages, kinds)

    def release(self) -> None:
        """Give the pages back to the store; once is enough."""
        if self.released:
            return
        self.released = True
        i: i64 = 0
        while i < self.page_count:
            if self.kind[i] > SHARED:
                self.shared_pages.release(i64(self.kind[i]) - SHARED)
            i += 1


class Ram:
    """``size`` bytes of RAM (a multiple of 4096) at guest-physical ``base`` (a multiple of 4096).

    ``shared_pages`` is the store of the guest's trust group; without one the guest is a group of its own.
    ``resident`` counts all pages but the absent, ``shared`` those of them that are the store's.
    """

    def __init__(self, base: i64, size: i64, store: SharedPages | None = None) -> None:
        if base % PAGE_SIZE != 0 or size % PAGE_SIZE != 0 or size <= 0 or base < 0:
            raise ValueError("RAM base and size must be multiples of 4096 bytes and positive")
        self.base: i64 = base
        self.size: i64 = size
        self.first_ppn: i64 = base >> 12
        self.page_count: i64 = size >> 12
        self.view_base: i64 = 0
        self.view_size: i64 = 0
        self.zero: vec[i64] = vec[i64]([0] * PAGE_WORDS)
        self.pages: vec[vec[i64]] = vec[vec[i64]]([self.zero] * int(self.page_count))
        self.kind: vec[i32] = vec[i32]([0] * int(self.page_count))
        # A bit for each page, 64 a word: it has decoded code, so the watcher must hear of stores to it.
        self.code_bits: vec[i64] = vec[i64]([0] * int((self.page_count + 63) >> 6))
        self.resident: i64 = 0
        self.shared: i64 = 0
        self.shared_pages: SharedPages = store if store is not None else SharedPages()
        self.watcher: PageWatcher = PageWatcher()

    def contains(self, address: i64, length: i64) -> bool:
        """Whether ``length`` bytes from ``address`` are all RAM; safe for any values."""
        return (
            length >= 0
            and address >= self.base
            and address - self.base <= self.size
            and length <= self.size - (address - self.base)
        )

    @property
    def table_size(self) -> int:
        """How many pages there are, a view's included."""
        return len(self.pages)

    def add_view(self, base: i64, size: i64) -> i64:
        """``size`` bytes of memory at ``base`` that are no RAM; the index of the first page, all closed.

        Before any engine runs. A further view begins where the one before ended: ValueError otherwise.
        """
        end = base + size
        if base % PAGE_SIZE != 0 or size % PAGE_SIZE != 0 or size <= 0 or base < 0:
            raise ValueError("a view's base and size must be multiples of 4096 bytes and positive")
        if self.view_size != 0 and base != self.view_base + self.view_size:
            raise ValueError("a view must begin where the one before ended")
        if base < self.base + self.size and self.base < end:
            raise ValueError("a view must not lie in RAM")
        if self.view_size == 0:
            self.view_base = base
        self.view_size += size
        first: i64 = len(self.pages)
        i: i64 = 0
        while i < size >> 12:
            self.pages = append(self.pages, self.zero)
            self.kind = append(self.kind, ABSENT)
            i += 1
        while len(self.code_bits) << 6 < len(self.pages):
            self.code_bits = append(self.code_bits, 0)
        return first

    def readable(self, address: i64, length: i64) -> i64:
        """The index of the page of ``length`` bytes that harts may load and fetch; -1 for none.

        They lie in one page, of RAM or of a view that is open.
        """
        if self.contains(address, length):
            return (address - self.base) >> 12
        offset = address - self.view_base
        if offset >= 0 and offset < self.view_size:
            index = self.page_count + (offset >> 12)
            if self.kind[index] != ABSENT:
                return index
        return -1

    def physical_page(self, ppn: i64) -> i64:
        """The physical page number of what code caches know as ``ppn``: another one for a view's."""
        index = ppn - self.first_ppn
        if index < self.page_count:
            return ppn
        return (self.view_base >> 12) + index - self.page_count

    def page_bits(self, index: i64, address: i64, size: i64) -> i64:
        """``size`` (1, 2, 4) bytes, or 8, at an aligned address in page ``index``, zero-extended."""
        word = self.pages[index][(address & 4095) >> 3]
        if size == 8:
            return word
        one: i64 = 1
        return (word >> ((address & 7) << 3)) & ((one << (size << 3)) - 1)

    def open_view(self, first: i64, count: i64) -> None:
        """Let the harts load and fetch from ``count`` view pages."""
        i = first
        while i < first + count:
            self.kind[i] = OPEN_VIEW
            i += 1

    def close_view(self, first: i64, count: i64) -> None:
        """Accesses to these view pages are the bus's again, and fetches fault."""
        i = first
        while i < first + count:
            self.kind[i] = ABSENT
            i += 1
        self.watcher.view_closed(self.first_ppn + first, count)

    def set_view_page(self, index: i64, page: vec[i64]) -> None:
        """View page ``index`` is ``page`` from now on, which may be several pages at once."""
        self.pages[index] = page
        ppn = self.first_ppn + index
        self.watcher.page_replaced(ppn)
        if self.has_code(index):
            self.watcher.page_written(ppn, 0, PAGE_SIZE)

    def has_code(self, index: i64) -> bool:
        """Whether page ``index`` (from the start of RAM) has decoded code."""
        return (self.code_bits[index >> 6] >> (index & 63)) & 1 != 0

    def set_code(self, index: i64, has: bool) -> None:
        """Let the watcher hear of stores to page ``index``, or not any more."""
        one: i64 = 1
        bit = one << (index & 63)
        if has:
            self.code_bits[index >> 6] |= bit
        else:
            self.code_bits[index >> 6] &= ~bit

    def materialize(self, index: i64) -> vec[i64]:
        """The page number ``index`` (from the start of RAM), made the guest's own for writing.

        What it holds stays: zeros where it was absent, a copy where it was shared.
        """
        kind = i64(self.kind[index])
        if kind == PRESENT:
            return self.pages[index]
        page: vec[i64] = vec[i64]([0] * PAGE_WORDS)
        if kind == ABSENT:
            self.resident += 1
        else:
            shared = self.pages[index]
            i: i64 = 0
            while i < PAGE_WORDS:
                page[i] = shared[i]
                i += 1
            self.shared -= 1
            if kind > SHARED:
                self.shared_pages.release(kind - SHARED)
        self._replace(index, page, PRESENT)
        return page

    def share_page(self, index: i64, number: i64) -> None:
        """Refer to a page of the store, which holds what page ``index`` holds, instead of to one's own.

        The caller has compared them.
        """
        kind = i64(self.kind[index])
        self.shared_pages.use(number)
        if kind > SHARED:
            self.shared_pages.release(kind - SHARED)
        elif kind != SHARED:
            self.shared += 1
            if kind == ABSENT:
                self.resident += 1
        self._replace(index, self.shared_pages.page(number), SHARED + number)

    def drop_page(self, index: i64) -> None:
        """Make page ``index``, which the caller found to hold zeros only, absent."""
        kind = i64(self.kind[index])
        if kind == ABSENT:
            return
        if kind != PRESENT:
            self.shared -= 1
            if kind > SHARED:
                self.shared_pages.release(kind - SHARED)
        self.resident -= 1
        self._replace(index, self.zero, ABSENT)

    def discard(self, address: i64, length: i64) -> i64:
        """Make every whole page within ``length`` bytes from ``address`` absent, whatever it holds: its
        guest says that it has no use for it. How many were not so before; DmaError outside RAM.
        """
        if not self.contains(address, length):
            raise DmaError(f"{int(length)} bytes at {int(address):#x} are outside RAM")
        offset = address - self.base
        index = (offset + PAGE_SIZE - 1) >> 12
        end = (offset + length) >> 12
        count: i64 = 0
        while index < end:
            if self.kind[index] != ABSENT:
                self.drop_page(index)
                if self.has_code(index):
                    self.watcher.page_written(self.first_ppn + index, 0, PAGE_SIZE)
                count += 1
            index += 1
        return count

    def _replace(self, index: i64, page: vec[i64], kind: i64) -> None:
        self.pages[index] = page
        self.kind[index] = i32(kind)
        self.watcher.page_replaced(self.first_ppn + index)

    def clear(self) -> None:
        """Every page absent. The caller forgets decoded code and translations: nobody is told."""
        i: i64 = 0
        while i < self.page_count:
            kind = i64(self.kind[i])
            if kind != ABSENT:
                if kind > SHARED:
                    self.shared_pages.release(kind - SHARED)
                self.pages[i] = self.zero
                self.kind[i] = ABSENT
            i += 1
        self.resident = 0
        self.shared = 0

    def leave_store(self) -> None:
        """Go on without the store's books: for a guest that has ended and may still be looked at.

        Its shared pages can be read, and are copied when written, but count for nobody.
        """
        i: i64 = 0
        while i < self.page_count:
            if self.kind[i] > SHARED:
                self.shared_pages.release(i64(self.kind[i]) - SHARED)
                self.kind[i] = SHARED
            i += 1
        self.shared_pages = SharedPages()

    def freeze(self) -> PageTable:
        """All pages as they are now, as a value. From now on every page is shared with it."""
        i: i64 = 0
        store = self.shared_pages
        pages: vec[vec[i64]] = vec[vec[i64]]([self.zero] * int(self.page_count))
        kinds: vec[i32] = vec[i32]([0] * int(self.page_count))
        while i < self.page_count:
            kind = i64(self.kind[i])
            if kind != ABSENT:
                page = self.pages[i]
                if kind <= SHARED:
                    number = store.adopt(page)
                    store.use(number)
                    if kind == PRESENT:
                        self.shared += 1
                    kind = SHARED + number
                    self.kind[i] = i32(kind)
                store.use(kind - SHARED)
                pages[i] = page
                kinds[i] = i32(kind)
            i += 1
        self.watcher.pages_frozen()
        return PageTable(store, pages, kinds)

    def thaw(self, table: PageTable) -> None:
        """Hold what ``table`` holds, which must be of this store and size and not released.

        As ``clear``, it tells nobody: the caller forgets decoded code and translations.
        """
        if (
            table.shared_pages is not self.shared_pages
            or table.page_count != self.page_count
            or table.released
        ):
            raise ValueError("the page table is of another store or size, or was released")
        i: i64 = 0
        while i < self.page_count:
            if table.kind[i] > SHARED:
                self.shared_pages.use(i64(table.kind[i]) - SHARED)
            i += 1
        self.clear()
        i = 0
        resident: i64 = 0
        while i < self.page_count:
            kind = i64(table.kind[i])
            if kind != ABSENT:
                self.pages[i] = table.pages[i]
                self.kind[i] = i32(kind)
                resident += 1
            i += 1
        self.resident = resident
        self.shared = resident

    def load64(self, address: i64) -> i64:
        """The aligned 64-bit word at a RAM address that the caller has checked."""
        offset = address - self.base
        return self.pages[offset >> 12][(offset & 4095) >> 3]

    def store64(self, address: i64, value: i64) -> None:
        """Store an aligned 64-bit word at a RAM address that the caller has checked."""
        offset = address - self.base
        index = offset >> 12
        page = self.materialize(index)
        page[(offset & 4095) >> 3] = value
        if (self.code_bits[index >> 6] >> (index & 63)) & 1 != 0:
            self.watcher.page_written(self.first_ppn + index, offset & 4095, 8)

    def load(self, address: i64, size: i64) -> i64:
        """``size`` (1, 2, 4 or 8) bytes at any RAM address, zero-extended; DmaError outside RAM."""
        if not self.contains(address, size):
            raise DmaError(f"read of {int(size)} bytes at {int(address):#x} is outside RAM")
        value: i64 = 0
        shift: i64 = 0
        while size > 0:
            offset = address - self.base
            word = self.pages[offset >> 12][(offset & 4095) >> 3]
            value |= ((word >> ((offset & 7) << 3)) & 0xFF) << shift
            shift += 8
            address += 1
            size -= 1
        return value

    def store(self, address: i64, size: i64, value: i64) -> None:
        """Store the low ``size`` (1, 2, 4 or 8) bytes at any RAM address; DmaError outside RAM."""
        if not self.contains(address, size):
            raise DmaError(f"write of {int(size)} bytes at {int(address):#x} is outside RAM")
        byte: i64 = 0xFF
        while size > 0:
            offset = address - self.base
            index = offset >> 12
            page = self.materialize(index)
            shift = (offset & 7) << 3
            slot = (offset & 4095) >> 3
            page[slot] = (page[slot] & ~(byte << shift)) | ((value & byte) << shift)
            if (self.code_bits[index >> 6] >> (index & 63)) & 1 != 0:
                self.watcher.page_written(self.first_ppn + index, offset & 4095, 1)
            value >>= 8
            address += 1
            size -= 1

    def read(self, address: i64, length: i64) -> bytes:
        """``length`` bytes from ``address``; DmaError when any is outside RAM."""
        if not self.contains(address, length):
            raise DmaError(f"read of {int(length)} bytes at {int(address):#x} is outside RAM")
        parts: list[bytes] = []
        offset = address - self.base
        while length > 0:
            start = offset & 4095
            count = PAGE_SIZE - start
            if count > length:
                count = length
            view = memoryview(self.pages[offset >> 12]).cast("B")
            parts.append(bytes(view[int(start) : int(start + count)]))
            offset += count
            length -= count
        return b"".join(parts)

    def write(self, address: i64, data: bytes) -> None:
        """Write ``data`` at ``address``; DmaError, with nothing written, when any is outside RAM."""
        length: i64 = len(data)
        if not self.contains(address, length):
            raise DmaError(f"write of {int(length)} bytes at {int(address):#x} is outside RAM")
        offset = address - self.base
        done: i64 = 0
        while done < length:
            start = offset & 4095
            count = PAGE_SIZE - start
            if count > length - done:
                count = length - done
            index = offset >> 12
            chunk = data[int(done) : int(done + count)]
            if self.kind[index] != ABSENT or chunk.count(0) != len(chunk):
                self._write_page(index, start, chunk)
            offset += count
            done += count

    def _write_page(self, index: i64, start: i64, chunk: bytes) -> None:
        page = self.materialize(index)
        count: i64 = len(chunk)
        head = start & 7
        first = start >> 3
        padded_length = (head + count + 7) & ~7
        words = padded_length >> 3
        padded = chunk
        if padded_length != count:
            # Keep the bytes around the chunk in its first and last word.
            old = memoryview(page).cast("B")
            begin = int(first << 3)
            padded = (
                bytes(old[begin : begin + int(head)])
                + chunk
                + bytes(old[begin + int(head + count) : begin + int(padded_length)])
            )
        i: i64 = 0
        while i < words:
            page[first + i] = read_i64_le(padded, i << 3)
            i += 1
        if (self.code_bits[index >> 6] >> (index & 63)) & 1 != 0:
            self.watcher.page_written(self.first_ppn + index, start, count)
