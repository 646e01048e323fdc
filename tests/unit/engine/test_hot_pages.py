"""Which of a page's known regions are put into place when it comes again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asyncvmm.engine.jit.hot import worth_placing
from asyncvmm.engine.jit.regions import CachedRegion


def region(size: int, *entries: int) -> CachedRegion:
    return CachedRegion(entries, entries, bytes(size))


def test_what_newer_ones_lead_into_stays_away() -> None:
    old, middle, new = region(10, 0, 4), region(10, 4, 8), region(10, 0, 8)
    assert worth_placing((old, middle, new), 1000) == (middle, new)
    assert worth_placing((old, region(10, 0, 4, 8)), 1000) == (region(10, 0, 4, 8),)


def test_one_page_never_fills_the_memory() -> None:
    regions = tuple(region(100, slot) for slot in range(16))
    assert worth_placing(regions, 450) == regions[-4:]
    assert worth_placing(regions, 99) == ()


@given(
    st.lists(st.tuples(st.integers(1, 50), st.sets(st.integers(0, 9), min_size=1)), max_size=16),
    st.integers(0, 300),
)
def test_the_newest_of_an_entry_is_there_if_it_has_room(
    known: list[tuple[int, set[int]]], room: int
) -> None:
    regions = tuple(region(size, *sorted(entries)) for size, entries in known)
    chosen = worth_placing(regions, room)
    assert sum(len(one.data) for one in chosen) <= room
    if sum(len(one.data) for one in regions) <= room:
        entered = {slot for one in regions for slot in one.entries}
        assert {slot for one in chosen for slot in one.entries} == entered
        for slot in entered:
            newest = [one for one in regions if slot in one.entries][-1]
            assert [one for one in chosen if slot in one.entries][-1] == newest
