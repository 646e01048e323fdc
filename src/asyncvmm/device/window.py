"""A device's address range as memory that the harts load and fetch from without asking the device."""

from __future__ import annotations

from typing import Final

from librt.vecs import vec
from mypy_extensions import i64

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.units import PAGE_SIZE, PAGE_WORDS
from asyncvmm.memory.pages import Ram, page_of

_ZEROS: Final = bytes(PAGE_SIZE)
_ONES: Final = b"\xff" * PAGE_SIZE


class MemoryWindow:
    """Memory that belongs to a device and lies at its address range (``DeviceType.window``).

    While it is open, loads and fetches find its contents as fast as RAM's, and the device hears
    nothing of them. While it is closed, loads are the device's ``read`` and fetches fault. Stores are
    the device's ``write`` always, atomics and page tables are refused. What it holds is not in
    snapshots: a device writes it again when it is made or restored.
    """

    def __init__(self) -> None:
        self.size_bytes: int = 0
        self.is_open: bool = False
        self._ram: Ram = Ram(0, PAGE_SIZE)
        self._first: i64 = 0
        self._ones: vec[i64] = vec[i64]([-1] * PAGE_WORDS)

    def connect(self, ram: Ram, base: int, size_bytes: int) -> None:
        """The machine puts it at ``base``; ConfigError where it cannot be."""
        try:
            self._first = ram.add_view(base, size_bytes)
        except ValueError as error:
            raise ConfigError(f"memory of a device at {base:#x}: {error}") from error
        self._ram = ram
        self.size_bytes = size_bytes

    def reserve(self, size_bytes: int) -> None:
        """The device says how large it is; on its own, without a machine, it is memory all the same."""
        if self.size_bytes == 0:
            self.connect(Ram(0, PAGE_SIZE), 1 << 32, size_bytes)
        if self.size_bytes != size_bytes:
            raise ConfigError(f"the window has {self.size_bytes} bytes, not {size_bytes}")

    def set_open(self, is_open: bool) -> None:
        """Open or close it; nothing when it is so already."""
        if is_open == self.is_open:
            return
        self.is_open = is_open
        count: i64 = self.size_bytes >> 12
        if is_open:
            self._ram.open_view(self._first, count)
        else:
            self._ram.close_view(self._first, count)

    def read(self, offset: int, length: int) -> bytes:
        """``length`` bytes from ``offset``; ValueError outside."""
        self._check(offset, length)
        parts: list[bytes] = []
        while length > 0:
            start = offset & 4095
            count = min(length, PAGE_SIZE - start)
            parts.append(self._page(offset)[start : start + count])
            offset += count
            length -= count
        return b"".join(parts)

    def write(self, offset: int, data: bytes) -> None:
        """Change the contents at ``offset``; ValueError, with nothing changed, outside."""
        self._check(offset, len(data))
        done = 0
        while done < len(data):
            start = offset & 4095
            count = min(len(data) - done, PAGE_SIZE - start)
            page = data[done : done + count]
            if count != PAGE_SIZE:
                old = self._page(offset)
                page = old[:start] + page + old[start + count :]
            self._set_page(offset, page)
            offset += count
            done += count

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise ValueError(f"bytes {offset}+{length} are outside the window")

    def _page(self, offset: int) -> bytes:
        return bytes(memoryview(self._ram.pages[self._first + (i64(offset) >> 12)]).cast("B"))

    def _set_page(self, offset: int, data: bytes) -> None:
        """Equal pages of one byte are one object, so that empty memory costs a table only."""
        index = self._first + (i64(offset) >> 12)
        if data == _ZEROS:
            self._ram.set_view_page(index, self._ram.zero)
        elif data == _ONES:
            self._ram.set_view_page(index, self._ones)
        else:
            self._ram.set_view_page(index, page_of(data, 0))
