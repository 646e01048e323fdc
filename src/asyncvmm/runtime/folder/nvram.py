"""What a machine has from its nvram.bin, and keeps there: who it is, its date, its flash.

The flash is a blob (``format=nvram``), which the flash device flushes a second of virtual time after a
change, and the machine's end in any case. The clock's offset is how far the guest has set its date from
what it was told at power-on.
"""

from __future__ import annotations

import uuid
from typing import Final

import attrs
import trio

from asyncvmm.base.errors import BackendError
from asyncvmm.machine import GuestConfig
from asyncvmm.machine.renewal import Identity, date_offset, watch_date
from asyncvmm.runtime.folder.disks import kept_disks
from asyncvmm.runtime.folder.layout import FolderPaths
from asyncvmm.runtime.folder.logs import VmLog
from asyncvmm.runtime.guest import Guest
from asyncvmm.runtime.snapshots import Snapshot
from asyncvmm.storage.nvram import Nvram, update_nvram
from asyncvmm.storage.nvram_flash import flash_part

KEEP_AFTER_S: Final = 1.0  # a guest that sets its date all the time costs one write in this time
_I64_MAX: Final = 2**63 - 1


def own_nvram(paths: FolderPaths) -> Nvram:
    """The machine's NVRAM; a new one when there is none. NvramError when it is damaged."""
    if not paths.nvram.exists():
        Nvram.fresh().save(paths.nvram)
    return Nvram.load(paths.nvram)


def identity(nvram: Nvram) -> Identity:
    """Who the machine is."""
    return Identity(
        nvram.random_seed,
        nvram.mac_seed,
        nvram.machine_id.hex(),
        str(uuid.UUID(bytes=nvram.uuid)),
    )


def new_identity(paths: FolderPaths, seed: int | None = None) -> Nvram:
    """Make the machine another one (of ``seed``, or like no other), with its flash and its clock."""
    own_nvram(paths)
    fresh = Nvram.fresh(seed)
    return update_nvram(
        paths.nvram,
        lambda old: attrs.evolve(fresh, clock_offset_ns=old.clock_offset_ns, flash=old.flash),
    )


def powered_on(config: GuestConfig, nvram: Nvram, *, seed_given: bool) -> GuestConfig:
    """The configuration of a machine with this NVRAM.

    Where its owner says the seed, all of its identity comes from that; the date is set in any case.
    """
    date = config.epoch_ns + nvram.clock_offset_ns
    config = attrs.evolve(config, epoch_ns=min(max(0, date), _I64_MAX))
    if seed_given:
        return config
    own = attrs.asdict(identity(nvram))
    said = {key: getattr(config, key) for key in own if key != "seed"}
    return attrs.evolve(config, **own | {key: v for key, v in said.items() if v is not None})


class NvramKeeper:
    """Brings what a running guest changes to its nvram.bin, but for the flash, which does so itself."""

    def __init__(self, paths: FolderPaths, guest: Guest, log: VmLog) -> None:
        self._path: Final = paths.nvram
        self._guest = guest
        self._log = log
        self._kept_at = -KEEP_AFTER_S
        offset = date_offset(guest.machine)
        known = own_nvram(paths).clock_offset_ns
        self._told_ns = None if offset is None else offset - known
        watch_date(guest.machine, lambda: guest.outbox.call(self._date_set))

    def _date_set(self) -> None:
        now = trio.current_time()
        if now - self._kept_at >= KEEP_AFTER_S:
            self._kept_at = now
            self.keep()

    def clocked(self, nvram: Nvram) -> Nvram:
        """``nvram`` with how far the guest's clock is set now."""
        offset = date_offset(self._guest.machine)
        if offset is None or self._told_ns is None:
            return nvram
        bounded = min(max(-_I64_MAX, offset - self._told_ns), _I64_MAX)
        return attrs.evolve(nvram, clock_offset_ns=bounded)

    def keep(self) -> None:
        """Write how the clock is set, durably. What goes wrong is logged: the guest is not to blame."""
        try:
            update_nvram(self._path, self.clocked)
        except BackendError as error:
            self._log.add("clock not kept", text=str(error))

    def now(self) -> Nvram:
        """The NVRAM at this instant, but for its flash; see ``with_flash``."""
        return self.clocked(Nvram.load(self._path))


def with_flash(nvram: Nvram, snapshot: Snapshot) -> Nvram:
    """The NVRAM with what the flash holds in a snapshot, which may not be in the file yet."""
    saved = snapshot.saved
    for number, disk in kept_disks(saved.config).items():
        if disk.in_nvram:
            part = flash_part(saved.disks[number])
            return attrs.evolve(nvram, flash=(part, *nvram.flash[1:]))
    return nvram
