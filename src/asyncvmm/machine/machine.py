"""One guest's machine: RAM, harts, controllers, devices and boot, put together. No I/O."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping

import attrs

from asyncvmm.arch.code import CodeCache
from asyncvmm.arch.coherence import Coherence
from asyncvmm.arch.guard import Guard
from asyncvmm.arch.hart import Hart
from asyncvmm.base.errors import InternalError
from asyncvmm.base.units import PAGE_SIZE
from asyncvmm.bus.address_map import Bus
from asyncvmm.device import CharPort, RandomStream
from asyncvmm.engine.interpreter import Engine, Interpreter
from asyncvmm.fdt import Tree
from asyncvmm.firmware.environment import ClockedEnvironment
from asyncvmm.firmware.htif import Htif, HtifCoherence
from asyncvmm.firmware.sbi import Sbi
from asyncvmm.firmware.sbi_console import PortConsole
from asyncvmm.interrupts.lines import InterruptSink
from asyncvmm.machine import boot
from asyncvmm.machine.board import CLINT_BASE, PLIC_BASE, RAM_BASE
from asyncvmm.machine.config import GuestConfig
from asyncvmm.machine.containment import Containment
from asyncvmm.machine.device_tree import TreeInput, build_tree
from asyncvmm.machine.devices import (
    Attached,
    DeviceFactory,
    LogSink,
    OpenBlob,
    OpenFolder,
    no_blobs,
    no_folders,
    wanted_devices,
)
from asyncvmm.machine.engine_stats import EngineStats
from asyncvmm.machine.engines import choose_engine
from asyncvmm.machine.files import BootFiles
from asyncvmm.machine.power import Ending, PowerSwitch, ProgramExit, SbiReset
from asyncvmm.machine.registers import hart_values, reset_hart
from asyncvmm.machine.scheduler import RAN_TIME, UNLIMITED, Scheduler, WakeListener
from asyncvmm.memory.merge import Merger
from asyncvmm.memory.pages import ABSENT, Ram
from asyncvmm.memory.shared import SharedPages
from asyncvmm.platform import aclint, plic
from asyncvmm.platform.aclint import Aclint
from asyncvmm.platform.plic import Plic
from asyncvmm.plugin import DeviceType
from asyncvmm.timeline.clock import Clock
from asyncvmm.timeline.events import Timeline

MACHINE_ID_WORD = "systemd.machine_id="


@attrs.frozen
class Stats:
    """Counters of a machine since it was made; never visible to the guest."""

    instructions: int
    traps: int
    interrupts: int
    device_accesses: int
    tlb_misses: int
    resident_bytes: int
    virtual_ns: int
    engine: EngineStats


def _card_values(device: Attached) -> list[object]:
    """What a network card's socket holds: packets that have come or are about to."""
    if device.type.net(device.config) is None:
        return []
    net = device.io.net
    return [net.save(), net.rate.tokens()]


class _SbiWakes(WakeListener):
    def __init__(self, sbi: Sbi) -> None:
        self._sbi = sbi

    def wakes(self, hart: Hart) -> None:
        self._sbi.wakes(hart)


class Machine:
    """Assembled from ``config``, the ``files`` it names and the device ``types`` of the plugins.

    ``run`` executes; ``ending`` says why it stopped for good; ``console`` is the port of the first
    serial device, which SBI and HTIF consoles share. Whoever brings input pushes it to a port
    between two calls of ``run``.
    """

    def __init__(
        self,
        config: GuestConfig,
        files: BootFiles,
        types: Mapping[str, DeviceType],
        *,
        timeline: Timeline | None = None,
        engine: Engine | None = None,
        open_blob: OpenBlob = no_blobs,
        open_folder: OpenFolder = no_folders,
        log_sink: LogSink | None = None,
        merger: Merger | None = None,
        powered: bool = True,
        store: SharedPages | None = None,
        name: str = "",
    ) -> None:
        """``merger`` is that of the guest's trust group: see ``share_image``.

        Without ``powered`` nothing is loaded: ``snapshot.restore`` makes it what another one was.
        ``name`` is what its host calls it, where that is not the name of its configuration, which
        its devices' paths and randomness come from. ``store`` is for the pages of a guest without
        a group, and those that it shares with.
        """
        self.config = config
        self.name = name or config.name
        self.files = files
        self.timeline = timeline if timeline is not None else Timeline()
        self.clock = Clock(self.timeline, config.mips)
        self.merger = merger
        if merger is not None:
            store = merger.shared_pages
        self.ram = Ram(RAM_BASE, config.memory, store)
        self.bus = Bus()
        self.code = CodeCache()
        self.coherence = Coherence(self.ram, self.code)
        # Called before each run with ``until_ns``: the history of a debugger.
        self.before_run: Callable[[int], None] | None = None
        self.came_back: int = RAN_TIME  # why ``run`` did, the last time
        self.harts = [Hart(i, self.ram, self.bus, self.code) for i in range(config.harts)]
        self.guard = Guard(config.harts)
        for hart in self.harts:
            hart.guard = self.guard
        self.scheduler = Scheduler(
            self.clock,
            self.harts,
            engine if engine is not None else choose_engine(config.engine),
            config.quantum,
        )
        self.switch = PowerSwitch(self.scheduler)
        sinks: list[InterruptSink] = list(self.harts)
        self.aclint = Aclint(self.clock, sinks)
        self.plic = Plic(sinks)
        self.bus.attach(PLIC_BASE, plic.SIZE, self.plic, "plic")
        self.containment = Containment(self.bus, self.scheduler.request_stop)
        self.devices = self._make_devices(types, open_blob, log_sink, open_folder)
        self.containment.devices = self.devices
        self.console = self._find_console()
        self.htif: Htif | None = None
        self.sbi: Sbi | None = None
        # Under the built-in SBI the CLINT is M-mode's, as OpenSBI's PMP makes it: not to be seen.
        if config.firmware is None and config.elf is None:
            self.sbi = Sbi(self.clock, self.harts, PortConsole(self.console), SbiReset(self.switch))
            self.scheduler.wake_listener = _SbiWakes(self.sbi)
        else:
            self.bus.attach(CLINT_BASE, aclint.SIZE, self.aclint, "clint")
        environment = self.sbi if self.sbi is not None else ClockedEnvironment(self.clock)
        for hart in self.harts:
            hart.environment = environment
        self._boot: boot.Boot | None = None
        if powered:
            self._load()
        else:
            self._add_harts()

    def run(self, until_ns: int = UNLIMITED, max_steps: int = UNLIMITED) -> int:
        """Run the guest; a ``RAN_*`` code of ``asyncvmm.machine.scheduler``.

        After RAN_STOP, ``ending`` says more. InternalError names a device that has a bug, unless
        ``containment`` gives up such devices.
        """
        if self.before_run is not None:
            self.before_run(until_ns)
        if self.htif is not None:
            self.htif.input_arrived()
        reason = self.came_back = int(self.scheduler.run(until_ns, max_steps))
        self.bus.raise_failure()
        return reason

    @property
    def runs_unlocked(self) -> bool:
        """Whether ``run`` spends its time outside Python's lock, so that a thread is worth its cost."""
        if self.guard.active or self.before_run is not None:
            return False
        return not isinstance(self.scheduler.engine, Interpreter)

    @property
    def ending(self) -> Ending | None:
        """Why the guest stopped, or None while it has not."""
        return self.switch.ending

    @property
    def tree(self) -> Tree:
        """The device tree that the guest was given."""
        if self._boot is None:  # it was restored: what it booted from still says
            self._boot = self._place(Ram(RAM_BASE, self.config.memory))
        return self._boot.tree

    @property
    def ports(self) -> dict[str, CharPort]:
        """Every character port by its device's path, or ``path:name`` for further ports."""
        found: dict[str, CharPort] = {}
        for device in self.devices:
            found[device.io.path] = device.io.console
            found.update({f"{device.io.path}:{key}": p for key, p in device.io.ports.items()})
        return found

    def reset(self) -> None:
        """A cold reset: RAM empty and loaded again, harts and devices as at power-on.

        Virtual time, disks and what waits in the ports go on.
        """
        self._clear_ram()
        for hart in self.harts:
            reset_hart(hart)
        self.aclint.reset()
        self.plic.reset()
        if self.sbi is not None:
            self.sbi.stop_timers()
        for device in self.devices:
            device.io.guard.run(device.target.reset)
        self.switch.ending = None
        self.scheduler.restart()
        self._load()
        self.share_image()

    def close(self) -> None:
        """It is not wanted any more: give back what its devices keep open."""
        for device in self.devices:
            device.close()

    def share_image(self) -> None:
        """Share what has just been loaded with the trust group; nothing for a guest without one.

        Not while a machine is built, which may be in a thread: a group's store is used by one
        thread at a time, but for the release of pages.
        """
        if self.merger is not None:
            self.merger.share_all(self.ram)

    def digest(self) -> str:
        """SHA-256 of everything that the guest is: equal digests, equal guests.

        Pages of zeros count as absent; caches, statistics and the host's side of ports do not
        count.
        """
        digest = hashlib.sha256()
        state: dict[str, object] = {
            "now_ns": int(self.scheduler.now_ns()),
            "highest_ns": int(self.clock.highest_ns),
            "harts": [hart_values(hart) for hart in self.harts],
            "scheduler": self.scheduler.state(),
            "aclint": self.aclint.state(),
            "plic": self.plic.state(),
            "sbi": [] if self.sbi is None else self.sbi.state(),
            "devices": {
                device.io.path: [
                    "failed" if device.io.guard.broken else device.target.save(),
                    device.io.rng.position,
                    *device.io.rate.tokens(),
                    *_card_values(device),
                ]
                for device in self.devices
            },
        }
        digest.update(json.dumps(state, sort_keys=True, separators=(",", ":")).encode())
        zero = bytes(PAGE_SIZE)
        for index in range(int(self.ram.page_count)):
            if self.ram.kind[index] != ABSENT:
                page = bytes(memoryview(self.ram.pages[index]).cast("B"))
                if page != zero:
                    digest.update(index.to_bytes(8, "little") + page)
        return digest.hexdigest()

    def stats(self) -> Stats:
        """Counters so far."""
        traps = sum(int(hart.traps) for hart in self.harts)
        return Stats(
            instructions=sum(int(hart.steps) for hart in self.harts) - traps,
            traps=traps,
            interrupts=sum(int(hart.interrupts_taken) for hart in self.harts),
            device_accesses=sum(int(hart.mmio_accesses) for hart in self.harts),
            tlb_misses=sum(int(hart.tlb_misses) for hart in self.harts),
            resident_bytes=int(self.ram.resident) * PAGE_SIZE,
            virtual_ns=int(self.scheduler.now_ns()),
            engine=EngineStats.of(self.scheduler.engine, self.code),
        )

    def _make_devices(
        self,
        types: Mapping[str, DeviceType],
        open_blob: OpenBlob,
        log_sink: LogSink | None,
        open_folder: OpenFolder,
    ) -> list[Attached]:
        factory = DeviceFactory(
            self.config,
            self.ram,
            self.bus,
            self.clock,
            self.plic.input,
            self.switch,
            open_blob,
            log_sink,
            open_folder,
        )
        return [factory.attach(wanted) for wanted in wanted_devices(self.config, types)]

    def _find_console(self) -> CharPort:
        for device in self.devices:
            if device.node.name == "serial":
                return device.io.console
        return CharPort(f"{self.config.name}/console")

    def _place(self, ram: Ram) -> boot.Boot:
        flash = next((d.place.base for d in self.devices if d.type.window), None)
        return boot.load(self.files, ram, self.sbi, self._make_tree, self._append, flash)

    def _load(self) -> None:
        self._boot = self._place(self.ram)
        symbols = self._boot.symbols
        if "tohost" in symbols:
            self.watch_htif(symbols["tohost"], symbols.get("fromhost", 0))
        self._add_harts()
        self._boot.start(self.harts)

    @property
    def _append(self) -> str:
        """The kernel's command line; systemd takes the machine-id from there."""
        config = self.config
        if config.machine_id is None or config.kernel is None or MACHINE_ID_WORD in config.append:
            return config.append
        return f"{config.append} {MACHINE_ID_WORD}{config.machine_id}".lstrip()

    def _make_tree(self, initrd: tuple[int, int] | None) -> Tree:
        seed = RandomStream(self.config.seed, f"{self.config.name}/rng-seed").bytes(32)
        return build_tree(
            TreeInput(
                harts=self.config.harts,
                memory_bytes=self.config.memory,
                mmu=self.config.mmu,
                append=self._append,
                initrd=initrd,
                rng_seed=seed,
                machine_id=self.config.machine_id,
                uuid=self.config.uuid,
                devices=[device.node for device in self.devices],
                machine_mode=self.sbi is None,
            )
        )

    def watch_htif(self, tohost: int, fromhost: int) -> None:
        """Programs with a ``tohost`` symbol talk to the host through it; ``fromhost`` may be 0."""
        self.htif = Htif(self.ram, tohost, fromhost, self.console, ProgramExit(self.switch))
        self.coherence = HtifCoherence(self.ram, self.code, self.htif)
        self._add_harts()

    def _add_harts(self) -> None:
        for hart in self.harts:
            if hart not in self.coherence.harts:
                self.coherence.add(hart)

    def _clear_ram(self) -> None:
        """Every page absent and no code decoded."""
        ram = self.ram
        for index in range(int(ram.table_size)):
            if ram.has_code(index):
                self.code.drop(int(ram.first_ppn) + index)
                ram.set_code(index, False)
        ram.clear()
        if len(self.code):
            raise InternalError("decoded code is left after a reset")
