"""Virtual machines as folders, for programs: ``open_folder("web.vm")``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final, Literal

from asyncvmm.api.images import find_image
from asyncvmm.plugin import PluginManager, create_plugin_manager
from asyncvmm.plugin.images import ImageCache
from asyncvmm.runtime.folder import settings_edit
from asyncvmm.runtime.folder.create import NewMachine, create_folder
from asyncvmm.runtime.folder.diff import Difference, compare
from asyncvmm.runtime.folder.head import Head, read_head
from asyncvmm.runtime.folder.layout import FolderPaths, find_folder
from asyncvmm.runtime.folder.lock import Holder, holder_of
from asyncvmm.runtime.folder.logs import LogEntry, LogError, read_entries
from asyncvmm.runtime.folder.nvram import new_identity
from asyncvmm.runtime.folder.running import (
    RunningMachine,
    StartOptions,
    locked,
    open_machine,
    snapshot_of_stopped,
)
from asyncvmm.runtime.folder.settings import VmSettings, load_settings
from asyncvmm.runtime.folder.snapshots import FolderSnapshots, SnapshotInfo
from asyncvmm.storage import Progress
from asyncvmm.storage.nvram import Nvram
from asyncvmm.storage.progress import silent


class VmFolder:
    """The folder of a virtual machine: its configuration, disks, snapshots and logs.

        folder = open_folder("web.vm")
        folder.set("memory", "512M")
        async with folder.run() as machine:
            await machine.guest.run(["uname", "-a"])
            await machine.snapshot("installed")
            await machine.power_off()

    One process at a time runs or changes it (FolderBusyError names the other one); everybody may look.
    """

    def __init__(self, paths: FolderPaths, plugins: PluginManager | None = None) -> None:
        self.paths: Final = paths
        self._plugins = plugins

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.paths.root

    @property
    def plugins(self) -> PluginManager:
        """What checks devices and their options."""
        if self._plugins is None:
            self._plugins = create_plugin_manager()
        return self._plugins

    @property
    def settings(self) -> VmSettings:
        """vm.toml, checked; VmTomlError (a ConfigError) names file, line and key."""
        return load_settings(self.paths.config, self.plugins.device_types, self.paths.name)

    @property
    def head(self) -> Head:
        """What the machine goes on from at its next start."""
        return read_head(self.paths.head)

    @property
    def nvram(self) -> Nvram:
        """Its flash, its clock's offset and who it is, as they are on disk now."""
        return Nvram.load(self.paths.nvram)

    @property
    def holder(self) -> Holder | None:
        """Who uses it now."""
        return holder_of(self.paths.lock)

    def get(self, key: str) -> Any:
        """What vm.toml says of ``key``, or what holds without it."""
        return settings_edit.get_value(self.settings, key)

    def set(self, key: str, *words: str) -> None:
        """Change vm.toml, from the next start on. ConfigError leaves it as it was."""
        settings_edit.set_value(self.paths.config, key, words, self.plugins.device_types)

    def unset(self, key: str) -> None:
        """Take a key out of vm.toml."""
        settings_edit.unset_value(self.paths.config, key, self.plugins.device_types)

    def reseed(self, seed: int | None = None) -> Nvram:
        """Make the stopped machine another one than that which it was copied from: other addresses,
        machine-id and randomness, of ``seed`` or like no other's. A kept state takes them over.
        """
        with locked(self.paths):
            return new_identity(self.paths, seed)

    def run(
        self,
        *,
        cold: bool = False,
        commands: bool = False,
        date: Literal["freeze", "host"] = "freeze",
        journal: Path | None = None,
        **changes: Any,
    ) -> AbstractAsyncContextManager[RunningMachine]:
        """Run the machine in this process for a block; ``changes`` are GuestConfig's fields, this once.

        It goes on from the state that was kept last, unless ``cold``. With ``commands`` it boots to
        nothing but its agent. ``date="host"`` sets its clock by this machine's. ``journal`` is a new file
        for ``open_replay``; what changes of the folder later is kept beside it.
        """
        options = StartOptions(
            cold=cold, commands=commands, changes=changes, journal=journal, date=date
        )
        return open_machine(self.paths, options, plugins=self.plugins)

    @property
    def snapshots(self) -> Sequence[SnapshotInfo]:
        """All, oldest first."""
        return FolderSnapshots(self.paths).list()

    async def snapshot(self, name: str, note: str = "") -> int:
        """Keep the stopped machine; how many pages are new."""
        return await snapshot_of_stopped(self.paths, name, note, plugins=self.plugins)

    def restore(self, name: str, progress: Progress = silent) -> None:
        """Put the stopped machine's disks back, and let its next start go on from there."""
        with locked(self.paths):
            FolderSnapshots(self.paths).restore(name, progress)

    def delete_snapshot(self, name: str) -> None:
        """Forget one; pages that others have stay."""
        with locked(self.paths):
            FolderSnapshots(self.paths).delete(name)

    def diff(self, one: str, other: str) -> Difference:
        """What differs between two snapshots."""
        snapshots = FolderSnapshots(self.paths)
        return compare(snapshots.known_path(one), snapshots.known_path(other))

    def log(self) -> list[LogEntry | LogError]:
        """vm.log, oldest first; a damaged line as its error."""
        return list(read_entries(self.paths.vm_log))


def open_folder(path: Path | str, *, plugins: PluginManager | None = None) -> VmFolder:
    """The machine in a folder; ConfigError when there is none."""
    return VmFolder(find_folder(path), plugins)


def create_vm(
    path: Path | str,
    *,
    image: str = "",
    plugins: PluginManager | None = None,
    cache: ImageCache | None = None,
    progress: Progress = silent,
    keys: Mapping[str, str] | None = None,
    **wanted: Any,
) -> VmFolder:
    """Make a folder from an image that was pulled, or from ``kernel``, ``firmware`` or ``elf``.

    ``wanted`` are the fields of NewMachine, ``keys`` further ones of vm.toml. ConfigError leaves nothing.
    """
    manager = plugins if plugins is not None else create_plugin_manager()
    files = None
    if image:
        kept = cache if cache is not None else ImageCache()
        files = find_image(image, manager).boot_files(kept)
    new = NewMachine(image=image, files=files, keys=keys or {}, **wanted)
    create_folder(path, new, types=manager.device_types, progress=progress)
    return open_folder(path, plugins=manager)
