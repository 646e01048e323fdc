"""Files of object code: whatever is wrong with them costs time and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asyncvmm.engine.jit.object_cache import ObjectCache, host_key, translator_key
from asyncvmm.engine.jit.regions import CachedRegion, RegionStore, page_key, region_store

REGION_KEY = page_key(bytes(4096))


def test_what_was_written_is_read_by_another(tmp_path: Path) -> None:
    ObjectCache(tmp_path / "new" / "folder").write("a", b"code")
    other = ObjectCache(tmp_path / "new" / "folder")
    assert other.read("a") == b"code"
    assert other.read("b") is None
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["a"]


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 40], ids=["empty", "short", "other"])
def test_damaged_files_are_not_there(tmp_path: Path, damage: bytes) -> None:
    cache = ObjectCache(tmp_path)
    cache.write("a", b"some code")
    (tmp_path / "a").write_bytes(damage)
    assert cache.read("a") is None


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path)
    cache.write("a", b"some code")
    whole = bytearray((tmp_path / "a").read_bytes())
    for place in range(len(whole)):
        whole[place] ^= 1
        (tmp_path / "a").write_bytes(whole)
        assert cache.read("a") is None
        whole[place] ^= 1


def test_the_oldest_go_when_it_is_too_large(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, max_bytes=10_000)
    for number in range(10):
        cache.write(f"{number}", bytes(968))
        os.utime(tmp_path / f"{number}", (number, number))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 10_000
    cache.write("new", bytes(968))
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"4", "5", "6", "7", "8", "9", "new"}


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = ObjectCache(tmp_path / "file")
    cache.write("a", b"code")
    assert cache.read("a") is None
    ObjectCache(None).write("a", b"code")
    assert ObjectCache(None).read("a") is None


def test_too_large_for_the_folder(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path, max_bytes=1000)
    cache.write("a", bytes(300))
    assert cache.read("a") is None


def test_keys() -> None:
    """Hosts, translators and pages each make a difference."""
    assert len(translator_key()) == 32
    assert b"\0" in host_key()
    assert page_key(bytes(4096)) == REGION_KEY != page_key(bytes(4095) + b"\1")


def test_regions_that_are_no_code_are_ignored(tmp_path: Path) -> None:
    store = RegionStore(tmp_path)
    store.add(REGION_KEY, CachedRegion((1,), (1, 2), b"no ELF object"))
    assert len(store.find(REGION_KEY)) == 1
    assert RegionStore(tmp_path).find(REGION_KEY) == ()


@pytest.mark.parametrize("contents", [b"", b"[[1]]\n", b"[[[1], [2], 3]]", b"\xff\n", b"3\n"])
def test_files_of_something_else(tmp_path: Path, contents: bytes) -> None:
    ObjectCache(tmp_path / "regions").write(REGION_KEY, contents)
    assert RegionStore(tmp_path).find(REGION_KEY) == ()


def test_one_store_per_folder(tmp_path: Path) -> None:
    assert region_store(tmp_path) is region_store(tmp_path)
    assert region_store(tmp_path) is not region_store(tmp_path / "other")
