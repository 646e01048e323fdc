"""Guest RAM behaves as a byte array, page boundaries and absent pages included."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.memory.pages import PageWatcher, Ram

BASE = 0x8000_0000
PAGES = 4


class Watcher(PageWatcher):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.replaced: list[int] = []
        self.written: list[tuple[int, int, int]] = []

    def page_replaced(self, ppn: int) -> None:
        self.replaced.append(ppn)

    def page_written(self, ppn: int, offset: int, length: int) -> None:
        self.written.append((ppn, offset, length))


@settings(derandomize=True, deadline=None)
@given(
    writes=st.lists(
        st.tuples(st.integers(0, PAGES * 4096), st.integers(0, 9000), st.integers(0, 99)),
        max_size=12,
    )
)
def test_writes_and_reads_are_a_bytearrays(writes: list[tuple[int, int, int]]) -> None:
    ram, model = Ram(BASE, PAGES * 4096), bytearray(PAGES * 4096)
    for offset, length, seed in writes:
        length = min(length, PAGES * 4096 - offset)
        data = random.Random(seed).randbytes(length) if seed % 4 else bytes(length)
        ram.write(BASE + offset, data)
        model[offset : offset + length] = data
        assert ram.read(BASE + offset, length) == data
    assert ram.read(BASE, len(model)) == model


def test_zeros_do_not_make_a_page_present_and_code_pages_report() -> None:
    ram = Ram(BASE, PAGES * 4096)
    watcher = Watcher()
    ram.watcher = watcher
    ram.write(BASE, bytes(4096 * PAGES))
    assert ram.resident == 0
    ram.write(BASE + 4090, b"0123456789ab")
    assert ram.resident == 2
    assert watcher.replaced == [BASE >> 12, (BASE >> 12) + 1]
    ram.set_code(0, True)
    ram.write(BASE + 4093, b"xyz!")
    assert watcher.written == [(BASE >> 12, 4093, 3)]
    assert ram.read(BASE + 4088, 16) == b"\0\x00012xyz!789ab\0\0"
