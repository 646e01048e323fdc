"""A guest programs its flash, word by word, and sets its date: what was there for a second is kept.

Chips have no flush. What is promised instead (decision 0017): a change is durable one second of virtual time
after it at the latest, and the file is what the flash held at one instant.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from typing import Final

import attrs
import trio

from asyncvmm.api import VmFolder
from asyncvmm.base.units import PAGE_SIZE
from asyncvmm.plugin.images import BootFiles, DiskFile
from asyncvmm.runtime.folder.create import NewMachine, create_folder
from asyncvmm.runtime.folder.running import locked
from asyncvmm.storage.nvram import FlashPart, update_nvram
from asyncvmm.testing import assemble, to_elf
from tools.kill_campaign.work import Place, Work, say

FLASH_BYTES: Final = 1 << 20
FULL_BYTES: Final = FLASH_BYTES // 2
DURABLE_NS: Final = 1_000_000_000
SLACK_NS: Final = 100_000_000
DATE_NS: Final = 1 << 32  # how far the guest sets its date each time
NAME: Final = "flash.vm"

# From the first word that is erased on, word n becomes n; a dot says that it is. Every 64 words the date is
# set 2**32 ns later.
PROGRAM: Final = """
_start:
    li   s0, 0x20000000
    li   s1, 0x10000000
    li   s2, 0x101000
    li   s3, 0
    li   s4, 0x00400040
    li   s5, 0x00ff00ff
    li   s6, 0xffffffff
1:  add  t1, s0, s3
    lwu  t0, 0(t1)
    beq  t0, s6, next
    addi s3, s3, 4
    j    1b
next:
    add  t1, s0, s3
    srli t0, s3, 2
    sw   s4, 0(t1)
    sw   t0, 0(t1)
    sw   s5, 0(t1)
    addi s3, s3, 4
    li   a0, 46
    sb   a0, 0(s1)
    andi t0, s3, 0xff
    bnez t0, 2f
    lw   t0, 0(s2)
    lw   t1, 4(s2)
    addi t1, t1, 1
    sw   t1, 4(s2)
    sw   t0, 0(s2)
2:  li   t0, 5000
3:  addi t0, t0, -1
    bnez t0, 3b
    j    next
"""


class FlashWork(Work):
    """The flash holds the words that are durable, perhaps more, and nothing between or behind them."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.durable = 0
        self.clock_ns = 0

    @property
    def folder(self) -> VmFolder:
        """A machine of its own."""
        return self.place.beside(NAME)

    def prepare(self) -> None:
        """See Work."""
        path = self.place.folder.path.with_name(NAME)
        elf, flash = path.with_suffix(".elf"), path.with_suffix(".fd")
        elf.write_bytes(to_elf(assemble(PROGRAM, 0x80000000)))
        flash.write_bytes(b"\xff" * FLASH_BYTES)
        files = BootFiles(elf=elf, flash=(DiskFile(flash),), memory="8M")
        wanted = NewMachine(files=files, keys={"mips": "1"})
        create_folder(path, wanted, types=self.place.folder.plugins.device_types)

    def before(self) -> None:
        """See Work: a flash that is half full is erased."""
        if self.number * 4 > FULL_BYTES:
            erased = (FlashPart(FLASH_BYTES),)
            with locked(self.folder.paths):
                update_nvram(self.folder.paths.nvram, lambda old: attrs.evolve(old, flash=erased))
            self.number = self.durable = 0

    @staticmethod
    def do(folder: VmFolder, rng: random.Random, number: int) -> None:
        """See Work. ``number`` is how many words there are already."""
        trio.run(_program, folder, number)

    def heard(self, words: Sequence[str]) -> None:
        """See Work."""
        assert words[0] == "durable"
        self.durable = int(words[1])

    def check(self) -> None:
        """See Work."""
        with locked(self.folder.paths):
            nvram = self.folder.nvram
        data = nvram.flash[0].read(0, FLASH_BYTES)
        count = len(data.rstrip(b"\xff")) // 4  # no word that is there ends with ones
        wanted = b"".join(n.to_bytes(4, "little") for n in range(count)).ljust(FLASH_BYTES, b"\xff")
        assert data == wanted, f"the flash is a mixture: {count} words, {nvram.flash[0]}"
        assert count >= self.durable, (count, self.durable)
        assert nvram.clock_offset_ns >= self.clock_ns, (nvram.clock_offset_ns, self.clock_ns)
        times = round(nvram.clock_offset_ns / DATE_NS)
        lag_ns = times * DATE_NS - nvram.clock_offset_ns
        assert 0 <= lag_ns <= times * 20_000, (times, lag_ns)
        self.number = self.durable = count
        self.clock_ns = nvram.clock_offset_ns


async def _program(folder: VmFolder, count: int) -> None:
    async with folder.run(cold=True) as machine:
        guest = machine.guest
        there: deque[tuple[int, int]] = deque()  # so many words were there at that instant
        while True:
            count += len(await guest.console.receive_some())
            there.append((guest.now_ns, count))
            durable = 0
            while there and there[0][0] + DURABLE_NS + SLACK_NS < guest.now_ns:
                durable = there.popleft()[1]
            if durable:
                say("durable", durable)
            if count * 4 >= FLASH_BYTES - PAGE_SIZE:
                await trio.sleep_forever()
