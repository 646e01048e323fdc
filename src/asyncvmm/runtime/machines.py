"""Makes the machines of a host's guests, from configurations and from snapshots.

A machine that this module returns is whole, and nobody's yet: whoever gets it closes it when nothing
comes of it. One that cannot be made leaves nothing open.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import attrs

from asyncvmm.machine import BootFileReader, GuestConfig, Machine, read_boot_files
from asyncvmm.machine.devices import OpenBlob
from asyncvmm.machine.renewal import FREEZE, HOST, Date, renew, set_date
from asyncvmm.machine.snapshot import restore
from asyncvmm.memory.merge import Merger
from asyncvmm.plugin import PluginManager
from asyncvmm.runtime.blobs import open_host_folder
from asyncvmm.runtime.entrance import Entrance
from asyncvmm.runtime.snapshots import DiskOpener, Snapshot

LogSink = Callable[[str, str], None]


class Machines:
    """Makes machines of the device types that ``plugins`` has."""

    def __init__(self, plugins: PluginManager, entrance: Entrance) -> None:
        self.plugins: Final = plugins
        self._entrance = entrance
        self._files = BootFileReader()

    def date(self, clock: Date) -> int | None:
        """What a guest's RTC is to show, as Unix time in ns; None for what it shows. That of this
        machine comes from outside, and marks the host as live.
        """
        if clock == FREEZE:
            return None
        if clock == HOST:
            self._entrance.live = True
            return time.time_ns()
        return int(clock)

    def build(
        self,
        config: GuestConfig,
        name: str,
        log: LogSink,
        merger: Merger | None,
        open_blob: OpenBlob,
    ) -> Machine:
        """A machine at its beginning. For a thread: it reads the files that it boots."""
        return Machine(
            config,
            read_boot_files(config, self._files),
            self.plugins.device_types,
            open_blob=open_blob,
            open_folder=open_host_folder,
            log_sink=log,
            merger=merger,
            name=name,
        )

    def revive(
        self,
        snapshot: Snapshot,
        config: GuestConfig,
        name: str,
        log: LogSink,
        merger: Merger | None,
        date: int | None = None,
    ) -> Machine:
        """A machine that is what ``snapshot`` says, but for its seed and its date (see ``date``)."""
        table = snapshot.saved.state.pages
        machine = Machine(
            config,
            snapshot.saved.files,
            self.plugins.device_types,
            open_blob=DiskOpener(snapshot),
            open_folder=open_host_folder,
            log_sink=log,
            merger=merger,
            powered=False,
            store=table.shared_pages,
            name=name,
        )
        own = machine.ram.shared_pages is not table.shared_pages
        pages = table.moved(machine.ram.shared_pages) if own else table
        try:
            restore(machine, attrs.evolve(snapshot.saved.state, pages=pages))
            if config.seed != snapshot.config.seed:
                renew(machine)
            if date is not None:
                set_date(machine, date)
        except BaseException:
            machine.close()
            raise
        finally:
            if own:
                pages.release()
        return machine
