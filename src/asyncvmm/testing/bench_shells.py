"""The same Linux guest with a shell on its console, on asyncvmm and on QEMU, and how long commands take.

Times are of the host's clock, from the line that is typed to the marker on the console: guests' own
clocks differ. Both machines have the same kernel, image, memory and number of harts (one).
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Literal

import attrs
import trio

from asyncvmm.api.images import image_config
from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.machine import GuestConfig
from asyncvmm.plugin.images import BootFiles, ImageCache, ImageType
from asyncvmm.testing.bench import QEMU

MEMORY: Final = "512M"
SHARE_TAG: Final = "share"
BOOT_S: Final = 120.0
COMMAND_S: Final = 120.0
_TAIL: Final = 400
_READ: Final = 1 << 16


class Shell:
    """A shell on a console: ``send`` types bytes, ``receive`` gives what the console said (b"" at its
    end). ``prompt`` is what it says when it waits for a command.
    """

    def __init__(
        self,
        name: str,
        send: Callable[[bytes], Awaitable[None]],
        receive: Callable[[], Awaitable[bytes]],
        prompt: str,
    ) -> None:
        self.name: Final = name
        self._send = send
        self._receive = receive
        self._prompt = prompt.encode()
        self._seen = b""
        self._count = 0

    async def ready(self) -> None:
        """Wait for the first prompt; BackendError when it does not come."""
        await self._until(self._prompt, BOOT_S)

    async def run(self, command: str) -> float:
        """Run a command: seconds from its line to the marker behind it. BackendError with what it
        said when it fails.
        """
        self._count += 1
        marker = f"<{self.name}-{self._count}:"
        # What is typed is echoed: the marker as it is typed is not the marker as it is said.
        line = f'{command}; echo "<"{marker[1:]}$?">"\n'
        begun = time.perf_counter()
        await self._send(line.encode())
        said = await self._until(marker.encode(), COMMAND_S)
        seconds = time.perf_counter() - begun
        status = await self._until(b">", BOOT_S)
        if status != b"0>":
            tail = said[-_TAIL:].decode(errors="replace")
            raise BackendError(f"{self.name}: {command!r} failed: {tail}")
        return seconds

    async def _until(self, text: bytes, seconds: float) -> bytes:
        with trio.move_on_after(seconds):
            while text not in self._seen:
                data = await self._receive()
                if not data:
                    break
                self._seen += data
            else:
                said, _, self._seen = self._seen.partition(text)
                return said + (text if text == b">" else b"")
        tail = self._seen[-_TAIL:].decode(errors="replace")
        raise BackendError(f"{self.name} never said {text.decode()!r}, but {tail!r}")


@attrs.frozen
class Disk:
    """A raw disk image for a guest, beside those of its own image."""

    path: Path


def shell_config(
    image: ImageType,
    name: str,
    *,
    clock: Literal["virtual", "realtime"],
    nets: Sequence[str] = (),
    disks: Sequence[Disk] = (),
    share: Path | None = None,
    engine: str = "auto",
) -> GuestConfig:
    """Our guest of an image, with a shell on its console; it can mount ``share`` (9p, of that tag)."""
    return image_config(
        image,
        name=name,
        memory=MEMORY,
        clock=clock,
        nets=tuple(nets),
        disks=tuple(str(disk.path) for disk in disks),
        shares=() if share is None else (f"{share}:{SHARE_TAG}",),
        engine=engine,
    )


def find_qemu() -> str | None:
    """QEMU's program, if it is installed."""
    return shutil.which(QEMU)


@asynccontextmanager
async def qemu_shell(
    image: ImageType,
    name: str,
    *,
    netdev: str | None = None,
    disks: Sequence[Disk] = (),
    share: Path | None = None,
) -> AsyncIterator[Shell]:
    """QEMU's guest of an image, booted to its shell; it is gone when the block ends.

    ``netdev`` is QEMU's option without its id, such as ``user,hostfwd=...``. ``disks`` are opened with
    ``cache=none``, ``share`` is a folder that it can mount.
    """
    program = find_qemu()
    if program is None:
        raise ConfigError(f"{QEMU} is not installed")
    files = image.boot_files(ImageCache())
    command = [program, *_qemu_words(files, netdev, disks, share)]
    process = await trio.lowlevel.open_process(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdin is not None and process.stdout is not None
    output = process.stdout

    async def receive() -> bytes:
        return bytes(await output.receive_some(_READ))

    shell = Shell(name, process.stdin.send_all, receive, files.prompt)
    try:
        await shell.ready()
        yield shell
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdin.aclose()
            await output.aclose()


def _qemu_words(
    files: BootFiles, netdev: str | None, disks: Sequence[Disk], share: Path | None
) -> list[str]:
    """The machine as ours is: an ns16550 console, virtio-mmio devices, disks in the same order."""
    words = ["-M", "virt", "-m", MEMORY, "-smp", "1", "-nographic", "-kernel", str(files.kernel)]
    words += ["-append", files.append]
    if files.initrd is not None:
        words += ["-initrd", str(files.initrd)]
    drives = [
        f"file={disk.path},snapshot={'on' if disk.readonly else 'off'}" for disk in files.disks
    ]
    drives += [f"file={disk.path},cache=none" for disk in disks]
    for number, drive in enumerate(drives):
        words += ["-drive", f"{drive},format=raw,if=none,id=d{number}"]
        words += ["-device", f"virtio-blk-device,drive=d{number}"]
    if netdev is not None:
        words += ["-netdev", f"{netdev},id=n", "-device", "virtio-net-device,netdev=n"]
    if share is not None:
        folder = f"local,id=f,path={share},security_model=none,readonly=on"
        words += ["-fsdev", folder]
        words += ["-device", f"virtio-9p-device,fsdev=f,mount_tag={SHARE_TAG}"]
    return [*words, "-device", "virtio-rng-device"]
