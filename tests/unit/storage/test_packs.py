"""Packs, tables and the folder that shares them: round trips, and files that lie."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncvmm.base.errors import BackendError
from asyncvmm.storage.packs import (
    FRAME_PAGES,
    PackError,
    read_frame,
    read_index,
    write_pack,
    write_table,
)
from asyncvmm.storage.pagestore import PageStore


def page(number: int) -> bytes:
    return number.to_bytes(8, "little") * 512


def loaded(store: PageStore, table: Path, most: int = 1 << 20) -> dict[int, bytes]:
    return {number: data[at : at + 4096] for number, data, at in store.load(table, most)}


@pytest.mark.parametrize("count", [1, FRAME_PAGES, FRAME_PAGES + 1, 3 * FRAME_PAGES])
def test_a_pack_gives_its_pages_back(tmp_path: Path, count: int) -> None:
    index = write_pack(tmp_path, [page(number) for number in range(1, count + 1)])
    again = read_index(index.path)
    assert again == index
    frames = b"".join(read_frame(again, number) for number in range(len(again.frames)))
    assert frames == b"".join(page(number) for number in range(1, count + 1))
    assert [path.suffix for path in tmp_path.iterdir()] == [".pack"]


def test_pages_are_written_once(tmp_path: Path) -> None:
    store = PageStore(tmp_path / "pages")
    first = [(7, page(1)), (8, page(2)), (9, page(1)), (10, bytes(4096))]
    assert store.save(tmp_path / "a.table", first) == 3  # zeros are left out
    assert store.pages_written == 2
    second = PageStore(tmp_path / "pages")
    second.save(tmp_path / "b.table", [(0, page(2)), (1, page(3))])
    assert second.pages_written == 1
    assert loaded(second, tmp_path / "a.table") == {7: page(1), 8: page(2), 9: page(1)}
    assert loaded(second, tmp_path / "b.table") == {0: page(2), 1: page(3)}
    assert second.sweep([tmp_path / "b.table"]) == 0  # both packs are still needed
    second.save(tmp_path / "c.table", [(5, page(3))])
    assert second.sweep([tmp_path / "c.table"]) == 1
    assert loaded(second, tmp_path / "c.table") == {5: page(3)}


def test_a_number_that_is_too_high_is_refused(tmp_path: Path) -> None:
    store = PageStore(tmp_path / "pages")
    store.save(tmp_path / "a.table", [(7, page(1))])
    with pytest.raises(PackError, match=r"a\.table: the entry 7"):
        loaded(store, tmp_path / "a.table", most=7)
    write_table(tmp_path / "b.table", [(0, 0, 5)], [next((tmp_path / "pages").iterdir()).name])
    with pytest.raises(PackError, match="the entry 0, 0, 5"):
        loaded(store, tmp_path / "b.table")
    for name in ("../x.pack", "missing.pack", "x"):
        write_table(tmp_path / "c.table", [(0, 0, 0)], [name])
        with pytest.raises(PackError):
            loaded(store, tmp_path / "c.table")


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_is_named_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    """A byte changed or an end cut off anywhere: PackError, or the very pages that were saved."""
    folder = tmp_path / "damaged"
    store = PageStore(folder)
    pages = {number: page(number + 1) for number in range(300)}
    table = folder / "a.table"
    store.save(table, pages.items())
    pack = next(folder.glob("*.pack"))
    file = data.draw(st.sampled_from([table, pack]))
    whole = file.read_bytes()
    try:
        at = data.draw(st.integers(0, len(whole) - 1))
        if data.draw(st.booleans()):
            file.write_bytes(whole[:at])
        else:
            change = data.draw(st.integers(1, 255))
            file.write_bytes(whole[:at] + bytes([whole[at] ^ change]) + whole[at + 1 :])
        try:
            found = loaded(PageStore(folder), table)
        except PackError as error:
            assert str(folder) in str(error)
        else:
            assert found == pages
    finally:
        file.write_bytes(whole)


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((BackendError, OSError)):
        PageStore(tmp_path / "file" / "pages").save(tmp_path / "a.table", [(0, page(1))])
