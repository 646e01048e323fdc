"""Raw images: bytes, bounds, locks, holes and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.storage import RawImage


def image(tmp_path: Path, size: int = 8192) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(b"\xaa" * size)
    return path


def test_reads_and_writes_are_the_files(tmp_path: Path) -> None:
    path = image(tmp_path)
    disk = RawImage(path)
    assert (disk.size_bytes, disk.read_only) == (8192, False)
    disk.pwrite(512, b"hello")
    disk.flush()
    assert path.read_bytes()[510:518] == b"\xaa\xaahello\xaa"
    assert disk.pread(512, 5) == b"hello"
    disk.close()
    disk.close()


@pytest.mark.parametrize("unmap", [False, True])
def test_zeroes_are_zeroes_and_the_size_stays(tmp_path: Path, unmap: bool) -> None:
    path = image(tmp_path, 1 << 16)
    disk = RawImage(path)
    disk.write_zeroes(4096, 8192, unmap)
    assert disk.pread(4095, 8194) == b"\xaa" + bytes(8192) + b"\xaa"
    disk.discard(16384, 4096)
    assert path.stat().st_size == 1 << 16
    disk.close()


def test_out_of_bounds_and_cut_short(tmp_path: Path) -> None:
    path = image(tmp_path)
    disk = RawImage(path)
    with pytest.raises(BackendError, match="beyond its end"):
        disk.pwrite(8190, b"abc")
    os.truncate(path, 1024)
    with pytest.raises(BackendError, match="cut short"):
        disk.pread(512, 4096)
    disk.close()


def test_what_cannot_be_a_disk_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.img: No such file"):
        RawImage(tmp_path / "nowhere.img")
    with pytest.raises(ConfigError, match=r"Is a directory|not a file"):
        RawImage(tmp_path, read_only=True)
    for size in (0, 513):
        with pytest.raises(ConfigError, match=f"{size} bytes are not a whole number"):
            RawImage(image(tmp_path, size))


def test_one_writer_or_many_readers(tmp_path: Path) -> None:
    path = image(tmp_path)
    writer = RawImage(path)
    for read_only in (False, True):
        with pytest.raises(ConfigError, match="another guest"):
            RawImage(path, read_only)
    writer.close()
    readers = [RawImage(path, read_only=True) for _ in range(2)]
    with pytest.raises(ConfigError, match="another guest"):
        RawImage(path)
    with pytest.raises(BackendError):
        readers[0].pwrite(0, b"x")
    for reader in readers:
        reader.close()
