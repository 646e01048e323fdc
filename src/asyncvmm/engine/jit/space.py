"""Executable memory: one space for all guests of a process, or one for an engine alone.

A space is reserved at once and costs memory where it is used. Code reaches what all code uses by
distances of 32 bits, so that must lie in the same space: shared code, and a segment for each guest that
needs code of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from collections import deque
from typing import Any, Final

from mypy_extensions import i64

from asyncvmm.engine.jit.layout import address_of
from asyncvmm.engine.jit.pages import CodeMemory

SEGMENT_BYTES: Final = 4 << 20


class Space:
    """``size`` bytes in front, then ``segments`` of SEGMENT_BYTES each for single guests."""

    def __init__(self, size: int, segments: int = 0) -> None:
        self.size: Final = size
        total = size + segments * SEGMENT_BYTES
        self.map: Final = mmap.mmap(
            -1,
            total,
            flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0),
            prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC,
        )
        # Code jumps about: with small pages the host's own TLB would be in the way.
        with contextlib.suppress(OSError):
            self.map.madvise(mmap.MADV_HUGEPAGE, 0, size)
        self.bytes: Final = memoryview(self.map)
        self._view = (ctypes.c_char * total).from_buffer(self.map)
        self.address: Final = ctypes.addressof(self._view)
        # Where free segments begin. Any thread may take one, or give one back.
        self.free: Final = deque(size + number * SEGMENT_BYTES for number in range(segments))


class _Lease:
    """A segment that is taken; whoever drops it gives it back."""

    def __init__(self, space: Space, start: int) -> None:
        self._space = space
        self.start: Final = start

    def __del__(self) -> None:
        with contextlib.suppress(OSError):
            self._space.map.madvise(mmap.MADV_DONTNEED, self.start, SEGMENT_BYTES)
        self._space.free.append(self.start)


class Arena(CodeMemory):
    """A part of a space, filled from its start; positions count from the space's start."""

    def __init__(self, space: Space, lease: _Lease | None = None) -> None:
        """The part in front, or the segment of ``lease``."""
        super().__init__()
        self._space = space
        self._map = space.map
        self._bytes = space.bytes
        self._lease = lease
        self._late: deque[tuple[int, int, bytes]] = deque()
        self.address = space.address
        self.origin = self.start = self.used = 0 if lease is None else lease.start
        self.size = space.size if lease is None else lease.start + SEGMENT_BYTES

    def put(self, position: i64, code: Any, length: i64) -> None:
        """See CodeMemory."""
        # No ctypes here: it would hand over the interpreter's lock for each block.
        self._bytes[position : position + length] = memoryview(code)[:length]

    def write(self, position: int, data: bytes) -> None:
        """Put bytes there, where no code is."""
        self._map[position : position + len(data)] = data

    def patch(self, position: i64, value: i64) -> None:
        """See CodeMemory."""
        self.change(position, int(value & 0xFFFFFFFF).to_bytes(4, "little"))

    def change(self, position: int, data: bytes) -> None:
        """Put bytes where code is, as soon as none runs."""
        self._late.append((position, position + len(data), data))
        self.late = len(self._late)
        if not self.running:
            self.settle()

    def settle(self) -> None:
        """See CodeMemory."""
        late = self._late
        while late:
            position, end, data = late[0]
            # Nothing between these two lines lets go of Python's lock: nobody begins to run code.
            if self.running:
                break
            self._map[position:end] = data
            late.popleft()
        self.late = len(late)

    def forget_late(self) -> None:
        """See CodeMemory."""
        self._late.clear()
        self.late = 0

    def table_address(self, table: Any) -> i64:
        """See CodeMemory."""
        return address_of(table)

    def segment(self) -> CodeMemory | None:
        """See CodeMemory."""
        try:
            start = self._space.free.popleft()
        except IndexError:
            return None
        return Arena(self._space, _Lease(self._space, start))
