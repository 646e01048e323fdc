"""Pages that a guest has no use for: absent again, whatever they were."""

from __future__ import annotations

import pytest

from asyncvmm.base.errors import DmaError
from asyncvmm.memory.pages import ABSENT, PRESENT, PageWatcher, Ram

BASE = 0x8000_0000
PAGE = 4096


class Watcher(PageWatcher):
    """Notes down what it hears."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []

    def page_replaced(self, ppn: int) -> None:
        self.calls.append(("replaced", int(ppn)))

    def page_written(self, ppn: int, offset: int, length: int) -> None:
        self.calls.append(("written", int(ppn)))
        assert (offset, length) == (0, PAGE)


def filled() -> Ram:
    ram = Ram(BASE, 16 * PAGE)
    for page in range(8):
        ram.write(BASE + page * PAGE, bytes([page + 1]) * PAGE)
    return ram


def test_only_whole_pages_go() -> None:
    ram = filled()
    assert ram.discard(BASE + 1, 3 * PAGE) == 2
    assert [int(ram.kind[page]) for page in range(4)] == [PRESENT, ABSENT, ABSENT, PRESENT]
    assert ram.read(BASE + PAGE, 2) == b"\0\0" and ram.read(BASE, 2) == b"\1\1"
    assert int(ram.resident) == 6
    assert ram.discard(BASE + PAGE, PAGE) == 0
    assert ram.discard(BASE + PAGE + 1, PAGE - 1) == 0
    assert ram.discard(BASE, 0) == 0
    assert ram.discard(BASE, 16 * PAGE) == 6 and int(ram.resident) == 0


def test_outside_ram_nothing_goes() -> None:
    ram = filled()
    for address, length in ((BASE - PAGE, 2 * PAGE), (BASE, 17 * PAGE), (BASE, -1), (-8, 16)):
        with pytest.raises(DmaError):
            ram.discard(address, length)
    assert int(ram.resident) == 8


def test_a_page_in_a_snapshot_stays_there() -> None:
    ram = filled()
    table = ram.freeze()
    assert int(ram.shared) == 8
    assert ram.discard(BASE, 4 * PAGE) == 4
    assert (int(ram.resident), int(ram.shared)) == (4, 4)
    assert int(ram.shared_pages.count) == 8
    other = Ram(BASE, 16 * PAGE, ram.shared_pages)
    other.thaw(table)
    assert other.read(BASE + PAGE, 2) == b"\2\2"
    table.release()
    other.clear()
    assert int(ram.shared_pages.count) == 4


def test_harts_and_code_hear_of_it() -> None:
    ram = filled()
    watcher = Watcher()
    ram.watcher = watcher
    ram.set_code(1, True)
    ram.discard(BASE, 3 * PAGE)
    first = BASE >> 12
    assert watcher.calls == [
        ("replaced", first), ("replaced", first + 1), ("written", first + 1), ("replaced", first + 2)
    ]  # fmt: skip
