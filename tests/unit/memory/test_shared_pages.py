"""The store of shared pages: found by contents, dropped with the last use, copied when written."""

from __future__ import annotations

import pytest

from asyncvmm.base.errors import InternalError
from asyncvmm.memory.merge import Merger
from asyncvmm.memory.pages import ABSENT, PRESENT, SHARED, PageWatcher, Ram
from asyncvmm.memory.shared import NONE, SharedPages, is_zero, page_hash, pages_equal

BASE = 0x8000_0000
PAGE = 4096


class Watcher(PageWatcher):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.replaced: list[int] = []
        self.written: list[int] = []
        self.frozen = 0

    def page_replaced(self, ppn: int) -> None:
        self.replaced.append(ppn - (BASE >> 12))

    def page_written(self, ppn: int, offset: int, length: int) -> None:
        self.written.append(ppn - (BASE >> 12))

    def pages_frozen(self) -> None:
        self.frozen += 1


def two_rams(pages: int = 4) -> tuple[Merger, Ram, Ram]:
    merger = Merger()
    return (
        merger,
        Ram(BASE, pages * PAGE, merger.shared_pages),
        Ram(BASE, pages * PAGE, merger.shared_pages),
    )


def test_hash_and_comparison_see_every_word() -> None:
    ram = Ram(BASE, 2 * PAGE)
    for offset in range(0, PAGE, 8):
        ram.clear()
        ram.write(BASE, b"\1" + bytes(PAGE - 1))
        ram.write(BASE + PAGE, b"\1" + bytes(PAGE - 1))
        one, other = ram.pages[0], ram.pages[1]
        assert pages_equal(one, other)
        assert page_hash(one) == page_hash(other)
        ram.store64(BASE + PAGE + offset, 1 << 62)
        assert not pages_equal(one, other)
        assert page_hash(one) != page_hash(other)
        assert not is_zero(other)
    assert is_zero(ram.zero)


def test_a_store_counts_uses_and_drops_with_the_last() -> None:
    store, ram = SharedPages(), Ram(BASE, PAGE)
    ram.write(BASE, b"contents")
    page = ram.pages[0]
    code = page_hash(page)
    assert store.find(page, code) == NONE
    number = store.keep(page, code)
    store.use(number)
    store.use(number)
    assert store.find(page, code) == number
    assert (store.count, store.references, store.uses(number)) == (1, 2, 2)
    store.release(number)
    store.release(number)
    assert store.find(page, code) == NONE
    assert (store.count, store.references) == (0, 0)
    assert store.keep(page, code) == number
    with pytest.raises(InternalError, match="released too often"):
        store.release(number)


def test_two_pages_of_one_hash_are_not_mixed_up() -> None:
    store, ram = SharedPages(), Ram(BASE, 2 * PAGE)
    ram.write(BASE, b"one")
    ram.write(BASE + PAGE, b"another")
    first = store.keep(ram.pages[0], 7)
    second = store.keep(ram.pages[1], 7)
    store.use(first)
    store.use(second)
    assert store.find(ram.pages[0], 7) == first
    assert store.find(ram.pages[1], 7) == NONE
    store.release(second)
    assert store.find(ram.pages[0], 7) == first


def test_the_first_write_copies_and_tells_the_watcher() -> None:
    merger, one, other = two_rams()
    for ram in (one, other):
        ram.write(BASE, b"image" * 1000)
        merger.share_all(ram)
    assert (one.shared, one.resident, merger.shared_pages.count) == (2, 2, 2)
    watcher = Watcher()
    one.watcher = watcher
    one.set_code(1, True)
    one.store64(BASE + PAGE, -1)
    assert one.kind[1] == PRESENT
    assert one.kind[0] > SHARED
    assert watcher.replaced == [1]
    assert watcher.written == [1]
    assert one.read(BASE + PAGE, 904) == b"\xff" * 8 + (b"image" * 1000)[PAGE + 8 :]
    assert other.read(BASE, 5000) == b"image" * 1000
    assert (one.shared, one.resident, other.shared) == (1, 2, 2)
    assert (merger.shared_pages.count, merger.shared_pages.references) == (2, 3)
    other.write(BASE + PAGE, b"x")
    assert (merger.shared_pages.count, merger.shared_pages.references) == (1, 2)


def test_scanning_drops_zeros_and_merges_twins() -> None:
    merger, one, other = two_rams()
    one.write(BASE, b"twin")
    one.write(BASE + PAGE, b"\1")
    one.store64(BASE + PAGE, 0)
    one.write(BASE + 2 * PAGE, b"only here")
    other.write(BASE + 3 * PAGE, b"twin")
    assert merger.scan(one, 0, 1) == 1
    assert merger.scan(one, 1, 9) == -1
    assert merger.scan(other, 0, 9) == -1
    assert [int(k) for k in one.kind] == [SHARED + 1, ABSENT, PRESENT, ABSENT]
    assert other.kind[3] == SHARED + 1
    assert (merger.looked, merger.merged, merger.zeros) == (4, 1, 1)
    assert one.resident == 2
    assert one.read(BASE, 4) == other.read(BASE + 3 * PAGE, 4) == b"twin"
    # A page alone is not its own twin, and one that shares is not looked at.
    assert merger.scan(one, 0, 9) == -1
    assert (merger.looked, merger.merged) == (5, 1)


def test_a_guest_that_has_left_keeps_its_contents_and_counts_no_more() -> None:
    merger, one, other = two_rams()
    for ram in (one, other):
        ram.write(BASE, b"image")
        merger.share_all(ram)
    merger.forget(other)
    assert merger.shared_pages.references == 1
    merger.forget(one)
    assert merger.shared_pages.count == 0
    one.write(BASE, b"I")
    assert one.read(BASE, 5) == b"Image"
    assert other.read(BASE, 5) == b"image"
    assert (one.shared, other.shared) == (0, 1)


def test_a_frozen_table_is_a_value() -> None:
    ram = Ram(BASE, 4 * PAGE)
    watcher = Watcher()
    ram.watcher = watcher
    ram.write(BASE + PAGE, b"before")
    table = ram.freeze()
    assert watcher.frozen == 1
    fork = Ram(BASE, 4 * PAGE, ram.shared_pages)
    fork.thaw(table)
    ram.write(BASE + PAGE, b"after!")
    fork.write(BASE, b"fork")
    assert table.page_bytes(1)[:6] == b"before"
    assert table.is_absent(0)
    assert fork.read(BASE, PAGE + 6) == b"fork" + bytes(PAGE - 4) + b"before"
    assert (fork.resident, fork.shared, ram.shared) == (2, 1, 0)
    ram.thaw(table)
    assert ram.read(BASE + PAGE, 6) == b"before"
    table.release()
    table.release()
    with pytest.raises(ValueError, match="released"):
        ram.thaw(table)
    assert ram.shared_pages.references == 2
    ram.clear()
    fork.clear()
    assert (ram.shared_pages.count, ram.shared_pages.references) == (0, 0)


def test_a_table_of_another_store_is_refused() -> None:
    ram, stranger = Ram(BASE, PAGE), Ram(BASE, PAGE)
    with pytest.raises(ValueError, match="another store"):
        stranger.thaw(ram.freeze())
