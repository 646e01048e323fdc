"""The one that kills and looks."""

from __future__ import annotations

import os
import random
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from asyncvmm.api import create_vm, find_image
from asyncvmm.plugin.images import ImageCache, SilentProgress
from tools.kill_campaign.of.config import ConfigWork
from tools.kill_campaign.of.disks import DiskWork
from tools.kill_campaign.of.flash import FlashWork
from tools.kill_campaign.of.journal import JournalWork
from tools.kill_campaign.of.nvram import NvramWork
from tools.kill_campaign.of.restore import RestoreWork
from tools.kill_campaign.of.snapshots import SnapshotWork
from tools.kill_campaign.work import Place, Work

WORKS: Final[dict[str, type[Work]]] = {
    "config": ConfigWork,
    "snapshots": SnapshotWork,
    "disks": DiskWork,
    "nvram": NvramWork,
    "flash": FlashWork,
    "journal": JournalWork,
    "restore": RestoreWork,
}
PATIENCE_S: Final = 120
LATEST_S: Final = 0.25  # after the line that was waited for
MOST_LINES: Final = 60


class Campaign:
    """Machines in one folder, whose users are killed again and again."""

    def __init__(self, folder: Path, seed: int, broken: str | None = None) -> None:
        self.broken = broken
        self.rng = random.Random(seed)
        path = folder / "kill.vm"
        cache = ImageCache(folder / "cache")
        find_image("demo").pull(cache, SilentProgress())
        self.place = Place(create_vm(path, image="demo", cache=cache, disks=("1M",)), self.rng)
        self.works = {name: kind(self.place) for name, kind in WORKS.items()}
        for work in self.works.values():
            work.prepare()
        self.killed: Counter[str] = Counter()

    def once(self, name: str, most_lines: int = MOST_LINES) -> None:
        """Let one process work, kill it, and look at what is left."""
        work = self.works[name]
        work.before()
        lines = self._run_and_kill(name, work, self.rng.randrange(most_lines))
        last = lines[-1].split()[0] if lines else "start"
        self.killed[f"{name}: after {last!r}"] += 1
        for line in lines:
            work.heard(line.split())
        for each in self.works.values():
            each.check()

    def _run_and_kill(self, name: str, work: Work, wanted: int) -> list[str]:
        words = ["-m", "tools.kill_campaign", "--work", name, str(work.folder.path)]
        words += ["--seed", str(self.rng.randrange(1 << 30)), "--number", str(work.number)]
        if self.broken is not None:
            words += ["--broken", self.broken]
        process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE)
        try:
            return self._kill(name, process, wanted)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def _kill(self, name: str, process: subprocess.Popen[bytes], wanted: int) -> list[str]:
        """What it has said until it was killed, some time after ``wanted`` lines."""
        assert process.stdout is not None
        fd = process.stdout.fileno()
        said = b""
        if self.rng.random() < 0.1:
            wanted = -1  # also before it says anything
        while said.count(b"\n") <= wanted:
            ready, _, _ = select.select([fd], [], [], PATIENCE_S)
            data = os.read(fd, 65536) if ready else b""
            if not data:
                raise AssertionError(f"{name}: the process ended or hung after {said[-200:]!r}")
            said += data
        deadline = time.monotonic() + self.rng.random() * LATEST_S
        while (left := deadline - time.monotonic()) > 0:
            if select.select([fd], [], [], left)[0]:
                data = os.read(fd, 65536)
                assert data, f"{name}: the process ended after {said[-200:]!r}"
                said += data
        process.kill()
        said += process.stdout.read()
        return said.decode().splitlines()


def run(
    count: int,
    seed: int,
    folder: Path,
    tell: Callable[[str], None] = print,
    names: Sequence[str] = tuple(WORKS),
    broken: str | None = None,
) -> Counter[str]:
    """``count`` kills in an empty folder; AssertionError, or what reading it raises, for the first thing
    that is lost. ``broken`` names what is wrong with the processes that are killed, for tests.
    """
    campaign = Campaign(folder, seed, broken)
    for number in range(count):
        name = names[number % len(names)]
        try:
            campaign.once(name)
        except BaseException:
            tell(f"kill {number} ({name}) of seed {seed}; the folder: {folder}")
            raise
        if (number + 1) % 20 == 0:
            tell(f"{number + 1} kills")
    return campaign.killed
