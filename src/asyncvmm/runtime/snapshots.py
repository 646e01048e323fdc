"""Guests as values: taken at one instant, started from any number of times."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.device import Blob
from asyncvmm.machine import GuestConfig, Machine
from asyncvmm.machine.snapshot import save
from asyncvmm.plugin import BlobSpec
from asyncvmm.runtime import snapshot_files
from asyncvmm.runtime.blobs import freeze_blob, thaw_blob
from asyncvmm.runtime.saved import HostSide, SavedGuest

_numbers = itertools.count(1)


class Snapshot:
    """A guest at one instant: what ``Guest.snapshot`` took, and ``Host.start`` goes on from.

    Pages and disks are shared with the guest until either side writes them, so it costs a table. Close
    it (or use it as a context manager) when it is not wanted any more; guests that were started from it
    stay as they are.
    """

    def __init__(self, saved: SavedGuest) -> None:
        self.saved: Final = saved
        self.number: Final = next(_numbers)  # names it in this process
        self.folder: Path | None = None  # where it is saved
        self.closed = False

    @classmethod
    def load(cls, path: Path | str) -> Snapshot:
        """The snapshot in a folder; SnapshotError (a ConfigError) names the file and what is wrong."""
        made = cls(snapshot_files.load(path))
        made.folder = Path(path)
        return made

    def save(self, path: Path | str) -> int:
        """Write it to the new folder ``path``; returns how many pages were not beside it already.

        ConfigError when the folder exists, BackendError when something cannot be written.
        """
        self.check_open()
        pages = snapshot_files.save(self.saved, path)
        self.folder = Path(path)
        return pages

    @property
    def config(self) -> GuestConfig:
        """What the guest was made from."""
        return self.saved.config

    def with_config(self, config: GuestConfig) -> Snapshot:
        """The same guest under a configuration that changes nothing that it can see: another engine."""
        return Snapshot(attrs.evolve(self.saved, config=config))

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def time_ns(self) -> int:
        """The guest's virtual time when it was taken, in ns."""
        return int(self.saved.state.values["now_ns"])

    @property
    def resident_bytes(self) -> int:
        """How much memory the guest had."""
        return int(self.saved.state.pages.resident) * 4096

    def close(self) -> None:
        """Give back what it keeps; once is enough."""
        if not self.closed:
            self.closed = True
            self.saved.close()

    def check_open(self) -> None:
        """ConfigError when it was closed."""
        if self.closed:
            raise ConfigError("this snapshot was closed")


def take(machine: Machine, host_side: HostSide) -> Snapshot:
    """A snapshot of a guest between two stretches of virtual time."""
    found = list(_disks(machine))
    disks = tuple(freeze_blob(device.io.blob, spec) for device, spec in found)
    files = tuple(_file(spec) for _, spec in found)
    state = save(machine)
    return Snapshot(SavedGuest(machine.config, machine.files, state, disks, files, host_side))


def _file(spec: BlobSpec) -> str:
    """A disk's file as ``split_disk`` reads it."""
    return f"{spec.path},format={spec.format}" if spec.format else str(spec.path)


def _disks(machine: Machine) -> Iterator[tuple[Any, BlobSpec]]:
    for device in machine.devices:
        spec = device.type.blob(device.config)
        if spec is not None:
            yield device, spec


class Closable(Protocol):
    """A snapshot of a guest or of a host."""

    closed: bool

    def close(self) -> None:
        """Give back what it keeps."""
        ...


class Instant(Protocol):
    """Whatever has a snapshot of one instant."""

    @property
    def snapshot(self) -> Closable:
        """That."""
        ...


Kept = TypeVar("Kept", bound=Instant)


def thin_out(kept: Sequence[Kept], spare: Sequence[Kept]) -> list[Kept]:
    """Close every other snapshot of ``spare``, from the first on; what is left of ``kept``."""
    for instant in spare[::2]:
        instant.snapshot.close()
    return [instant for instant in kept if not instant.snapshot.closed]


class DiskOpener:
    """``open_blob`` of a machine that goes on from a snapshot: its disks, in their order."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._left = list(snapshot.saved.disks)

    def __call__(self, spec: BlobSpec) -> Blob:
        """The next disk, as it was."""
        if not self._left:
            raise ConfigError("the snapshot has fewer disks than its configuration")
        return thaw_blob(self._left.pop(0), spec)
