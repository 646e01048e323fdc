"""Where blocks begin, in a file that processes share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncvmm.engine.jit.entry_store import MAX_AGE, NEWS, Entries, EntryStore
from asyncvmm.engine.jit.object_cache import ObjectCache

A, B, C = (letter * 40 for letter in "abc")


def store(folder: Path | None, **options: int) -> EntryStore:
    """As another process has it."""
    return EntryStore(ObjectCache(folder), "entries", **options)


def use(entries: Entries, *slots: int) -> None:
    """What a translator notes."""
    known = entries.known()
    entries.used += [slot if slot in known else slot + NEWS for slot in slots]


def known(store: EntryStore, *keys: str) -> list[list[int]]:
    """What a store says about pages."""
    return [sorted(store.of(key).known()) for key in keys]


def run(folder: Path, *slots: int, page: str = A) -> None:
    """A process that uses these slots."""
    one = store(folder)
    use(one.of(page), *slots)
    one.save()


def test_what_one_learnt_the_next_knows(tmp_path: Path) -> None:
    first = store(tmp_path)
    use(first.of(A), 7, 0, 7, 2047)
    first.of(B)
    assert known(first, A) == [[0, 7, 2047]]
    first.save()
    assert known(store(tmp_path), A, B) == [[0, 7, 2047], []]


def test_two_processes_add_to_each_others(tmp_path: Path) -> None:
    one, other = store(tmp_path), store(tmp_path)
    use(one.of(A), 1)
    use(one.of(C), 5)
    use(other.of(A), 2)
    use(other.of(B), 3)
    one.save()
    other.save()
    assert known(store(tmp_path), A, B, C) == [[1, 2], [3], [5]]


def test_without_news_nothing_is_written(tmp_path: Path) -> None:
    store(tmp_path).save()
    run(tmp_path, 1)
    before = (tmp_path / "entries").stat()
    run(tmp_path, 1)
    assert (tmp_path / "entries").stat().st_ino == before.st_ino
    run(tmp_path, 1, 2)
    assert (tmp_path / "entries").stat().st_ino != before.st_ino


def test_what_runs_do_not_use_any_more_goes(tmp_path: Path) -> None:
    run(tmp_path, 0, 1)
    for number in range(MAX_AGE):
        run(tmp_path, 1, 2 + number)
        run(tmp_path, number, page=B)  # news of another page do not count
    assert 0 in known(store(tmp_path), A)[0]
    run(tmp_path, 1, 2047)
    assert known(store(tmp_path), A) == [[*range(1, MAX_AGE + 2), 2047]]
    run(tmp_path, 2, 2046)
    assert 2 in known(store(tmp_path), A)[0]


def test_a_used_slot_is_young_again(tmp_path: Path) -> None:
    run(tmp_path, 0, 1)
    for number in range(MAX_AGE):
        run(tmp_path, 1, 2 + number)
    run(tmp_path, 0, 100)
    run(tmp_path, 1, 101)
    assert 0 in known(store(tmp_path), A)[0]


def test_the_oldest_pages_go(tmp_path: Path) -> None:
    first = store(tmp_path, max_pages=2)
    for key in (A, B, A, C):
        use(first.of(key), 1)
    first.save()
    assert known(store(tmp_path), A, B, C) == [[1], [], [1]]


@given(
    st.lists(
        st.tuples(st.sampled_from([A, B, C]), st.sets(st.integers(0, 2047), min_size=1)), max_size=8
    ),
    st.integers(0, 150),
)
def test_the_file_is_bounded(
    tmp_path_factory: pytest.TempPathFactory, runs: list[tuple[str, set[int]]], most: int
) -> None:
    """A page that does not fit goes, and those that are older with it; never what is not the oldest."""
    folder = tmp_path_factory.mktemp("store")
    for key, slots in runs:
        one = store(folder, max_bytes=most)
        use(one.of(key), *slots)
        one.save()
    contents = ObjectCache(folder).read("entries") or b""
    assert len(contents) <= most
    if runs and 22 + 2 * len(runs[-1][1]) <= most and runs[-1][0] not in dict(runs[:-1]):
        assert set(known(store(folder), runs[-1][0])[0]) == runs[-1][1]


@pytest.mark.parametrize("damage", [b"", b"x" * 100, None])
def test_a_damaged_file_is_no_file(tmp_path: Path, damage: bytes | None) -> None:
    run(tmp_path, 1)
    path = tmp_path / "entries"
    path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
    assert known(store(tmp_path), A) == [[]]


def test_what_is_no_page_ends_the_file(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path)
    pages = bytes.fromhex(A) + b"\1\0\xff\x07" + bytes.fromhex(B) + b"\1\x08" + bytes(0x1002)
    cache.write("entries", pages)
    assert known(store(tmp_path), A, B) == [[2047], []]
    cache.write("entries", pages[:24] + b"cut")
    assert known(store(tmp_path), A) == [[2047]]


def test_code_that_comes_and_goes_takes_no_more_memory() -> None:
    first = store(None)
    for _ in range(20):
        use(first.of(A), *range(500))
    assert len(first.of(A).used) <= 2048 + 500
    assert known(first, A) == [[*range(500)]]


def test_without_a_folder_it_lasts_as_long_as_the_process() -> None:
    first = store(None)
    use(first.of(A), 4)
    first.save()
    assert known(first, A) == [[4]]
