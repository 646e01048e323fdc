"""What disks and flash held when a recorded guest was started, kept beside its journal.

A disk that keeps what is written is another one after the run. So ``FILE.disks/`` has, by its hash, what
each such disk held: a qcow2 of what the disk has itself, over the file below it, which does not change.
A replay runs on throw-away overlays over those copies and never touches the disks themselves.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from asyncvmm.base.errors import BackendError, ConfigError
from asyncvmm.device import Blob
from asyncvmm.machine import Machine
from asyncvmm.machine.config import split_disk
from asyncvmm.machine.devices import Attached
from asyncvmm.plugin import BlobSpec
from asyncvmm.runtime.blobs import open_file_blob
from asyncvmm.runtime.own_blocks import base_of, own_extents
from asyncvmm.runtime.snapshot_files import Zeros
from asyncvmm.storage import create_image, open_image
from asyncvmm.storage.hostfile import sync_folder
from asyncvmm.storage.layout import DEFAULT_CLUSTER_BYTES as CLUSTER
from asyncvmm.storage.progress import is_zero
from asyncvmm.storage.views import ViewedBlob

BLOCK: Final = 1 << 20
SECTOR: Final = 512


def disk_prints(machine: Machine, folder: Path) -> list[dict[str, Any]]:
    """Of every disk and flash of a machine that has not run: its file, the SHA-256 of what it holds,
    and for one that keeps writes the name of its copy in ``folder``, which is made here.

    BackendError when the copy cannot be written.
    """
    found: list[dict[str, Any]] = []
    for device, spec in _disks(machine):
        blob = device.io.blob
        one: dict[str, Any] = {"path": str(spec.path.absolute()), "sha256": _hash_of(blob, spec)}
        if isinstance(blob, ViewedBlob):
            one["copy"] = _keep(blob, folder, one["sha256"])
        found.append(one)
    return found


def check_disks(machine: Machine, recorded: Sequence[Mapping[str, Any]]) -> None:
    """ConfigError when a disk does not hold what it held when the run was recorded."""
    disks = list(_disks(machine))
    if len(disks) != len(recorded):
        raise ConfigError(f"{len(recorded)} disks were recorded, and the guest has {len(disks)}")
    for (device, spec), one in zip(disks, recorded, strict=True):
        if _hash_of(device.io.blob, spec) != one["sha256"]:
            remedy = "bring back what it was, or record the run again"
            if "copy" in one:
                remedy = f"the journal's copy of it or what is below that was changed: {remedy}"
            raise ConfigError(f"disk {spec.path}: has changed since the run was recorded: {remedy}")


class KeptDisks:
    """``open_blob`` of a guest that is repeated: its disks as they were, in the order of ``recorded``."""

    def __init__(self, folder: Path, recorded: Sequence[Mapping[str, Any]]) -> None:
        self._folder = folder
        self._left = list(recorded)

    def __call__(self, spec: BlobSpec) -> Blob:
        """The next disk; ConfigError names the copy that is not there, or what is below it."""
        one = self._left.pop(0) if self._left else {}
        if "copy" not in one:
            return open_file_blob(spec)
        path = self._folder / Path(str(one["copy"])).name
        if not path.is_file():
            raise ConfigError(
                f"{path}: is gone, which is what {spec.path} held when the run began: a journal is moved "
                f"together with {self._folder.name}"
            )
        try:
            return open_file_blob(BlobSpec(path, format=path.suffix[1:], snapshot=True))
        except ConfigError as error:
            raise ConfigError(
                f"{error} (what {spec.path} held when the run began is a difference to the file below it, "
                "which has to stay where it is)"
            ) from error


def _disks(machine: Machine) -> Iterator[tuple[Attached, BlobSpec]]:
    for device in machine.devices:
        spec = device.type.blob(device.config)
        if spec is not None:
            yield device, spec


def _hash_of(blob: Blob, spec: BlobSpec) -> str:
    if spec.read_only or spec.snapshot:
        stat = spec.path.stat()
        return _file_hash(spec.path, spec.format, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    return content_hash(blob)


@lru_cache(maxsize=64)
def _file_hash(path: Path, form: str | None, _inode: int, _size: int, _time: int) -> str:
    blob = open_file_blob(BlobSpec(path, True, form))
    try:
        return content_hash(blob)
    finally:
        blob.close()


def content_hash(blob: Blob) -> str:
    """SHA-256 of the blocks that are not zeros, with their numbers: holes cost reading, not hashing."""
    digest = hashlib.sha256()
    zeros = bytes(BLOCK)
    for start in range(0, blob.size_bytes, BLOCK):
        block = blob.pread(start, min(BLOCK, blob.size_bytes - start))
        if block != zeros[: len(block)]:
            digest.update(start.to_bytes(8, "little") + block)
    digest.update(blob.size_bytes.to_bytes(8, "little"))
    return digest.hexdigest()


def _keep(disk: ViewedBlob, folder: Path, name: str) -> str:
    """The name of the copy of ``disk`` in ``folder``; a disk that was there before is there once."""
    form = "raw" if disk.size_bytes % SECTOR else "qcow2"
    path = folder / f"{name}.{form}"
    if path.exists():
        return path.name
    part = folder / f"{name}.{os.getpid()}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _copy(disk, part, form)
        part.replace(path)
        sync_folder(folder)
    except OSError as error:
        raise BackendError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            part.unlink()
    return path.name


def _copy(disk: ViewedBlob, path: Path, form: str) -> None:
    below, name = base_of(disk.image)
    below.close()
    whole = form == "raw" or isinstance(below, Zeros)
    backing: dict[str, Any] = {}
    if not whole:
        base = split_disk(name)
        backing = {"backing": base.path, "backing_format": base.format}
    create_image(path, disk.size_bytes, format=form, **backing)
    copy = open_image(path, form)
    try:
        for start, length, zero in own_extents(disk.image, whole):
            if zero:
                copy.write_zeroes(start, length)
                continue
            for at in range(start, start + length, CLUSTER):
                data = disk.pread(at, min(CLUSTER, start + length - at))
                if not (whole and is_zero(data)):
                    copy.pwrite(at, data)
        copy.flush()
    finally:
        copy.close()
