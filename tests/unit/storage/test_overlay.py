"""Throw-away overlays."""

from __future__ import annotations

import random

import pytest

from asyncvmm.base.errors import BackendError
from asyncvmm.device import Blob, MemoryBlob
from asyncvmm.storage import OverlayBlob


class Base(Blob):
    def __init__(self, contents: bytes) -> None:
        super().__init__(len(contents), True)
        self.contents = contents
        self.closed = 0

    def pread(self, offset: int, length: int) -> bytes:
        return self.contents[offset : offset + length]

    def close(self) -> None:
        self.closed += 1


def test_forks_are_independent_and_the_base_stays() -> None:
    rng = random.Random(1)
    size = 10 * 4096 + 512
    contents = rng.randbytes(size)
    base = Base(contents)
    disks = [(OverlayBlob(base), bytearray(contents))]
    for step in range(400):
        disk, model = rng.choice(disks)
        offset = rng.randrange(size)
        length = min(size - offset, rng.randrange(1, 9000))
        if step % 40 == 39 and len(disks) < 6:
            disks.append((disk.fork(), bytearray(model)))
        if rng.random() < 0.3:
            disk.write_zeroes(offset, length)
            model[offset : offset + length] = bytes(length)
        else:
            data = rng.randbytes(length)
            disk.pwrite(offset, data)
            model[offset : offset + length] = data
        for each, wanted in disks:
            assert each.pread(0, size) == wanted
    assert base.contents == contents
    assert len(disks) == 6
    for each, _ in disks[:-1]:
        each.close()
        each.close()
    assert base.closed == 0
    assert disks[-1][0].pread(0, size) == disks[-1][1]
    disks[-1][0].close()
    assert base.closed == 1


def test_bounds() -> None:
    disk = OverlayBlob(MemoryBlob(bytes(4096)))
    for offset, length in ((-1, 1), (4096, 1), (0, 4097)):
        with pytest.raises(BackendError, match="beyond its end"):
            disk.pread(offset, length)
        with pytest.raises(BackendError, match="beyond its end"):
            disk.write_zeroes(offset, length)
    disk.flush()
    disk.close()
