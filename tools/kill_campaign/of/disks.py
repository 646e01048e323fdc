"""A disk and what is below it: what was flushed is there, and all images are in order."""

from __future__ import annotations

import random
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from asyncvmm.api import VmFolder
from asyncvmm.runtime.folder.running import locked
from asyncvmm.storage import check_image, commit_image, create_image, opened
from tools.kill_campaign.work import Place, Work, say

BLOCK: Final = 4096
DISK_BYTES: Final = 1 << 20
TOP: Final = "disks/over.qcow2"
UNSAID: Final = 100  # so many numbers may have been written and not said before a kill


class DiskWork(Work):
    """Writes, flushes and commits."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.certain = [0] * (DISK_BYTES // BLOCK)
        self.newer: list[set[int]] = [set() for _ in self.certain]

    def prepare(self) -> None:
        """See Work."""
        disks = self.folder.paths.disks
        create_image(disks / "base.qcow2", DISK_BYTES)
        create_image(disks / "over.qcow2", DISK_BYTES, backing="base.qcow2", cluster_bytes=16384)

    @staticmethod
    def do(folder: VmFolder, rng: random.Random, number: int) -> None:
        """See Work."""
        with locked(folder.paths):
            _write(folder.path / TOP, rng, number)

    def heard(self, words: Sequence[str]) -> None:
        """See Work."""
        if words[0] == "w":
            block, number = int(words[1]), int(words[2])
            self.number = max(self.number, number)
            self.newer[block].add(number)
        elif words[0] == "flushed":
            for block, numbers in enumerate(self.newer):
                if numbers:
                    self.certain[block] = max(numbers)
                    numbers.clear()

    def check(self) -> None:
        """See Work."""
        for image in sorted(self.folder.paths.disks.glob("*.qcow2")):
            report = check_image(image)
            assert report.clean, report.findings
            if shutil.which("qemu-img"):
                done = subprocess.run(["qemu-img", "check", "-q", str(image)])
                assert done.returncode == 0, image
        said, self.number = self.number, self.number + UNSAID
        with opened(self.folder.path / TOP, read_only=True) as top:
            for block, wanted in enumerate(self.certain):
                data = top.pread(block * BLOCK, BLOCK)
                found = {int.from_bytes(data[at : at + 8], "little") for at in range(0, BLOCK, 8)}
                unsaid = {each for each in found if said < each <= self.number}
                assert found <= {wanted} | self.newer[block] | unsaid, (block, found, wanted)
                self.certain[block] = max(found)
                self.newer[block].clear()


def _write(path: Path, rng: random.Random, number: int) -> None:
    while True:
        with opened(path) as image:
            for _ in range(8):
                for _ in range(rng.randrange(1, 12)):
                    number += 1
                    block = rng.randrange(image.size_bytes // BLOCK)
                    image.pwrite(block * BLOCK, number.to_bytes(8, "little") * (BLOCK // 8))
                    say("w", block, number)
                image.flush()
                say("flushed")
        if rng.random() < 0.5:
            say("commit")
            commit_image(path)
            say("committed")
