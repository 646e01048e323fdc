"""NVRAM files: damaged ones, and such as their checksum fits."""

from __future__ import annotations

import hashlib
import struct
from typing import Final

import attrs

from asyncvmm.storage.nvram import FlashPart, Nvram
from tools.fuzz.files import read_or_refused, resealed

NAME: Final = "fuzzed/nvram.bin"
_HEAD: Final = 16
_BODY: Final = 48


def _seeds() -> tuple[bytes, ...]:
    bare = Nvram.fresh(1)
    data = bytes(range(256)) * 16
    part = FlashPart(1 << 20, {3: data, 5: b"\x00" * 4096, 200: b"\x07" * 4096})
    small = FlashPart(8192, {1: b"\x55" * 4096})
    return (
        bare.to_bytes(),
        attrs.evolve(bare, clock_offset_ns=-5, flash=(small,)).to_bytes(),
        attrs.evolve(bare, flash=(small, small, FlashPart(4096), small)).to_bytes(),
        attrs.evolve(bare, flash=(part,)).to_bytes(),
    )


SEEDS: Final = _seeds()


def fuzz_file(data: bytes) -> None:
    """As it is."""
    _read(data)


def fuzz_sealed(data: bytes) -> None:
    """With the length and the checksum of its body put right."""
    if len(data) >= _BODY:
        data = data[:12] + struct.pack("<I", len(data) - _BODY) + data[_HEAD:]
        data = resealed(data, _HEAD, 32, _digest)
    _read(data)


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data[:_HEAD] + data[_BODY:]).digest()


def _read(data: bytes) -> None:
    found = read_or_refused(lambda: Nvram.from_bytes(data, NAME), NAME)
    if found is not None:  # there is one way to write a value
        assert found.to_bytes() == data
