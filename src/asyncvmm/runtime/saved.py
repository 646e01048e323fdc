"""What a snapshot of a guest is made of."""

from __future__ import annotations

import attrs

from asyncvmm.device import Blob
from asyncvmm.hypervisor import DiskRatesState
from asyncvmm.machine import BootFiles, GuestConfig, MachineState


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


@attrs.frozen(eq=False)
class SavedGuest:
    """A guest at one instant. ``disks`` are read only and forked; ``disk_files`` name what they are over."""

    config: GuestConfig
    files: BootFiles
    state: MachineState
    disks: tuple[Blob, ...]
    disk_files: tuple[str, ...]
    host_side: HostSide

    def close(self) -> None:
        """Give back pages and disks."""
        self.state.pages.release()
        for disk in self.disks:
            disk.close()
