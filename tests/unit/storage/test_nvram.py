"""The NVRAM file: what is saved comes back, and nothing that is wrong with a file gets past."""

from __future__ import annotations

import contextlib
import hashlib
import struct
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.storage.nvram import ERASED, MAX_FILE_BYTES, FlashPart, Nvram, NvramError

U64 = st.integers(0, 2**64 - 1)
PAGES = st.one_of(
    st.integers(0, 254).map(lambda value: bytes([value]) * 4096),
    st.binary(min_size=1, max_size=64).map(lambda data: (data + b"\0" + b"\xff" * 4096)[:4096]),
)
PARTS = st.integers(1, 64).flatmap(
    lambda count: st.builds(
        FlashPart,
        st.just(count * 4096),
        st.dictionaries(st.integers(0, count - 1), PAGES, max_size=6),
    )
)
NVRAMS = st.builds(
    Nvram,
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=16, max_size=16),
    U64,
    U64,
    st.integers(-(2**63), 2**63 - 1),
    st.lists(PARTS, max_size=3).map(tuple),
)


def sealed(body: bytes) -> bytes:
    """A file of a stranger who knows how to make checksums."""
    head = struct.pack("<8sII", b"AVMNVRM1", 1, len(body))
    return head + hashlib.sha256(head + body).digest() + body


@given(NVRAMS)
def test_what_is_written_is_read(nvram: Nvram) -> None:
    data = nvram.to_bytes()
    again = Nvram.from_bytes(data, "x")
    assert again == nvram and again.to_bytes() == data
    assert [dict(part.pages) for part in again.flash] == [dict(part.pages) for part in nvram.flash]


@given(NVRAMS, st.data())
def test_a_changed_or_cut_file_is_refused(nvram: Nvram, data: st.DataObject) -> None:
    good = nvram.to_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    for wrong in (bytes(bad), good[:at], good + b"\0"):
        with pytest.raises(NvramError, match=r"^web\.vm/nvram\.bin: "):
            Nvram.from_bytes(wrong, "web.vm/nvram.bin")


@given(st.binary(max_size=300))
def test_a_well_sealed_body_of_anything_is_taken_only_if_it_is_one(body: bytes) -> None:
    data = sealed(body)
    try:
        nvram = Nvram.from_bytes(data, "x")
    except NvramError as error:
        assert str(error).startswith("x: byte ")
    else:
        assert nvram.to_bytes() == data


@given(NVRAMS, st.data())
def test_a_sealed_body_with_changes_is_one_or_an_error(nvram: Nvram, data: st.DataObject) -> None:
    body = bytearray(nvram.to_bytes()[48:])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, min(len(body), 200) - 1))] = data.draw(st.integers(0, 255))
    whole = sealed(bytes(body))
    with contextlib.suppress(NvramError):
        assert Nvram.from_bytes(whole, "x").to_bytes() == whole


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "byte 48: 60 bytes are expected, 0"),
        (bytes(56) + b"\x05\0\0\0", "5 flash parts"),
        (bytes(56) + b"\1\0\0\0" + struct.pack("<QI", 4096, 2), "byte 108: a flash part of 4096"),
        (bytes(56) + b"\1\0\0\0" + struct.pack("<QI", 1 << 40, 0), "flash part of 1099511627776"),
        (bytes(56) + b"\1\0\0\0" + struct.pack("<QIIBB", 4096, 1, 0, 1, 255), "the short way"),
        (bytes(56) + b"\1\0\0\0" + struct.pack("<QIIB", 4096, 1, 0, 0) + bytes(4096), "short way"),
        (bytes(56) + b"\1\0\0\0" + struct.pack("<QIIBB", 4096, 1, 1, 1, 0), "page 1 of kind 1"),
        (bytes(61), "byte 108: nothing more"),
    ],
)
def test_the_place_is_named(body: bytes, text: str) -> None:
    with pytest.raises(NvramError, match=text):
        Nvram.from_bytes(sealed(body), "x")


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "nvram.bin"
    nvram = attrs.evolve(
        Nvram.fresh(7), clock_offset_ns=-5, flash=(FlashPart.of(b"variables", 1 << 25),)
    )
    nvram.save(path)
    assert Nvram.load(path) == nvram
    assert path.stat().st_size < 5000
    assert [file.name for file in tmp_path.iterdir()] == ["nvram.bin"]
    with pytest.raises(BackendError):
        nvram.save(tmp_path / "none" / "nvram.bin")
    with pytest.raises(NvramError, match=r"none: No such file"):
        Nvram.load(tmp_path / "none")
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(NvramError, match="more than such a file may have"):
        Nvram.load(path)


def test_a_new_machine_has_an_identity_of_its_own() -> None:
    assert Nvram.fresh(1) == Nvram.fresh(1) != Nvram.fresh(2)
    assert Nvram.fresh() != Nvram.fresh()
    uuid = Nvram.fresh(3).uuid
    assert uuid[6] >> 4 == 4 and uuid[8] >> 6 == 2


def test_values_are_checked() -> None:
    good = Nvram.fresh(1)
    for changes in ({"uuid": b"short"}, {"mac_seed": -1}, {"clock_offset_ns": 1 << 63}):
        with pytest.raises(ConfigError):
            attrs.evolve(good, **changes)  # type: ignore[arg-type]
    for size, pages in (
        (4095, {}),
        (4096, {1: bytes(4096)}),
        (4096, {0: ERASED}),
        (4096, {0: b""}),
    ):
        with pytest.raises(ConfigError):
            FlashPart(size, pages)


def test_a_part_is_read_anywhere() -> None:
    part = FlashPart.of(bytes(5000), 3 * 4096)
    assert part.read(4990, 20) == bytes(10) + b"\xff" * 10
    assert part.read(0, 3 * 4096) == bytes(5000) + b"\xff" * (3 * 4096 - 5000)
    assert sorted(part.pages) == [0, 1]
    with pytest.raises(ValueError, match="outside"):
        part.read(3 * 4096, 1)
