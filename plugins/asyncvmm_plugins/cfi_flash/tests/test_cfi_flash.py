"""The flash against Intel's command set 0001 and JESD68.01 (CFI)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncvmm.base.errors import ConfigError, GuestError
from asyncvmm.device import MemoryBlob
from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm_plugins.cfi_flash.config import CfiFlashConfig
from asyncvmm_plugins.cfi_flash.contents import BANK_BLOCK_BYTES, SIZE_BYTES
from asyncvmm_plugins.cfi_flash.device import FLUSH_AFTER_NS, CfiFlash
from asyncvmm_plugins.cfi_flash.tests.fuzz import fuzz_one

READY = 0x0080_0080
BLOCK = BANK_BLOCK_BYTES


class Flash:
    """A flash with a megabyte of image, and the accesses of a driver that drives both chips."""

    def __init__(self, contents: bytes = b"\xff" * (4 * BLOCK), read_only: bool = False) -> None:
        self.bench = DeviceBench()
        self.blob = MemoryBlob(contents, read_only)
        self.bench.io.blob = self.blob
        self.device = CfiFlash(CfiFlashConfig(Path("flash.fd")), self.bench.io)
        self.device.reset()

    def __getitem__(self, offset: int) -> int:
        return self.device.read(offset, 4)

    def both(self, offset: int, value: int) -> None:
        """A command for both chips."""
        self.device.write(offset, 4, value << 16 | value)

    def program(self, offset: int, value: int) -> int:
        """A word each; the status then."""
        self.both(offset, 0x40)
        self.device.write(offset, 4, value)
        return self.status()

    def erase(self, offset: int) -> int:
        self.both(offset, 0x20)
        self.both(offset, 0xD0)
        return self.status()

    def buffered(self, offset: int, values: Sequence[int]) -> int:
        self.both(offset, 0xE8)
        assert self[offset] == READY
        self.both(offset, len(values) - 1)
        for number, value in enumerate(values):
            self.device.write(offset + 4 * number, 4, value)
        self.both(offset, 0xD0)
        return self.status()

    def status(self) -> int:
        status = self[0]
        self.both(0, 0x50)
        self.both(0, 0xFF)
        return status


def test_array_is_what_the_image_holds_at_every_width() -> None:
    flash = Flash(bytes(range(256)) * 4096)
    for size in (1, 2, 4, 8):
        value = flash.device.read(0x108, size)
        assert value.to_bytes(size, "little") == bytes(range(8, 8 + size))
    assert flash.device.read(SIZE_BYTES - 8, 8) == -1
    for offset, size in ((1, 2), (SIZE_BYTES, 1), (-4, 4)):
        with pytest.raises(GuestError):
            flash.device.read(offset, size)
        with pytest.raises(GuestError):
            flash.device.write(offset, size, 0)


def test_window_is_open_while_both_chips_show_their_arrays() -> None:
    flash = Flash()
    window = flash.bench.io.window
    assert window.is_open
    flash.device.write(2, 2, 0x70)
    assert not window.is_open
    assert flash[0] == 0x0080_FFFF  # the even chip still shows its array
    flash.device.write(0, 2, 0x70)
    flash.device.write(2, 2, 0xFF)
    assert not window.is_open
    flash.both(0, 0xFF)
    assert window.is_open
    flash.both(0, 0x40)
    assert not window.is_open
    flash.device.reset()
    assert window.is_open


def test_cfi_query_tells_both_chips_geometry() -> None:
    flash = Flash()
    flash.both(0x55 * 4, 0x98)
    table = [flash[4 * place] for place in range(0x45)]
    assert all(word >> 16 == word & 0xFFFF for word in table)
    chip = bytes(word & 0xFF for word in table)
    assert chip[0x10:0x13] == b"QRY"
    assert chip[0x13] == 1 and chip[chip[0x15] :][:5] == b"PRI10"
    blocks = int.from_bytes(chip[0x2D:0x2F], "little") + 1
    block_bytes = 256 * int.from_bytes(chip[0x2F:0x31], "little")
    assert chip[0x2C] == 1
    assert 2 * blocks * block_bytes == SIZE_BYTES == 2 << chip[0x27]
    assert 2 * block_bytes == BLOCK


def test_identifiers_are_intels_and_tell_locked_blocks() -> None:
    flash = Flash()
    flash.both(BLOCK, 0x60)
    flash.both(BLOCK, 0x01)
    flash.both(0, 0x90)
    assert (flash[0], flash[4], flash[8]) == (0x0089_0089, 0x0018_0018, 0)
    assert flash[BLOCK + 8] == 0x0001_0001


def test_programming_clears_bits_and_erasing_sets_them() -> None:
    flash = Flash()
    assert flash.program(0x100, 0x1234_5678) == READY
    assert flash.program(0x100, 0xFF0F_F0FF) == READY
    assert flash[0x100] == 0x1204_5078
    assert flash.blob.pread(0x100, 4) == (0x1204_5078).to_bytes(4, "little")
    assert flash.program(BLOCK, 0) == READY
    assert flash.erase(0x104) == READY
    assert flash[0x100] == 0xFFFF_FFFF and flash[BLOCK] == 0
    assert flash.blob.pread(0, BLOCK) == b"\xff" * BLOCK


def test_a_narrow_cycle_reaches_one_chip_and_leaves_the_other_bytes() -> None:
    flash = Flash()
    flash.device.write(2, 2, 0x10)
    flash.device.write(2, 2, 0xABCD)
    assert flash.device.read(2, 2) == 0x80 and flash.device.read(0, 2) == 0xFFFF
    flash.both(0, 0xFF)
    flash.device.write(4, 1, 0x40)
    flash.device.write(5, 1, 0x12)
    flash.both(0, 0xFF)
    assert (flash[0], flash[4]) == (0xABCD_FFFF, 0xFFFF_12FF)


def test_buffered_programming_is_all_or_nothing() -> None:
    flash = Flash()
    values = [0x0101_0101 * number for number in range(32)]
    assert flash.buffered(0x80, values) == READY
    assert [flash[0x80 + 4 * number] for number in range(32)] == values
    flash.both(0x200, 0xE8)
    flash.both(0x200, 1)
    flash.device.write(0x200, 4, 0)
    flash.device.write(0x204, 4, 0)
    flash.both(0x200, 0x70)  # no confirmation
    assert flash.status() == 0x00B0_00B0
    assert flash[0x200] == 0xFFFF_FFFF
    for count, offsets in ((512, ()), (1, (0x200, 0x208)), (1, (BLOCK,)), (1, (0x200, 0x200))):
        flash.both(0x200, 0xE8)
        flash.both(0x200, count)
        for offset in offsets:
            flash.device.write(offset, 4, 0)
        assert flash.status() == 0x00B0_00B0
        assert flash.device.contents.read(0x200, 12) == b"\xff" * 12


def test_locked_blocks_and_protected_flash_report_it() -> None:
    flash = Flash()
    flash.both(0, 0x60)
    flash.both(0, 0x01)
    assert flash.program(0, 0) == 0x0092_0092
    assert flash.erase(0) == 0x00A2_00A2
    assert flash.program(BLOCK, 0) == READY
    flash.both(0, 0x60)
    flash.both(0, 0xD0)
    assert flash.program(0, 0) == READY and flash[0] == 0
    protected = Flash(bytes(BLOCK), read_only=True)
    assert protected.erase(0) == 0x00A2_00A2 and protected[0] == 0
    assert flash.program(4 * BLOCK, 0) == 0x0092_0092  # where the image has nothing
    assert flash.erase(4 * BLOCK) == 0x00A2_00A2


def test_wrong_sequences_are_errors_until_the_status_is_cleared() -> None:
    flash = Flash()
    flash.both(0, 0x20)
    flash.both(0, 0xFF)
    flash.both(0, 0x70)
    assert flash[0] == 0x00B0_00B0
    flash.both(0, 0x60)
    flash.both(0, 0x55)
    assert flash.status() == 0x00B0_00B0
    flash.both(0, 0x70)
    assert flash[0] == READY
    flash.both(0, 0xB0)
    flash.both(0, 0xD0)
    assert flash[0] == READY
    flash.both(0, 0x33)
    assert flash.bench.io.window.is_open


def test_changes_are_made_durable_after_a_second() -> None:
    flash = Flash()
    flash.program(0, 0)
    flash.bench.advance(FLUSH_AFTER_NS - 1)
    flash.program(4, 0)
    assert flash.blob.flushes == 0
    flash.bench.advance(1)
    assert flash.blob.flushes == 1
    flash.bench.advance(10 * FLUSH_AFTER_NS)
    assert flash.blob.flushes == 1
    flash.program(8, 0)
    flash.bench.advance(FLUSH_AFTER_NS)
    assert flash.blob.flushes == 2


def test_snapshot_goes_on_in_the_middle_of_a_command() -> None:
    flash = Flash()
    flash.program(0, 0xA5A5_5A5A)
    flash.both(0x40, 0xE8)
    flash.both(0x40, 1)
    flash.device.write(0x44, 4, 0x1111_2222)
    saved = flash.device.save()
    other = Flash(bytes(flash.blob.contents))
    other.device.load(saved)
    assert other.device.save() == saved and not other.bench.io.window.is_open
    other.device.write(0x40, 4, 0x3333_4444)
    other.both(0x40, 0xD0)
    assert other.status() == READY
    assert (other[0x40], other[0x44]) == (0x3333_4444, 0x1111_2222)
    other.bench.advance(FLUSH_AFTER_NS)
    assert other.blob.flushes == 1
    with pytest.raises(ConfigError, match="its image has changed"):
        Flash().device.load(saved)


def test_an_image_that_is_too_large_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not fit"):
        Flash(bytes(SIZE_BYTES + 1))
    assert Flash(b"\0")[0] == 0xFFFF_FF00


@settings(max_examples=50)
@given(st.binary(max_size=600))
def test_any_accesses_leave_image_and_memory_equal(data: bytes) -> None:
    fuzz_one(data)
