"""Going back: disks, NVRAM and the state that a machine goes on from are those of one snapshot, whole."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

import attrs
import trio

from asyncvmm.api import VmFolder, create_vm
from asyncvmm.runtime.folder.running import locked
from asyncvmm.runtime.folder.snapshots import FolderSnapshots
from asyncvmm.storage import opened
from asyncvmm.storage.nvram import Nvram, update_nvram
from tools.kill_campaign.work import Place, Work, say

NAME: Final = "back.vm"
STATES: Final = 3
DISKS: Final = 2
BYTES: Final = 1 << 20


class RestoreWork(Work):
    """Goes back to one of three snapshots after the other."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.may_be = {STATES - 1}

    @property
    def folder(self) -> VmFolder:
        """A machine of its own."""
        return self.place.beside(NAME)

    def prepare(self) -> None:
        """See Work."""
        kernel = self.place.folder.settings.guest.elf
        path = self.place.folder.path.with_name(NAME)
        plugins = self.place.folder.plugins
        folder = create_vm(
            path, elf=kernel, plugins=plugins, disks=("1M",) * DISKS, keys={"memory": "16M"}
        )
        for number in range(STATES):
            for disk in _disks(folder):
                with opened(disk) as image:
                    image.pwrite(0, _contents(number))
            fresh = attrs.evolve(Nvram.fresh(number), clock_offset_ns=number)
            update_nvram(folder.paths.nvram, lambda old, fresh=fresh: fresh)  # type: ignore[misc]
            trio.run(folder.snapshot, f"s{number}")
        folder.restore(f"s{STATES - 1}")

    @staticmethod
    def do(folder: VmFolder, rng: random.Random, number: int) -> None:
        """See Work."""
        while True:
            number = rng.randrange(STATES)
            say("begin", number)
            folder.restore(f"s{number}")
            say("done", number)

    def heard(self, words: Sequence[str]) -> None:
        """See Work."""
        number = int(words[1])
        self.may_be = {number} if words[0] == "done" else self.may_be | {number}

    def check(self) -> None:
        """See Work."""
        folder = self.folder
        with locked(folder.paths):
            head = folder.head
            assert head.resume is not None and head.parent == head.resume, head
            number = int(head.resume.removeprefix("s"))
            assert number in self.may_be, (number, self.may_be)
            for disk in _disks(folder):
                with opened(disk, read_only=True) as image:
                    assert image.pread(0, BYTES) == _contents(number), (number, disk)
            nvram = folder.nvram
            assert nvram.clock_offset_ns == number
            assert nvram.uuid == Nvram.fresh(number).uuid
            FolderSnapshots(folder.paths).resume(head.resume, head).close()
            assert not list(folder.path.rglob("*.restored")) + list(folder.path.rglob("*.part"))
        self.may_be = {number}


def _disks(folder: VmFolder) -> list[str]:
    return [str(folder.paths.disks / f"data{number}.qcow2") for number in range(DISKS)]


def _contents(number: int) -> bytes:
    return b"".join([b"%8d" % (number * BYTES + at) for at in range(0, BYTES, 8)])
