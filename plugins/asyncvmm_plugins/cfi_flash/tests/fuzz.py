"""Hostile accesses: ``fuzz_one`` is one run, of any bytes, for tests and campaigns."""

from __future__ import annotations

from pathlib import Path

from asyncvmm.base.errors import GuestError
from asyncvmm.device import MemoryBlob
from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm_plugins.cfi_flash.chip import Command
from asyncvmm_plugins.cfi_flash.config import CfiFlashConfig
from asyncvmm_plugins.cfi_flash.contents import BANK_BLOCK_BYTES
from asyncvmm_plugins.cfi_flash.device import CfiFlash

IMAGE_BYTES = BANK_BLOCK_BYTES + 4096  # so that a block is there in part only
COMMANDS = tuple(Command)
PLACES = (0, 0x100, BANK_BLOCK_BYTES - 16, BANK_BLOCK_BYTES, IMAGE_BYTES - 16, 1 << 24)
_shared: list[CfiFlash] = []


def _flash() -> tuple[CfiFlash, MemoryBlob]:
    """One device for all runs (making one costs more than a run), as if it were new."""
    if not _shared:
        bench = DeviceBench()
        bench.io.blob = MemoryBlob(b"\xff" * IMAGE_BYTES)
        _shared.append(CfiFlash(CfiFlashConfig(Path("fuzzed")), bench.io))
    device = _shared[0]
    device.reset()
    blob = device.io.blob
    assert isinstance(blob, MemoryBlob)
    return device, blob


def fuzz_one(data: bytes) -> None:
    """Do the accesses that ``data`` spells, four bytes each; AssertionError when the device raises
    what is no GuestError, when memory and image differ, or when its state does not load again.
    """
    device, blob = _flash()
    for at in range(0, len(data) - 3, 4):
        how, where, low, high = data[at : at + 4]
        size = 1 << (how & 3)
        offset = PLACES[where % len(PLACES)] + (where // len(PLACES) * (1 if how & 64 else size))
        try:
            if how & 4:
                value = device.read(offset, size)
                assert -(1 << 63) <= value < 1 << max(8 * size, 63)
            else:
                command = COMMANDS[low % len(COMMANDS)] if how & 8 else low | high << 8
                word = command | command << 16 if how & 16 else command
                device.write(offset, size, word & (1 << 8 * size) - 1)
        except GuestError:
            assert offset % size, "an aligned access inside the flash is refused"
    for chip in device.chips:
        assert len(chip.words) <= chip.count <= 512
    assert device.contents.read(0, IMAGE_BYTES) == blob.contents, "memory and image differ"
    rest = device.contents.read(IMAGE_BYTES, BANK_BLOCK_BYTES)
    assert rest == b"\xff" * BANK_BLOCK_BYTES, "where there is no image, something was written"
    saved = device.save()
    device.reset()
    device.load(saved)
    assert device.save() == saved, "a saved state is another one after it was loaded"
