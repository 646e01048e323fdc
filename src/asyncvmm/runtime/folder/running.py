"""A folder's machine that runs in this process: locked, logged, and kept when it is asked for."""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import attrs
import trio

from asyncvmm.base.errors import AsyncvmmError, ConfigError
from asyncvmm.machine import GuestConfig
from asyncvmm.machine.renewal import FREEZE, HOST, Date, Identity
from asyncvmm.plugin import PluginManager, create_plugin_manager
from asyncvmm.runtime.commands import RUN_APPEND
from asyncvmm.runtime.folder.disks import check_disks, freeze_apart, kept_files
from asyncvmm.runtime.folder.head import STOPPED, Head, read_head, write_head
from asyncvmm.runtime.folder.layout import FolderPaths, check_own, clear_leftovers
from asyncvmm.runtime.folder.lock import FolderLock, Holder, this_process
from asyncvmm.runtime.folder.logs import ConsoleLog, VmLog
from asyncvmm.runtime.folder.nvram import (
    NvramKeeper,
    identity,
    own_nvram,
    powered_on,
    with_flash,
)
from asyncvmm.runtime.folder.settings import LogLimits, VmSettings, load_settings
from asyncvmm.runtime.folder.snapshots import FolderSnapshots, disk_stamps
from asyncvmm.runtime.guest import Guest, GuestExit
from asyncvmm.runtime.host import Host, open_host
from asyncvmm.runtime.snapshots import Snapshot
from asyncvmm.storage import check_image
from asyncvmm.storage.nvram import Nvram

RESUME_CHANGES: Final = ("clock", "engine")  # what may be another one when a state goes on


@attrs.frozen
class StartOptions:
    """How a machine is started. ``cold`` forgets a kept state and boots. ``changes`` are fields of
    GuestConfig for this time only; ``defaults`` are those that hold where vm.toml says nothing.
    ``commands`` is for a guest that does nothing but run commands. ``journal`` is for ``open_host``.
    ``date`` is what its clock shows: that of this machine ("host"; with what the guest has set it to
    differ), or what it would without ("freeze": a state's date goes on).
    """

    cold: bool = False
    commands: bool = False
    changes: Mapping[str, Any] = attrs.field(factory=dict, hash=False)
    defaults: Mapping[str, Any] = attrs.field(factory=dict, hash=False)
    max_instructions: int | None = None
    journal: Path | None = None
    date: Literal["freeze", "host"] = "freeze"


def effective_config(
    settings: VmSettings, options: StartOptions, nvram: Nvram | None = None
) -> GuestConfig:
    """The configuration of a machine that boots; ConfigError for changes that are wrong."""
    given = {key: value for key, value in options.changes.items() if value is not None}
    for key, value in options.defaults.items():
        if key not in settings.given and value is not None:
            given.setdefault(key, value)
    append = [settings.guest.append, given.pop("append", "")]
    if options.commands:
        if not settings.runs_commands:
            raise ConfigError(
                f"{settings.guest.name} runs no commands: its image has no run agent; start it without "
                "one and use its console"
            )
        append.append(RUN_APPEND)
    for key in ("flash", "disks", "nets", "shares", "devices"):
        if key in given:
            given[key] = (*getattr(settings.guest, key), *given[key])
    given["append"] = " ".join(word for word in append if word)
    values = {f.name: getattr(settings.guest, f.name) for f in attrs.fields(GuestConfig)}
    if options.date == HOST:
        given["epoch_ns"] = time.time_ns()
    config = GuestConfig.from_mapping({**values, **given})
    if nvram is None:
        return config
    seed_given = "seed" in settings.given or "seed" in given
    return powered_on(config, nvram, seed_given=seed_given)


@contextmanager
def locked(
    paths: FolderPaths, command: Sequence[str] | None = None, *, serves: bool = False
) -> Iterator[FolderLock]:
    """The folder for this process alone, with what a crash left half done put right."""
    with FolderLock(paths.lock, this_process(command, serves=serves)) as lock:
        check_own(paths)
        clear_leftovers(paths)
        FolderSnapshots(paths).finish_restore()
        if lock.died is not None:
            _recover(paths, lock.died)
        yield lock


def _recover(paths: FolderPaths, died: Holder) -> None:
    """After a crash: disks lost nothing that was flushed, but clusters that nothing points at."""
    log = VmLog(paths.vm_log, LogLimits())
    log.add("recovered", from_crash_of=died.describe())
    for path in sorted(paths.disks.glob("*.qcow2")):
        try:
            report = check_image(path, repair="leaks")
            if report.leaks or report.errors:
                log.add("disk checked", path=path.name, leaks=report.leaks, errors=report.errors)
        except AsyncvmmError as error:
            log.add("disk not checked", path=path.name, text=str(error))
    log.close()


class RunningMachine:
    """A folder's machine while it runs. Made by ``open_machine``."""

    def __init__(
        self, paths: FolderPaths, settings: VmSettings, host: Host, guest: Guest, log: VmLog
    ) -> None:
        self.paths: Final = paths
        self.settings: Final = settings
        self.host: Final = host
        self.guest: Final = guest
        self.log: Final = log
        self.snapshots: Final = FolderSnapshots(paths)
        self.nvram: Final = NvramKeeper(paths, guest, log)
        self.resumed: str | None = None
        self.saved = False
        self._busy = trio.Lock()

    async def snapshot(self, name: str, note: str = "") -> int:
        """Keep all that the machine is now under a name, while it goes on; how many pages are new.

        It stands still while its disks are looked at, and in virtual time until all is written.
        ConfigError when there is such a name.
        """
        async with self._busy:
            self.snapshots.check_new(name)
            check_disks(self.guest.machine)
            parent = read_head(self.paths.head).parent
            taken = await self.guest.snapshot()
            nvram = self.nvram.now()
            with ExitStack() as still:
                still.enter_context(self.host.held())
                snapshot = await self._apart(taken)
                if self.guest.config.clock == "realtime":
                    still.close()  # virtual time would run away while the pages are written
                with snapshot:
                    save = functools.partial(self._write, snapshot, name, parent, nvram, note)
                    pages = await trio.to_thread.run_sync(save)
            write_head(self.paths.head, Head(parent=name))
        self.log.add("snapshot", name=name, new_pages=pages)
        return pages

    def _write(
        self, snapshot: Snapshot, name: str, parent: str | None, nvram: Nvram, note: str = ""
    ) -> int:
        return self.snapshots.save(snapshot, name, parent, with_flash(nvram, snapshot), note)

    async def _apart(self, taken: Snapshot) -> Snapshot:
        """The snapshot with disks that do not need the files any more."""
        saved = taken.saved
        copy = functools.partial(freeze_apart, self.guest.machine, saved.disks)
        try:
            found = await trio.to_thread.run_sync(copy)
        except BaseException:
            taken.close()
            raise
        disks, files = list(saved.disks), list(saved.disk_files)
        for number, each in enumerate(found):
            if each is not None:
                disks[number].close()
                disks[number], files[number] = each
        return Snapshot(attrs.evolve(saved, disks=tuple(disks), disk_files=tuple(files)))

    async def save_and_stop(self) -> None:
        """Keep all that the machine is, and end it: its next start goes on from here."""
        async with self._busy:
            check_disks(self.guest.machine)
            taken = await self.guest.snapshot()
            nvram = self.nvram.now()
            if self.host.journal is not None:
                self.host.journal.compare()
            self.guest.finish(GuestExit("closed", detail="saved"))
            snapshot = await self._apart(taken)
            head = read_head(self.paths.head)
            if STOPPED in self.snapshots.names(hidden=True):
                self.snapshots.delete(STOPPED)
            with snapshot:
                save = functools.partial(self._write, snapshot, STOPPED, head.parent, nvram)
                await trio.to_thread.run_sync(save)
            self.nvram.keep()
            kept = kept_files(self.guest.config).values()
            stamps = disk_stamps(self.paths, [disk.path for disk in kept])
            write_head(self.paths.head, Head(head.parent, STOPPED, stamps))
        self.saved = True
        self.log.add("saved", time_ns=snapshot.time_ns)

    async def delete_snapshot(self, name: str) -> None:
        """See FolderSnapshots.delete; not while one is saved."""
        async with self._busy:
            await trio.to_thread.run_sync(self.snapshots.delete, name)
        self.log.add("snapshot deleted", name=name)

    async def power_off(self) -> GuestExit:
        """Ask the guest's agent to shut down, and wait for the end."""
        return await self.guest.power_off()


@asynccontextmanager
async def open_machine(
    paths: FolderPaths,
    options: StartOptions = StartOptions(),
    *,
    command: Sequence[str] | None = None,
    serves: bool = False,
    plugins: PluginManager | None = None,
) -> AsyncIterator[RunningMachine]:
    """Lock the folder and start its machine, from power-on or from the state that was kept.

    A machine that still runs when the block ends stops where it is, as by a power cut. FolderBusyError
    when somebody else has the folder; ConfigError for what is wrong in it.
    """
    manager = (
        plugins if plugins is not None else await trio.to_thread.run_sync(create_plugin_manager)
    )
    with locked(paths, command, serves=serves):
        settings = load_settings(paths.config, manager.device_types, paths.name)
        log = VmLog(paths.vm_log, settings.logs)
        console = ConsoleLog(paths.console_log, settings.logs)
        try:
            nvram = own_nvram(paths)
            source, name = _source(paths, settings, options, nvram)
            log.add("start", resumed=name or "", name=settings.guest.name)
            try:
                async with open_host(
                    mips=source.config.mips if isinstance(source, Snapshot) else source.mips,
                    networks=settings.networks,
                    plugins=manager,
                    journal=options.journal,
                ) as host:
                    guest = await _start(paths, host, source, name, options, nvram)
                    log.virtual_ns = lambda: guest.now_ns
                    guest.log.listener = log.device_said
                    guest.console.taps.append(console.write)
                    machine = RunningMachine(paths, settings, host, guest, log)
                    machine.resumed = name
                    try:
                        yield machine
                    finally:
                        machine.nvram.keep()
                        ended = guest.exit or GuestExit("closed")
                        log.add("end", reason=ended.reason, code=ended.code, detail=ended.detail)
            except ConfigError as error:
                log.add("failed", text=str(error))
                raise
        finally:
            log.close()
            console.close()


def _source(
    paths: FolderPaths, settings: VmSettings, options: StartOptions, nvram: Nvram
) -> tuple[GuestConfig | Snapshot, str | None]:
    """What the machine starts from, and the name of the state if it is one."""
    head = read_head(paths.head)
    if options.cold or head.resume is None:
        return effective_config(settings, options, nvram), None
    refused = [
        key
        for key, value in options.changes.items()
        if value not in (None, (), "") and key not in RESUME_CHANGES
    ]
    if refused:
        raise ConfigError(
            f"{paths.root}: goes on from a saved state, which has its {refused[0]} already: `--cold` boots "
            "instead"
        )
    snapshot = FolderSnapshots(paths).resume(head.resume, head)
    saved = snapshot.saved
    wanted = {
        key: options.changes.get(key) or settings.given.get(key) or options.defaults.get(key)
        for key in RESUME_CHANGES
    }
    config = attrs.evolve(saved.config, **{key: v for key, v in wanted.items() if v is not None})
    return Snapshot(attrs.evolve(saved, config=config)), head.resume


async def _start(
    paths: FolderPaths,
    host: Host,
    source: GuestConfig | Snapshot,
    name: str | None,
    options: StartOptions,
    nvram: Nvram,
) -> Guest:
    """Before the guest can write to its disks, the state that fitted them is forgotten.

    A state whose folder was made another machine's since becomes that, too.
    """
    reseed: Identity | Literal[False] = False
    date: Date = FREEZE
    if name is not None:
        kept = FolderSnapshots(paths).nvram(name)
        if kept is not None and identity(kept) != identity(nvram):
            reseed = identity(nvram)
        if options.date == HOST:
            date = time.time_ns() + nvram.clock_offset_ns
    if name is not None and host.journal is not None:
        # The state and its disks go on changing: what they are now stays beside the journal.
        beside = host.journal.file.folder / "state"
        with FolderSnapshots(paths).load(name) as state:
            await trio.to_thread.run_sync(state.save, beside)
        assert isinstance(source, Snapshot)
        source.folder = beside
    before = read_head(paths.head)
    write_head(paths.head, Head(parent=before.parent))
    try:
        return await host.start(
            source, max_instructions=options.max_instructions, reseed=reseed, clock=date
        )
    except BaseException:
        write_head(paths.head, before)
        raise
    finally:
        if isinstance(source, Snapshot):
            source.close()


async def snapshot_of_stopped(
    paths: FolderPaths, name: str, note: str = "", *, plugins: PluginManager | None = None
) -> int:
    """Keep a stopped machine: the state that it is to go on from, else its power-on with its disks."""
    manager = (
        plugins if plugins is not None else await trio.to_thread.run_sync(create_plugin_manager)
    )
    with locked(paths):
        snapshots = FolderSnapshots(paths)
        snapshots.check_new(name)
        head = read_head(paths.head)
        settings = load_settings(paths.config, manager.device_types, paths.name)
        log = VmLog(paths.vm_log, settings.logs)
        if head.resume is not None:
            nvram = snapshots.nvram(head.resume) or own_nvram(paths)
            with snapshots.load(head.resume) as kept:
                pages = snapshots.save(kept, name, head.parent, nvram, note)
        else:
            config = effective_config(settings, StartOptions(), own_nvram(paths))
            async with open_host(mips=config.mips, paused=True, plugins=manager) as host:
                guest = await host.start(config)
                machine = RunningMachine(paths, settings, host, guest, log)
                pages = await machine.snapshot(name, note)
        write_head(paths.head, attrs.evolve(head, parent=name))
        log.add("snapshot", name=name, new_pages=pages)
        log.close()
        return pages
