"""How fast a virtio disk is: dd and a Python program in a guest, on a raw image that is made for it;
and a folder of the host through 9p.

QEMU opens the image with ``cache=none``. In the guest everything is done with O_DIRECT, so that no page
cache of its own answers; what is written counts when it was flushed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from asyncvmm.plugin import PluginManager
from asyncvmm.plugin.images import ImageCache, ImageType
from asyncvmm.runtime.host import open_host
from asyncvmm.testing.bench_peers import OURS, PEER, Results, Task
from asyncvmm.testing.bench_shells import SHARE_TAG, Disk, Shell, qemu_shell, shell_config

DISK_MB: Final = 128
DISK_BYTES: Final = DISK_MB << 20
RANDOM: Final = 4000
BLOCK: Final = 4096
SHARED_MB: Final = 64
SHARED_FILES: Final = 1000

READ: Final = Task("sequential read", DISK_BYTES / 1e6, "MB")
WRITE: Final = Task("sequential write and flush", DISK_BYTES / 1e6, "MB")
SHARED_READ: Final = Task("9p, a file read", SHARED_MB * 1.048576, "MB")
SHARED_LIST: Final = Task("9p, files looked at", SHARED_FILES, "files")
RANDOM_READ: Final = Task("4 KiB random reads", RANDOM, "requests")
RANDOM_WRITE: Final = Task("4 KiB random writes and flush", RANDOM, "requests")

_MOUNT: Final = "ro,trans=virtio,version=9p2000.L,msize=131072"
_DIRECT: Final = "bs=1M iflag=fullblock"
# Places from a generator of its own, so that the program costs the same everywhere.
_RANDOM: Final = f"""cat > /tmp/places.py <<'END'
import mmap, os, sys
writes = sys.argv[2] == "write"
disk = os.open(sys.argv[1], (os.O_RDWR if writes else os.O_RDONLY) | os.O_DIRECT)
buffer = [mmap.mmap(-1, {BLOCK})]
place = 1
call = os.pwritev if writes else os.preadv
for _ in range({RANDOM}):
    place = (place * 1103515245 + 12345) & 0x7fffffff
    done = call(disk, buffer, (place >> 8) % {DISK_BYTES // BLOCK} * {BLOCK})
    if done != {BLOCK}:
        sys.exit(done)
os.fsync(disk)
END
true"""


async def measure_disk(
    image: ImageType,
    *,
    runs: int,
    qemu: bool = True,
    engine: str = "auto",
    folder: Path | None = None,
    plugins: PluginManager | None = None,
    done: Callable[[str, Task, float], None] = lambda machine, task, seconds: None,
) -> Results:
    """Boot, measure and end one machine after the other, ``runs`` times. ``done`` hears of every run.

    The image is made in ``folder`` (by default the cache of images, since a file system in memory
    knows no O_DIRECT) and goes when it is over. BackendError when a guest fails.
    """
    results = Results()

    def note(machine: str, task: Task, seconds: float) -> None:
        results.add(machine, task, seconds)
        done(machine, task, seconds)

    where = folder if folder is not None else ImageCache().root
    with tempfile.TemporaryDirectory(prefix="bench-disk-", dir=where) as made:
        disk = Disk(Path(made) / "disk.img")
        _fill(disk.path, DISK_MB)
        share = Path(made) / "share"
        (share / "many").mkdir(parents=True)
        _fill(share / "file", SHARED_MB)
        for number in range(SHARED_FILES):
            (share / "many" / f"file{number}").write_bytes(b"x" * 100)
        node = f"/dev/vd{'abcdef'[len(image.boot_files(ImageCache()).disks)]}"
        for _ in range(runs):
            async with _our_shell(image, disk, share, engine, plugins) as shell:
                await _measure(OURS, shell, node, note)
            if qemu:
                async with qemu_shell(image, "disk", disks=[disk], share=share) as shell:
                    await _measure(PEER, shell, node, note)
    return results


async def _measure(
    machine: str, shell: Shell, node: str, note: Callable[[str, Task, float], None]
) -> None:
    await shell.run(_RANDOM)
    await shell.run(f"python3 -c pass; dd if={node} of=/dev/null {_DIRECT},direct count=8")
    read = f"dd if={node} of=/dev/null {_DIRECT},direct count={DISK_MB}"
    note(machine, READ, await shell.run(read))
    write = f"dd if=/dev/zero of={node} {_DIRECT} oflag=direct conv=fsync count={DISK_MB}"
    note(machine, WRITE, await shell.run(write))
    note(machine, RANDOM_READ, await shell.run(f"python3 /tmp/places.py {node} read"))
    note(machine, RANDOM_WRITE, await shell.run(f"python3 /tmp/places.py {node} write"))
    await shell.run(f"mount -t 9p -o {_MOUNT} {SHARE_TAG} /mnt; ls /mnt/file")
    note(machine, SHARED_READ, await shell.run("dd if=/mnt/file of=/dev/null bs=1M"))
    note(machine, SHARED_LIST, await shell.run("cat /mnt/many/* > /dev/null"))


def _fill(path: Path, megabytes: int) -> None:
    """Not zeros, and no holes: every byte is in the file system."""
    block = os.urandom(1 << 20)
    with path.open("wb") as file:
        for _ in range(megabytes):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())


@asynccontextmanager
async def _our_shell(
    image: ImageType, disk: Disk, share: Path, engine: str, plugins: PluginManager | None
) -> AsyncIterator[Shell]:
    async with open_host(plugins=plugins) as host:
        config = shell_config(
            image, "disk", clock="virtual", disks=[disk], share=share, engine=engine
        )
        console = (await host.start(config)).console
        prompt = image.boot_files(ImageCache()).prompt
        shell = Shell("disk", console.send_all, console.receive_some, prompt)
        await shell.ready()
        yield shell
