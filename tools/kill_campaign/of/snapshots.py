"""Snapshots of a machine that runs: those that were acknowledged load, those that were deleted are gone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

import trio

from asyncvmm.api import VmFolder
from asyncvmm.runtime.folder.running import locked
from asyncvmm.runtime.folder.snapshots import FolderSnapshots
from asyncvmm.storage import opened
from asyncvmm.storage.nvram import Nvram
from tools.kill_campaign.work import Place, Work, say

FIRST: Final = "first"
BLOCK: Final = 4096
MARK: Final = b"the first".ljust(BLOCK, b"!")
AT: Final = 5 * BLOCK


class SnapshotWork(Work):
    """Keeps snapshots and deletes some. ``FIRST`` is older than all, and has the disk that it had."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.certain: set[str] = set()
        self.doubtful: set[str] = set()
        self.nvrams: dict[str, Nvram] = {}

    def prepare(self) -> None:
        """See Work."""
        with opened(self.folder.path / "disks/data0.qcow2") as image:
            image.pwrite(AT, MARK)
        trio.run(self.folder.snapshot, FIRST)
        self.nvrams[FIRST] = self.folder.nvram

    @staticmethod
    def do(folder: VmFolder, rng: random.Random, number: int) -> None:
        """See Work."""
        trio.run(_keep, folder, rng, number)

    def heard(self, words: Sequence[str]) -> None:
        """See Work."""
        word, number = words[0], int(words[1])
        name = f"s{number}"
        self.number = max(self.number, number)
        if word in ("begin", "delete"):
            self.doubtful.add(name)
            self.certain.discard(name)
        else:
            self.doubtful.discard(name)
            if word == "done":
                self.certain.add(name)

    def check(self) -> None:
        """See Work."""
        with locked(self.folder.paths):
            snapshots = FolderSnapshots(self.folder.paths)
            there = set(snapshots.names()) - {FIRST}
            assert self.certain <= there <= self.certain | self.doubtful, there
            self.certain, self.doubtful = there, set()
            for info in snapshots.list():
                assert not info.damage, info
                snapshots.load(info.name).close()
                # What a snapshot has of the NVRAM never changes; a new one has it as it is.
                found = snapshots.nvram(info.name)
                assert found is not None, info
                known = self.nvrams.setdefault(info.name, self.folder.nvram)
                assert found == known, (info.name, found, known)
            with snapshots.load(FIRST) as first:
                assert first.saved.disks[0].pread(AT, BLOCK) == MARK
            for name in sorted(there, key=lambda each: int(each[1:]))[:-3]:
                if self.folder.head.resume != name:
                    snapshots.delete(name)
                    self.certain.discard(name)


async def _keep(folder: VmFolder, rng: random.Random, number: int) -> None:
    async with folder.run(cold=True) as machine:
        kept: list[int] = []
        while True:
            number += 1
            say("begin", number)
            await machine.guest.console.send_all(b"echo %d\r" % number)
            await machine.snapshot(f"s{number}")
            say("done", number)
            kept.append(number)
            if len(kept) > 2 and rng.random() < 0.5:
                gone = kept.pop(rng.randrange(len(kept)))
                say("delete", gone)
                await machine.delete_snapshot(f"s{gone}")
                say("deleted", gone)
