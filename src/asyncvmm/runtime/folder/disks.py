"""The disks of a folder in its snapshots: frozen apart from the files, and made into files again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from asyncvmm.base.errors import ConfigError
from asyncvmm.device import Blob
from asyncvmm.machine import GuestConfig, Machine
from asyncvmm.machine.config import DiskOptions, split_disk
from asyncvmm.runtime.own_blocks import base_of, own_extents
from asyncvmm.runtime.snapshot_files import Zeros
from asyncvmm.storage import OverlayBlob, Progress, create_image, open_image
from asyncvmm.storage.chain import format_of
from asyncvmm.storage.overlay import BLOCK_BYTES
from asyncvmm.storage.progress import PIECE_BYTES, is_zero, silent
from asyncvmm.storage.views import ViewBlob, ViewedBlob


def kept_disks(config: GuestConfig) -> dict[int, DiskOptions]:
    """The flash parts and disks that keep what the guest writes, by their number in a snapshot."""
    options = [split_disk(text) for text in (*config.flash, *config.disks)]
    return {number: disk for number, disk in enumerate(options) if disk.keeps_writes}


def kept_files(config: GuestConfig) -> dict[int, DiskOptions]:
    """Those of them that are files of their own, and no part of the NVRAM."""
    return {n: disk for n, disk in kept_disks(config).items() if not disk.in_nvram}


def check_disks(machine: Machine) -> None:
    """ConfigError when a disk is written that a folder's snapshots do not cover."""
    config = machine.config
    blobs = [d for d in machine.devices if d.type.blob(d.config) is not None]
    for device in blobs[len(config.flash) + len(config.disks) :]:
        if isinstance(device.io.blob, ViewedBlob):
            raise ConfigError(
                f"{device.io.path}: is written and not among the disks of vm.toml: put it there, or "
                "make it readonly or snapshot"
            )


def freeze_apart(machine: Machine, disks: tuple[Blob, ...]) -> list[tuple[Blob, str] | None]:
    """For each of a fresh snapshot's disks that views a file: its contents without that file, and the
    name of the file below them, which does not change. None for the others.

    Reads the disk, so the machine must stand still until it is done.
    """
    blobs = [d.io.blob for d in machine.devices if d.type.blob(d.config) is not None]
    found: list[tuple[Blob, str] | None] = []
    try:
        for live, view in zip(blobs, disks, strict=True):
            if isinstance(view, ViewBlob) and isinstance(live, ViewedBlob):
                found.append(_apart(live.image, view))
            else:
                found.append(None)
    except BaseException:
        for each in found:
            if each is not None:
                each[0].close()
        raise
    return found


def _apart(image: Blob, view: ViewBlob) -> tuple[Blob, str]:
    below, name = base_of(image)
    apart = OverlayBlob(below)
    try:
        for start, length, zero in own_extents(image, isinstance(below, Zeros)):
            if zero:
                apart.write_zeroes(start, length)
                continue
            for at in range(start, start + length, PIECE_BYTES):
                count = min(PIECE_BYTES, start + length - at)
                for offset, data in _differing(below.pread(at, count), view.pread(at, count)):
                    apart.pwrite(at + offset, data)
    except BaseException:
        apart.close()
        raise
    return apart, name


def _differing(before: bytes, now: bytes) -> Iterator[tuple[int, bytes]]:
    """(offset, data) of the blocks that are not what is below: a cluster has more than was written."""
    if before == now:
        return
    for at in range(0, len(now), BLOCK_BYTES):
        block = now[at : at + BLOCK_BYTES]
        if before[at : at + BLOCK_BYTES] != block:
            yield at, block


MAX_RUN_BLOCKS: Final = PIECE_BYTES // BLOCK_BYTES


def write_disk(
    blob: Blob, below: str, disk: DiskOptions, part: Path, progress: Progress = silent
) -> None:
    """Make the file ``part``, which is to be that of ``disk``, hold a snapshot's disk, durably.

    ``below`` names the unchanging file that the disk is over; it stays below the new file too.
    """
    assert isinstance(blob, OverlayBlob)
    part.unlink(missing_ok=True)
    target = disk.path
    form = format_of(target, disk.format)
    whole = isinstance(blob.base, Zeros)
    base = split_disk(below).path
    if form == "qcow2" and not whole:
        name = os.path.relpath(base.resolve(), target.parent.resolve())
        create_image(part, blob.size_bytes, format="qcow2", backing=name,
                     backing_format=split_disk(below).format)  # fmt: skip
    else:
        create_image(part, blob.size_bytes, format=form)
    image = open_image(part, form)
    try:
        done = 0
        for start, length in _runs(blob, everything=form == "raw" and not whole):
            data = blob.pread(start, length)
            if whole and is_zero(data):
                continue
            image.pwrite(start, data)
            done = start + length
            progress(done, blob.size_bytes)
        image.flush()
    finally:
        image.close()
    progress(blob.size_bytes, blob.size_bytes)


def _runs(blob: OverlayBlob, everything: bool) -> Iterator[tuple[int, int]]:
    """Pieces of at most 2 MiB of what is to be written."""
    if everything:
        for at in range(0, blob.size_bytes, PIECE_BYTES):
            yield at, min(PIECE_BYTES, blob.size_bytes - at)
        return
    blocks: list[int] = []
    for block in blob.changed():
        if blocks and (block != blocks[-1] + 1 or len(blocks) == MAX_RUN_BLOCKS):
            yield _run(blocks, blob.size_bytes)
            blocks = []
        blocks.append(block)
    if blocks:
        yield _run(blocks, blob.size_bytes)


def _run(blocks: list[int], size_bytes: int) -> tuple[int, int]:
    start = blocks[0] * BLOCK_BYTES
    return start, min(len(blocks) * BLOCK_BYTES, size_bytes - start)


def file_backed(disks: tuple[Any, ...], config: GuestConfig) -> tuple[Blob, ...]:
    """A snapshot's disks for a machine that goes on with the files of its folder: those that keep writes
    are opened again as files, whatever the snapshot says they were.
    """
    kept = kept_disks(config)
    made = []
    for number, blob in enumerate(disks):
        if number in kept:
            made.append(Zeros(blob.size_bytes))  # thawing it opens the file
            blob.close()
        else:
            made.append(blob)
    return tuple(made)
