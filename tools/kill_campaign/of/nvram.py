"""nvram.bin: its flash, its clock and who it is, changed by two threads; each is old or new, and whole."""

from __future__ import annotations

import os
import random
import threading
import traceback
from collections.abc import Sequence
from typing import Final

import attrs

from asyncvmm.api import VmFolder
from asyncvmm.base.units import PAGE_SIZE
from asyncvmm.runtime.folder.nvram import new_identity
from asyncvmm.runtime.folder.running import locked
from asyncvmm.storage.nvram import FlashPart, Nvram, update_nvram
from asyncvmm.storage.nvram_flash import NvramFlash
from tools.kill_campaign.work import Place, Work, say

PAGES: Final = 48
SIZE_BYTES: Final = PAGES * PAGE_SIZE
WHATS: Final = ("flash", "clock", "who")


def page_of(number: int, page: int) -> bytes:
    """What the flash holds at a page after change ``number``: some of it erased, filled, or data."""
    kind = (number + page) % 3
    if kind == 0:
        return b"\xff" * PAGE_SIZE
    if kind == 1:
        return bytes([number % 255]) * PAGE_SIZE
    return (number << 16 | page).to_bytes(8, "little") * (PAGE_SIZE // 8)


class NvramWork(Work):
    """Writes the whole flash and flushes it, while another thread sets the clock and the identity."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.may_be = {what: {0} for what in WHATS}

    def prepare(self) -> None:
        """See Work."""
        part = FlashPart.of(_flash(0), SIZE_BYTES)
        fresh = attrs.evolve(Nvram.fresh(0), flash=(part,), clock_offset_ns=0)
        update_nvram(self.folder.paths.nvram, lambda old: fresh)

    @staticmethod
    def do(folder: VmFolder, rng: random.Random, number: int) -> None:
        """See Work."""
        with locked(folder.paths):
            numbers = _Numbers(number)
            other = threading.Thread(target=_set_others, args=(folder, numbers), daemon=True)
            other.start()
            flash = NvramFlash(folder.paths.nvram)
            while True:
                number = numbers.next()
                order = list(range(PAGES))
                rng.shuffle(order)
                for page in order:
                    flash.pwrite(page * PAGE_SIZE, page_of(number, page))
                say("begin", "flash", number)
                flash.flush()
                say("done", "flash", number)

    def heard(self, words: Sequence[str]) -> None:
        """See Work."""
        word, what, number = words[0], words[1], int(words[2])
        self.number = max(self.number, number)
        if word == "begin":
            self.may_be[what].add(number)
        else:
            self.may_be[what] = {number}

    def check(self) -> None:
        """See Work."""
        self.number += 2  # numbers that were taken and not said
        nvram = self.folder.nvram
        assert len(nvram.flash) == 1
        data = nvram.flash[0].read(0, SIZE_BYTES)
        found = {
            "flash": {n for n in self.may_be["flash"] if data == _flash(n)},
            "clock": {n for n in self.may_be["clock"] if nvram.clock_offset_ns == n},
            "who": {n for n in self.may_be["who"] if _who(nvram) == _who(Nvram.fresh(n))},
        }
        assert all(len(numbers) == 1 for numbers in found.values()), (found, self.may_be)
        self.may_be = found


class _Numbers:
    """Rising ones, for two threads."""

    def __init__(self, last: int) -> None:
        self._last = last
        self._lock = threading.Lock()

    def next(self) -> int:
        with self._lock:
            self._last += 1
            return self._last


def _set_others(folder: VmFolder, numbers: _Numbers) -> None:
    try:
        while True:
            _set_clock(folder, numbers.next())
            _set_identity(folder, numbers.next())
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # which the one who kills notices, as it would not notice the end of a thread


def _set_clock(folder: VmFolder, number: int) -> None:
    say("begin", "clock", number)
    update_nvram(folder.paths.nvram, lambda old: attrs.evolve(old, clock_offset_ns=number))
    say("done", "clock", number)


def _set_identity(folder: VmFolder, number: int) -> None:
    say("begin", "who", number)
    new_identity(folder.paths, number)
    say("done", "who", number)


def _flash(number: int) -> bytes:
    return b"".join([page_of(number, page) for page in range(PAGES)])


def _who(nvram: Nvram) -> tuple[bytes, bytes, int, int]:
    return nvram.uuid, nvram.machine_id, nvram.mac_seed, nvram.random_seed
