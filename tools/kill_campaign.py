"""``kill -9`` at random instants while a machine's folder is used: nothing acknowledged is lost.

    python -m tools.kill_campaign --count 200 --seed 1

A process edits vm.toml, keeps and deletes snapshots of a machine that runs, writes, flushes and commits
disks; it says what is done, line by line, and is killed. Afterwards: vm.toml has the last edit that was
acknowledged, or the one under way; every snapshot that was acknowledged loads, and none that was deleted is
there; the first one has the disk that it had; what was flushed is on the disk; `asyncvmm disk check` and
`qemu-img check` find no error; the folder can be locked and used again.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from asyncvmm.api import VmFolder, create_vm, find_image, open_folder
from asyncvmm.plugin.images import ImageCache, SilentProgress
from asyncvmm.runtime.folder.running import locked
from asyncvmm.runtime.folder.snapshots import FolderSnapshots
from asyncvmm.storage import check_image, commit_image, create_image, opened

MODES: Final = ("config", "snapshots", "disks")
PATIENCE_S: Final = 120
LATEST_S: Final = 0.25  # after the line that was waited for
BLOCK: Final = 4096
DISK_BYTES: Final = 1 << 20
FIRST: Final = "first"


# -- the process that is killed


def work(mode: str, path: Path, seed: int, number: int) -> None:
    """Use the folder for ever, and say what is done. ``number`` is the last one that was used."""
    rng = random.Random(seed)
    folder = open_folder(path)
    if mode == "config":
        _edit(folder, number)
    elif mode == "snapshots":
        trio.run(_keep, folder, rng, number)
    else:
        with locked(folder.paths):
            _write_disk(path / "disks/over.qcow2", rng, number)


def _say(text: str) -> None:
    os.write(1, text.encode() + b"\n")


def _edit(folder: VmFolder, number: int) -> None:
    while True:
        number += 1
        _say(f"begin {number}")
        folder.set("seed", str(number))
        _say(f"done {number}")


async def _keep(folder: VmFolder, rng: random.Random, number: int) -> None:
    async with folder.run(cold=True) as machine:
        kept: list[int] = []
        while True:
            number += 1
            _say(f"begin {number}")
            await machine.guest.console.send_all(b"echo %d\r" % number)
            await machine.snapshot(f"s{number}")
            _say(f"done {number}")
            kept.append(number)
            if len(kept) > 2 and rng.random() < 0.5:
                gone = kept.pop(rng.randrange(len(kept)))
                _say(f"delete {gone}")
                await machine.delete_snapshot(f"s{gone}")
                _say(f"deleted {gone}")


def _write_disk(path: Path, rng: random.Random, number: int) -> None:
    while True:
        with opened(path) as image:
            for _ in range(8):
                for _ in range(rng.randrange(1, 12)):
                    number += 1
                    block = rng.randrange(image.size_bytes // BLOCK)
                    image.pwrite(block * BLOCK, number.to_bytes(8, "little") * (BLOCK // 8))
                    _say(f"w {block} {number}")
                image.flush()
                _say("flushed")
        if rng.random() < 0.5:
            _say("commit")
            commit_image(path)
            _say("committed")


# -- the one that kills and looks


class Campaign:
    """One folder, killed again and again."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.path = folder / "kill.vm"
        cache = ImageCache(folder / "cache")
        find_image("demo").pull(cache, SilentProgress())
        self.folder = create_vm(self.path, image="demo", cache=cache, disks=("1M",))
        disks = self.path / "disks"
        create_image(disks / "base.qcow2", DISK_BYTES)
        create_image(disks / "over.qcow2", DISK_BYTES, backing="base.qcow2", cluster_bytes=16384)
        with opened(disks / "data0.qcow2") as image:
            image.pwrite(5 * BLOCK, b"the first".ljust(BLOCK, b"!"))
        trio.run(self.folder.snapshot, FIRST)
        self.number = 0
        self.seeds = {0}  # what vm.toml may say
        self.snapshots: set[str] = set()  # those that must be there
        self.doubtful: set[str] = set()  # those that may be
        self.certain = [0] * (DISK_BYTES // BLOCK)
        self.newer: list[set[int]] = [set() for _ in self.certain]
        self.killed: Counter[str] = Counter()

    def once(self, mode: str, most_lines: int = 60) -> None:
        """Let one process work, kill it, and look at what is left."""
        lines = self._run_and_kill(mode, self.rng.randrange(most_lines))
        last = lines[-1].split()[0] if lines else "start"
        self.killed[f"{mode}: after {last!r}"] += 1
        {
            "config": self._heard_config,
            "snapshots": self._heard_snapshots,
            "disks": self._heard_disk,
        }[mode](lines)
        self._check()

    def _run_and_kill(self, mode: str, wanted: int) -> list[str]:
        words = ["-m", "tools.kill_campaign", "--work", mode, str(self.path)]
        words += ["--seed", str(self.rng.randrange(1 << 30)), "--number", str(self.number)]
        process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE)
        assert process.stdout is not None
        fd = process.stdout.fileno()
        said = b""
        if self.rng.random() < 0.1:
            wanted = -1  # also before it says anything
        while said.count(b"\n") <= wanted:
            ready, _, _ = select.select([fd], [], [], PATIENCE_S)
            data = os.read(fd, 65536) if ready else b""
            if not data:
                process.kill()
                raise AssertionError(f"{mode}: the process ended or hung after {said[-200:]!r}")
            said += data
        deadline = time.monotonic() + self.rng.random() * LATEST_S
        while (left := deadline - time.monotonic()) > 0:
            if select.select([fd], [], [], left)[0]:
                said += os.read(fd, 65536)
        process.kill()
        said += process.stdout.read()
        process.stdout.close()
        process.wait()
        return said.decode().splitlines()

    def _heard_config(self, lines: list[str]) -> None:
        for line in lines:
            word, number = line.split()
            self.number = max(self.number, int(number))
            if word == "begin":
                self.seeds.add(int(number))
            else:
                self.seeds = {int(number)}

    def _heard_snapshots(self, lines: list[str]) -> None:
        for line in lines:
            word, number = line.split()
            name = f"s{number}"
            self.number = max(self.number, int(number))
            if word in ("begin", "delete"):
                self.doubtful.add(name)
                self.snapshots.discard(name)
            else:
                self.doubtful.discard(name)
                if word == "done":
                    self.snapshots.add(name)

    def _heard_disk(self, lines: list[str]) -> None:
        for line in lines:
            word, *rest = line.split()
            if word == "w":
                block, number = int(rest[0]), int(rest[1])
                self.number = max(self.number, number)
                self.newer[block].add(number)
            elif word == "flushed":
                for block, numbers in enumerate(self.newer):
                    if numbers:
                        self.certain[block] = max(numbers)
                        numbers.clear()

    # -- what must hold

    def _check(self) -> None:
        folder = open_folder(self.path, plugins=self.folder.plugins)
        found = folder.settings.guest.seed
        assert found in self.seeds, (found, self.seeds)
        self.seeds = {found}
        assert folder.holder is None
        with locked(folder.paths):
            snapshots = FolderSnapshots(folder.paths)
            there = set(snapshots.names()) - {FIRST}
            assert self.snapshots <= there <= self.snapshots | self.doubtful, there
            self.snapshots, self.doubtful = there, set()
            for info in snapshots.list():
                assert not info.damage, info
                snapshots.load(info.name).close()
            with snapshots.load(FIRST) as first:
                data = first.saved.disks[0].pread(5 * BLOCK, BLOCK)
                assert data == b"the first".ljust(BLOCK, b"!")
            for name in sorted(there, key=lambda each: int(each[1:]))[:-3]:
                snapshots.delete(name)
                self.snapshots.discard(name)
        self._check_disks()

    def _check_disks(self) -> None:
        for image in sorted((self.path / "disks").glob("*.qcow2")):
            report = check_image(image)
            assert report.clean, report.findings
            if shutil.which("qemu-img"):
                done = subprocess.run(["qemu-img", "check", "-q", str(image)])
                assert done.returncode == 0, image
        self.number += 100  # numbers of writes that were not said before the kill
        with opened(self.path / "disks/over.qcow2", read_only=True) as image:
            for block, wanted in enumerate(self.certain):
                data = image.pread(block * BLOCK, BLOCK)
                found = {int.from_bytes(data[at : at + 8], "little") for at in range(0, BLOCK, 8)}
                unsaid = {each for each in found if self.number - 100 < each <= self.number}
                assert found <= {wanted} | self.newer[block] | unsaid, (block, found, wanted)
                self.certain[block] = max(found)
                self.newer[block].clear()


def run(count: int, seed: int, folder: Path, tell: Callable[[str], None] = print) -> Counter[str]:
    """``count`` kills in an empty folder; AssertionError for the first thing that is lost."""
    campaign = Campaign(folder, seed)
    for number in range(count):
        mode = MODES[number % len(MODES)]
        try:
            campaign.once(mode)
        except BaseException:
            tell(f"kill {number} ({mode}) of seed {seed}; the folder: {campaign.path}")
            raise
        if (number + 1) % 20 == 0:
            tell(f"{number + 1} kills")
    return campaign.killed


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--folder", type=Path, help="an empty folder to work in (default: a new one)"
    )
    parser.add_argument("--work", nargs=2, metavar=("MODE", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work is not None:
        work(options.work[0], Path(options.work[1]), options.seed, options.number)
        return 0
    made = options.folder or Path(tempfile.mkdtemp(prefix="kill-campaign-"))
    made.mkdir(exist_ok=True)
    killed = run(options.count, options.seed, made, lambda text: print(text, flush=True))
    for what, count in sorted(killed.items()):
        print(f"{count:5}  killed in {what}")
    print(f"{sum(killed.values())} kills, seed {options.seed}: nothing was lost")
    if options.folder is None:
        shutil.rmtree(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
