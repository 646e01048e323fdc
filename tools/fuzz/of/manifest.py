"""Manifests of snapshots on disk: a good one of a small guest, changed."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Final

import trio

from asyncvmm.base.errors import AsyncvmmError
from asyncvmm.machine import GuestConfig
from asyncvmm.runtime import snapshot_files
from asyncvmm.runtime.host import open_host
from asyncvmm.testing import assemble, to_elf

PROGRAM: Final = "_start: addi s1, s1, 1\n j _start\n"


@functools.cache
def _folder() -> Path:
    """A snapshot of a guest of two pages, in memory where the host has a file system there."""
    memory = Path("/dev/shm")
    where = memory if memory.is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="asyncvmm-fuzz-", dir=where))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    elf = folder / "spin.elf"
    elf.write_bytes(to_elf(assemble(PROGRAM, 0x80000000)))

    async def main() -> None:
        async with open_host(paused=True) as host:
            config = GuestConfig(elf=elf, memory=1 << 20, engine="interpreter")
            guest = await host.start(config)
            await host.run_until(1_000_000)
            with await guest.snapshot() as snapshot:
                snapshot_files.save(snapshot.saved, folder / "good")

    trio.run(main)
    return folder / "good"


def fuzz_one(data: bytes) -> None:
    """Typed errors, or a snapshot; nothing is left open."""
    file = _folder() / snapshot_files.MANIFEST
    good = _good()
    file.write_bytes(_changed(good, data))
    try:
        saved = snapshot_files.load(_folder())
    except AsyncvmmError:
        return
    saved.state.pages.release()
    for disk in saved.disks:
        disk.close()


@functools.cache
def _good() -> bytes:
    return (_folder() / snapshot_files.MANIFEST).read_bytes()


def _changed(good: bytes, data: bytes) -> bytes:
    """Words at places that ``data`` tells, replaced by others."""
    raw = bytearray(good)
    words = (
        b"-1",
        b"0",
        b"1e400",
        b'"x"',
        b"[]",
        b"{}",
        b"null",
        b"true",
        b"9" * 30,
        b"\xff",
        b"NaN",
    )
    for at in range(0, min(len(data) - 3, 20), 4):
        place = int.from_bytes(data[at : at + 3], "little") % max(len(raw), 1)
        word = words[data[at + 3] % len(words)]
        if data[at + 3] < 128:  # a whole value
            begin = raw.find(b": ", place)
            if begin >= 0:
                ends = [e for e in (raw.find(b",", begin), raw.find(b"\n", begin)) if e > 0]
                raw[begin + 2 : min(ends, default=len(raw))] = word
        else:
            raw[place : place + data[at + 3] % 8] = word if data[at + 3] & 16 else b""
    return bytes(raw)
