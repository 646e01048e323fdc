"""Guests as values: taken at one instant, started from any number of times."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.device import Blob
from asyncvmm.hypervisor import DiskRatesState
from asyncvmm.machine import BootFiles, GuestConfig, Machine, MachineState
from asyncvmm.machine.snapshot import save
from asyncvmm.plugin import BlobSpec
from asyncvmm.runtime.blobs import freeze_blob, thaw_blob


@attrs.frozen
class HostSide:
    """What the host had of a guest: its clients' ends of console and run channel, its rates."""

    console: bytes = b""
    ready: bool = False
    next_command: int = 1
    command: int = 0
    heard: bytes = b""
    disks: DiskRatesState | None = None
    cards: DiskRatesState | None = None


class Snapshot:
    """A guest at one instant: what ``Guest.snapshot`` took, and ``Host.start`` goes on from.

    Pages and disks are shared with the guest until either side writes them, so it costs a table. Close
    it (or use it as a context manager) when it is not wanted any more; guests that were started from it
    stay as they are.
    """

    def __init__(
        self,
        config: GuestConfig,
        files: BootFiles,
        state: MachineState,
        disks: tuple[Blob, ...],
        host_side: HostSide,
    ) -> None:
        self.config: Final = config
        self.files: Final = files
        self.state: Final = state
        self.disks: Final = disks
        self.host_side: Final = host_side
        self.closed = False

    def __enter__(self) -> Snapshot:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def time_ns(self) -> int:
        """The guest's virtual time when it was taken, in ns."""
        return int(self.state.values["now_ns"])

    @property
    def resident_bytes(self) -> int:
        """How much memory the guest had."""
        return int(self.state.pages.resident) * 4096

    def close(self) -> None:
        """Give back what it keeps; once is enough."""
        if not self.closed:
            self.closed = True
            self.state.pages.release()
            for disk in self.disks:
                disk.close()

    def check_open(self) -> None:
        """ConfigError when it was closed."""
        if self.closed:
            raise ConfigError("this snapshot was closed")


def take(machine: Machine, host_side: HostSide) -> Snapshot:
    """A snapshot of a guest between two stretches of virtual time."""
    disks = tuple(freeze_blob(device.io.blob, spec) for device, spec in _disks(machine))
    return Snapshot(machine.config, machine.files, save(machine), disks, host_side)


def _disks(machine: Machine) -> Iterator[tuple[Any, BlobSpec]]:
    for device in machine.devices:
        spec = device.type.blob(device.config)
        if spec is not None:
            yield device, spec


class DiskOpener:
    """``open_blob`` of a machine that goes on from a snapshot: its disks, in their order."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._left = list(snapshot.disks)

    def __call__(self, spec: BlobSpec) -> Blob:
        """The next disk, as it was."""
        if not self._left:
            raise ConfigError("the snapshot has fewer disks than its configuration")
        return thaw_blob(self._left.pop(0), spec)
