"""Linux Images: header, gzip, and files that are something else."""

from __future__ import annotations

import gzip
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.base.errors import ConfigError
from asyncvmm.firmware.image import parse_image


def make_image(text_offset: int = 0x200000, size: int = 0x3000, flags: int = 0) -> bytes:
    """A kernel of one page whose header has the given fields."""
    head = b"MZ\0\0" + bytes(4) + struct.pack("<QQQIIQ", text_offset, size, flags, 2, 0, 0)
    head += b"RISCV\0\0\0" + b"RSC\x05" + bytes(4)
    assert len(head) == 64
    return head.ljust(4096, b"\x5a")


def test_header_fields() -> None:
    image = parse_image(make_image(), "Image")
    assert (image.text_offset, image.memory_bytes, image.version) == (0x200000, 0x3000, (0, 2))
    assert image.data == make_image()


def test_image_size_is_at_least_the_file() -> None:
    assert parse_image(make_image(size=0), "Image").memory_bytes == 4096


def test_gzip_is_unpacked() -> None:
    assert parse_image(gzip.compress(make_image(), mtime=0), "Image.gz").data == make_image()


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (b"", "too few"),
        (b"\x7fELF" + bytes(100), "not a Linux Image but an ELF file"),
        (b"\xfd7zXZ" + bytes(100), "xz -d"),
        (bytes(56) + b"ARM\x64" + bytes(8), "arm64, not for RISC-V"),
        (bytes(4096), "no magic number at offset 56"),
        (make_image(flags=1), "big-endian"),
        (make_image(text_offset=0x1001), "text_offset 0x1001"),
        (make_image(text_offset=1 << 62), "text_offset"),
        (make_image(size=1 << 60), "image_size"),
        (gzip.compress(make_image(), mtime=0)[:-9], "truncated"),
        (gzip.compress(make_image(), mtime=0)[:10] + b"\xff" * 40, "damaged gzip data"),
    ],
)
def test_what_is_wrong_is_named(blob: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_image(blob, "vmlinuz")
    assert str(caught.value).startswith("vmlinuz: ")


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    changes=st.lists(st.tuples(st.integers(0, 70), st.integers(0, 255)), max_size=6),
    length=st.integers(0, 4096),
    packed=st.booleans(),
)
def test_any_damage_is_parsed_or_a_config_error(
    changes: list[tuple[int, int]], length: int, packed: bool
) -> None:
    blob = bytearray(gzip.compress(make_image(), mtime=0) if packed else make_image())[:length]
    for offset, value in changes:
        if offset < len(blob):
            blob[offset] = value
    try:
        parse_image(bytes(blob), "vmlinuz")
    except ConfigError as error:
        assert str(error).startswith("vmlinuz: ")
