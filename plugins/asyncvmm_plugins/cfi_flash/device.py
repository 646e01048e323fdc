"""The flash of QEMU's ``virt`` board: a bank of two 16-bit chips, four bytes wide."""

from __future__ import annotations

from typing import Final

from asyncvmm.base.errors import ConfigError, GuestError
from asyncvmm.device import DeviceIo, MmioDevice
from asyncvmm_plugins.cfi_flash.chip import Chip
from asyncvmm_plugins.cfi_flash.config import CfiFlashConfig
from asyncvmm_plugins.cfi_flash.contents import LANES, SIZE_BYTES, Contents, Lane
from asyncvmm_plugins.cfi_flash.state import CfiFlashState, ChipState

FLUSH_AFTER_NS: Final = 1_000_000_000
__all__ = ["SIZE_BYTES", "CfiFlash"]


class CfiFlash(MmioDevice):
    """32 MiB at the bus: byte ``4 * n`` and ``4 * n + 1`` are word ``n`` of the even chip.

    As long as both chips show their arrays the window is open: harts read and run what is in it as
    they do RAM. What is programmed is made durable a second of virtual time after the first change.
    """

    state_type = CfiFlashState

    def __init__(self, config: CfiFlashConfig, io: DeviceIo) -> None:
        super().__init__(io, (), SIZE_BYTES)
        self.contents = Contents(io)
        self.lanes = [Lane(self.contents, number) for number in range(LANES)]
        self.chips = [Chip(lane) for lane in self.lanes]
        self._flush_ns: int | None = None
        self._event = io.clock.after(0, self._flush)
        self._event.cancel()

    def reset(self) -> None:
        """Both chips show their arrays, and nothing is locked. What they hold stays."""
        super().reset()
        for chip in self.chips:
            chip.reset()
        self._show()

    def read(self, offset: int, size: int) -> int:
        """A read cycle of every chip that one of the bytes is of; 8 bytes are two of each."""
        self._check(offset, size)
        data = bytearray()
        for at in range(offset & ~1, offset + size, 2):
            chip = self.chips[at // 2 % LANES]
            data += chip.read(at // (2 * LANES)).to_bytes(2, "little")
        start = offset & 1
        return int.from_bytes(data[start : start + size], "little", signed=size == 8)

    def write(self, offset: int, size: int, value: int) -> None:
        """A write cycle of every chip that one of the bytes is for. Bytes that are not written read as
        ones to the chip."""
        self._check(offset, size)
        data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        if size == 1:
            data = b"\xff" + data if offset & 1 else data + b"\xff"
            offset &= ~1
        for at in range(0, len(data), 2):
            place = offset + at
            chip = self.chips[place // 2 % LANES]
            chip.write(place // (2 * LANES), int.from_bytes(data[at : at + 2], "little"))
        if any(lane.changed for lane in self.lanes):
            self._changed()
        self._show()

    def _check(self, offset: int, size: int) -> None:
        if offset < 0 or offset + size > SIZE_BYTES or offset % size:
            raise GuestError("the flash takes aligned accesses inside it")

    def _show(self) -> None:
        self.io.window.set_open(all(chip.is_array for chip in self.chips))

    def _changed(self) -> None:
        for lane in self.lanes:
            lane.changed = False
        if self._flush_ns is None:
            self._schedule(self.io.clock.now_ns + FLUSH_AFTER_NS)

    def _schedule(self, at_ns: int) -> None:
        self._flush_ns = at_ns
        self._event = self.io.clock.after(max(0, at_ns - self.io.clock.now_ns), self._flush)

    def _flush(self) -> None:
        self._flush_ns = None
        self.contents.flush()

    def state(self) -> CfiFlashState:
        """What the chips are doing, and what they should hold."""
        even, odd = (ChipState.of(chip) for chip in self.chips)
        return CfiFlashState(even, odd, self.contents.digest, self._flush_ns)

    def restore(self, state: CfiFlashState) -> None:
        """Be in the middle of the same commands; ConfigError when the image holds something else."""
        if state.contents != self.contents.digest:
            self.contents.load()
            if state.contents != self.contents.digest:
                raise ConfigError(f"{self.io.path}: its image has changed since this was saved")
        for chip, saved in zip(self.chips, (state.even, state.odd), strict=True):
            saved.put(chip)
        self._event.cancel()
        self._flush_ns = None
        if state.flush_ns is not None:
            self._schedule(state.flush_ns)
        self._show()
