"""The flash in an NVRAM file as a blob: what was flushed is in the file, all of it or nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncvmm.base.errors import BackendError
from asyncvmm.device import MemoryBlob
from asyncvmm.storage.nvram import FlashPart, Nvram, NvramError, update_nvram
from asyncvmm.storage.nvram_flash import NvramFlash, flash_part

SIZE = 5 * 4096


def nvram_file(folder: Path, contents: bytes = b"") -> Path:
    path = folder / "nvram.bin"
    attrs.evolve(Nvram.fresh(1), flash=(FlashPart.of(contents, SIZE),)).save(path)
    return path


@given(
    st.lists(
        st.tuples(st.integers(0, SIZE), st.binary(max_size=9000) | st.just(b"\xff" * 8192)),
        max_size=8,
    )
)
def test_it_reads_as_it_was_written(writes: list[tuple[int, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = nvram_file(Path(folder), b"as shipped")
        flash, model = NvramFlash(path), bytearray(b"as shipped".ljust(SIZE, b"\xff"))
        for offset, data in writes:
            data = data[: SIZE - offset]
            flash.pwrite(offset, data)
            model[offset : offset + len(data)] = data
            assert flash.pread(offset, len(data)) == data
        assert flash.pread(0, SIZE) == model
        flash.flush()
        again = NvramFlash(path, read_only=True)
        assert again.pread(0, SIZE) == model
        assert flash_part(again) == FlashPart.of(bytes(model), SIZE) == Nvram.load(path).flash[0]


def test_the_file_changes_when_it_is_flushed_or_closed(tmp_path: Path) -> None:
    path = nvram_file(tmp_path)
    before = path.read_bytes()
    flash = NvramFlash(path)
    flash.flush()
    assert path.read_bytes() == before
    flash.pwrite(4090, b"across pages")
    assert path.read_bytes() == before
    flash.flush()
    assert Nvram.load(path).flash[0].read(4090, 12) == b"across pages"
    update_nvram(path, lambda nvram: attrs.evolve(nvram, clock_offset_ns=5))
    flash.pwrite(0, b"last")
    flash.close()
    found = Nvram.load(path)
    assert found.flash[0].read(0, 4) == b"last" and found.clock_offset_ns == 5
    assert attrs.evolve(found, flash=(), clock_offset_ns=0) == Nvram.fresh(1)
    assert [file.name for file in tmp_path.iterdir()] == ["nvram.bin"]


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    path = nvram_file(tmp_path)
    flash = NvramFlash(path, read_only=True)
    with pytest.raises(BackendError, match="to be read only"):
        flash.pwrite(0, b"x")
    with pytest.raises(BackendError, match="outside the flash part"):
        flash.pread(SIZE - 1, 2)
    Nvram.fresh(1).save(path)
    with pytest.raises(NvramError, match="holds no flash part"):
        NvramFlash(path)
    lost = NvramFlash(nvram_file(tmp_path))
    lost.pwrite(0, b"x")
    path.unlink()
    with pytest.raises(NvramError, match=r"nvram\.bin"):
        lost.flush()
    assert flash_part(MemoryBlob(b"short")) == FlashPart.of(b"short", 4096)
