"""Where blocks begin, in a file that processes share."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyncvmm.engine.jit.entry_store import EntryStore
from asyncvmm.engine.jit.object_cache import ObjectCache

A, B, C = (letter * 40 for letter in "abc")


def store(folder: Path | None, **options: int) -> EntryStore:
    """As another process has it."""
    return EntryStore(ObjectCache(folder), "entries", **options)


def test_what_one_learnt_the_next_knows(tmp_path: Path) -> None:
    first = store(tmp_path)
    first.of(A).extend([7, 0, 7, 2047])
    first.of(B)
    first.save()
    assert store(tmp_path).of(A) == [0, 7, 2047]
    assert store(tmp_path).of(B) == []


def test_two_processes_add_to_each_others(tmp_path: Path) -> None:
    one, other = store(tmp_path), store(tmp_path)
    one.of(A).append(1)
    one.of(C).append(5)
    other.of(A).append(2)
    other.of(B).append(3)
    one.save()
    other.save()
    assert [store(tmp_path).of(key) for key in (A, B, C)] == [[1, 2], [3], [5]]


def test_without_news_nothing_is_written(tmp_path: Path) -> None:
    store(tmp_path).save()
    first = store(tmp_path)
    first.of(A).append(1)
    first.save()
    before = (tmp_path / "entries").stat()
    again = store(tmp_path)
    again.of(A).append(1)
    again.save()
    assert (tmp_path / "entries").stat().st_ino == before.st_ino


def test_the_oldest_pages_go(tmp_path: Path) -> None:
    first = store(tmp_path, max_pages=2)
    for key in (A, B, A, C):
        first.of(key).append(1)
    first.save()
    assert [store(tmp_path).of(key) for key in (A, B, C)] == [[1], [], [1]]


@pytest.mark.parametrize("damage", [b"", b"x" * 100, None])
def test_a_damaged_file_is_no_file(tmp_path: Path, damage: bytes | None) -> None:
    first = store(tmp_path)
    first.of(A).append(1)
    first.save()
    path = tmp_path / "entries"
    path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
    assert store(tmp_path).of(A) == []


def test_slots_that_no_page_has_are_left_out(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path)
    pages = bytes.fromhex(A) + b"\1\0\0\x08" + bytes.fromhex(B) + b"\1\0\xff\x07" + b"cut"
    cache.write("entries", pages)
    assert (store(tmp_path).of(A), store(tmp_path).of(B)) == ([], [2047])


def test_without_a_folder_it_lasts_as_long_as_the_process() -> None:
    first = store(None)
    first.of(A).append(4)
    first.save()
    assert first.of(A) == [4]
