"""The host: one virtual clock, a policy, and the guests that share its simulated CPUs and memory."""

from __future__ import annotations

import functools
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import attrs
import trio

from asyncvmm.base.errors import ConfigError
from asyncvmm.base.units import PAGE_SIZE, US
from asyncvmm.hypervisor import (
    DEFAULT_POLICY,
    Cpus,
    CpuSpec,
    HostMemory,
    Ledger,
    LedgerEvent,
    Vcpu,
    make_policy,
)
from asyncvmm.hypervisor.ledger import GRAVE
from asyncvmm.machine import (
    BootFileReader,
    GuestConfig,
    Machine,
    parse_size,
    read_boot_files,
)
from asyncvmm.machine.devices import OpenBlob
from asyncvmm.machine.engines import find_spin
from asyncvmm.machine.renewal import (
    FREEZE,
    HOST,
    IDENTITY,
    Date,
    Identity,
    Reseed,
    check_date,
    new_seed,
    renew,
    reseeded,
    set_date,
)
from asyncvmm.machine.snapshot import restore
from asyncvmm.memory.merge import Merger
from asyncvmm.network import Network, NetworkConfig
from asyncvmm.network.gateway import Gateway
from asyncvmm.plugin import PluginManager, create_plugin_manager
from asyncvmm.plugin.options import nearest
from asyncvmm.runtime.backends import Backends
from asyncvmm.runtime.blobs import open_file_blob, open_host_folder
from asyncvmm.runtime.conductor import Conductor, TrioWallClock, WallClock
from asyncvmm.runtime.connections import GuestStream
from asyncvmm.runtime.debugger import Debugging
from asyncvmm.runtime.edge import Forward
from asyncvmm.runtime.fingerprints import config_values
from asyncvmm.runtime.guest import Guest, GuestExit, GuestLog
from asyncvmm.runtime.host_saved import HostBooks, HostSettings, ResidentState, SavedHost
from asyncvmm.runtime.host_snapshots import HostSnapshot, check_books
from asyncvmm.runtime.inputs import Script
from asyncvmm.runtime.journal import Journal
from asyncvmm.runtime.journal_file import DEFAULT_LIMIT_BYTES, SHAPE, START, JournalFile
from asyncvmm.runtime.networks import Networks, Requested
from asyncvmm.runtime.outbox import Outbox
from asyncvmm.runtime.shares import Knobs, Rates, limit_cards, limit_disks, split_knobs
from asyncvmm.runtime.snapshots import DiskOpener, Snapshot
from asyncvmm.runtime.workers import Workers
from asyncvmm.timeline.events import FOREVER

DEFAULT_CPUS: Final = 8
MAX_FORKS: Final = 10_000
DEFAULT_MIPS: Final = 1000
DEFAULT_MEMORY: Final = 1 << 50  # as good as unlimited
STEPS_PER_STRETCH: Final = 1_000_000  # of one CPU: about 5 ms of wall time


class Host:
    """Runs guests side by side. Made by ``open_host``; ends them all when its block ends."""

    def __init__(
        self,
        plugins: PluginManager,
        conductor: Conductor,
        seed: int,
        networks: Networks,
        backends: Backends,
        policy: str,
    ) -> None:
        self.plugins: Final = plugins
        self.guests: dict[str, Guest] = {}
        self.seed: Final = seed
        self.paced: Final[set[str]] = set()  # the guests that keep step with the wall
        self._conductor = conductor
        self._files = BootFileReader()
        self._networks = networks
        self._backends = backends
        self._policy = policy
        self.journal: Journal | None = None
        self._kept: dict[int, str] = {}  # where the journal finds snapshots of elsewhere
        self._nursery: trio.Nursery | None = None
        self._closing = trio.Event()
        self._forks = 0

    @property
    def now_ns(self) -> int:
        """Virtual time since the host was opened, in ns."""
        return self._conductor.now_ns

    @property
    def quantum_ns(self) -> int:
        """The grid of virtual time on which tasks have their turn while guests run, in ns."""
        return self._conductor.cpus.spec.quantum_ns

    @property
    def events(self) -> list[LedgerEvent]:
        """What the host did to its guests and why, in order: admissions, refusals, throttling, ends."""
        return self._conductor.ledger.events()

    @property
    def networks(self) -> Mapping[str, Network]:
        """The networks by name: their cables, captures and switches."""
        return self._networks.by_name

    async def start(
        self,
        source: GuestConfig | Snapshot,
        *,
        name: str | None = None,
        max_instructions: int | None = None,
        apart: bool = False,
        check: Callable[[Machine], None] | None = None,
        open_blob: OpenBlob = open_file_blob,
        reseed: Reseed | Identity = False,
        clock: Date = "freeze",
    ) -> Guest:
        """Build a guest, admit it and let it run: from a configuration, its own clock beginning at 0,
        or from a snapshot, going on at the instant at which that was taken.

        ConfigError names what is wrong with its configuration, AdmissionError what the host lacks.
        ``name`` is what the host calls it, instead of the name in the configuration.
        ``max_instructions`` ends it after that many steps (instructions and traps, all harts).
        ``apart`` connects its network cards to networks of its own, where nobody else is.
        ``check`` is called in a thread with the machine before it runs, and may raise ConfigError;
        ``open_blob`` opens the disks and flash of a guest from a configuration.

        A guest from a snapshot is what that was to the bit, unless ``reseed`` renews its identity: its
        randomness and its kernel's (with a ``vmgenid`` device at once), its machine-id, and the addresses
        of its cards from their next reset on (see Guest.renew_identity). True makes a seed of the old
        one and the name; a number is the seed, an Identity all of it. ``clock`` is the date that its RTC
        shows: it goes on ("freeze"), is this machine's ("host"; marks the host as live), or Unix time in ns.
        """
        check_date(clock)
        conductor = self._conductor
        snapshot = source if isinstance(source, Snapshot) else None
        config = self._adapted(source)
        name = name or config.name
        if snapshot is not None:
            config = reseeded(config, reseed, name)
        elif reseed is not False or clock != FREEZE:
            raise ConfigError("reseed and clock are for guests from a snapshot")
        self._check_name(name)
        knobs = split_knobs(dict(config.policy))
        if clock == HOST:
            self._networks.entrance.live = True
            clock = time.time_ns()
        log = GuestLog()
        machine: Machine | None = None
        prints: dict[str, Any] = {}
        outbox = Outbox()
        merger = conductor.sharing.enter(config.trust_group)
        try:
            if snapshot is not None:
                machine = self._revive(snapshot, config, name, log, merger, clock)
                if check is not None:
                    await trio.to_thread.run_sync(check, machine)
                if conductor.inputs.recording:
                    look = functools.partial(conductor.inputs.fingerprint, machine, disks=False)
                    with conductor.held():
                        prints = await trio.to_thread.run_sync(look)
                        prints["snapshot"] = await self._keep(snapshot)
                    prints |= _renewed(config, reseed, clock)
                await conductor.turn()
            else:
                with conductor.held():
                    build = functools.partial(self._build, config, name, log, merger, open_blob)
                    machine = await trio.to_thread.run_sync(build)
                    machine.share_image()
                    if check is not None:
                        await trio.to_thread.run_sync(check, machine)
                    prints = await trio.to_thread.run_sync(conductor.inputs.fingerprint, machine)
                    await conductor.turn()
            conductor.kick()
            rates, vcpus = self._admit(machine, knobs, outbox)
        except BaseException:
            conductor.sharing.abandon(config.trust_group, machine)
            for device in machine.devices if machine is not None else ():
                device.close()
            raise
        conductor.sharing.join(machine)
        guest = self._guest(machine, rates, log, outbox, max_instructions)
        guest.policy.remember(dict(config.policy))
        if snapshot is not None:
            guest.go_on_from(snapshot.saved.host_side)
        conductor.inputs.note(
            START,
            guest=name,
            config=config_values(config),
            most=max_instructions,
            apart=apart,
            **prints,
        )
        self.guests[name] = guest
        since_ns = conductor.now_ns - guest.now_ns
        self._networks.plug(machine, since_ns, apart=apart)
        if config.clock == "realtime":
            self.paced.add(name)
        conductor.add(guest, vcpus, since_ns)
        self._backends.start(guest)
        return guest

    async def snapshot(self) -> HostSnapshot:
        """All guests and all that is between them at this instant, as a value: ``open_host`` goes on
        from it (``open_host(snapshot=...)``), as often as wanted, to the same digests.

        Memory and disks are shared until written. What only this process can have stays here: streams
        of ``connect`` and forwarded ports end in the copy with RST (see ``Gateway.cut_off``), commands
        of ``Guest.run`` are killed there, captures do not go on. ConfigError for a policy that keeps
        no state.
        """
        conductor = self._conductor
        await conductor.turn()
        conductor.kick()
        guests = list(self.guests.values())
        books = HostBooks(
            HostSettings(
                conductor.cpus.spec.cpus,
                conductor.cpus.spec.mips,
                conductor.cpus.spec.quantum_ns,
                conductor.memory.capacity_pages * PAGE_SIZE,
                conductor.memory.overcommit,
                self._policy,
                self.seed,
                self.live,
            ),
            conductor.state(),
            conductor.cpus.state(),
            conductor.memory.state(),
            conductor.ledger.state(),
            tuple(
                ResidentState(
                    guest.name,
                    -1 if guest.max_steps is None else guest.max_steps,
                    tuple((key, _plain(value)) for key, value in guest.policy.knobs.items()),
                )
                for guest in guests
            ),
        )
        networks = self._networks.save()
        taken = tuple(guest.taken().saved for guest in guests)
        return HostSnapshot(SavedHost(books, self._networks.configs, networks, taken))

    def _take_up(self, snapshot: HostSnapshot, reseed: Reseed, clock: Date) -> None:
        """Become what ``snapshot`` says: a host that is new, before time has begun."""
        snapshot.check_open()
        conductor, saved = self._conductor, snapshot.saved
        check_books(saved.books)
        since = {place.guest: place.since_ns for place in saved.books.conductor.places}
        made: dict[str, Guest] = {}
        try:
            for resident, one in zip(saved.books.guests, saved.guests, strict=True):
                config = one.config
                if reseed is not False:
                    seed = new_seed(True, self.seed, resident.name)
                    config = reseeded(config, seed, resident.name)
                guest = self._return(resident, Snapshot(one), config, since[resident.name], clock)
                made[resident.name] = guest
            conductor.memory.restore(saved.books.memory)
            conductor.ledger.restore(saved.books.ledger)
            vcpus = conductor.cpus.restore(saved.books.cpus)
            machines = {name: guest.machine for name, guest in made.items()}
            self._networks.load(saved.networks, machines)
            conductor.restore(saved.books.conductor, made, vcpus)
        except BaseException:
            for guest in made.values():
                for device in guest.machine.devices:
                    device.close()
            raise
        self.guests.update(made)
        self._networks.entrance.live = saved.books.settings.live
        for guest in made.values():
            if guest.config.clock == "realtime":
                self.paced.add(guest.name)
            self._backends.start(guest)
        self._networks.cut_off(conductor.now_ns)

    def _return(
        self,
        resident: ResidentState,
        snapshot: Snapshot,
        config: GuestConfig,
        since_ns: int,
        clock: Date,
    ) -> Guest:
        """A guest of a host's snapshot, which the books know already."""
        conductor = self._conductor
        knobs = dict(resident.knobs)
        split = split_knobs(knobs)
        log, outbox = GuestLog(), Outbox()
        merger = conductor.sharing.enter(config.trust_group)
        machine = self._revive(snapshot, config, resident.name, log, merger, clock)
        rates = self._rates(machine, split, outbox, since_ns)
        conductor.sharing.join(machine)
        limit = None if resident.max_steps < 0 else resident.max_steps
        guest = self._guest(machine, rates, log, outbox, limit)
        guest.policy.remember(knobs)
        guest.go_on_from(snapshot.saved.host_side)
        return guest

    async def fork(
        self, *, reseed: Reseed = False, clock: Date = "freeze", paused: bool | None = None
    ) -> Host:
        """A live copy of the whole host: all guests, networks of its own, a clock of its own.

        It ends with this host, or with its ``aclose``. ``reseed``, ``clock`` and ``paused`` (as this
        one is, unless said) are as for ``open_host``; see ``snapshot`` for what stays here.
        """
        self._forks += 1
        if reseed is True:
            reseed = new_seed(True, self.seed, f"host {self._forks}")
        still = self._conductor.paused if paused is None else paused
        snapshot = await self.snapshot()
        assert self._nursery is not None
        made = await self._nursery.start(self._run_fork, snapshot, reseed, clock, still)
        assert isinstance(made, Host)
        return made

    async def _run_fork(
        self,
        snapshot: HostSnapshot,
        reseed: Reseed,
        clock: Date,
        paused: bool,
        task_status: trio.TaskStatus[Host],
    ) -> None:
        with snapshot:
            async with open_host(
                snapshot=snapshot,
                reseed=reseed,
                clock=clock,
                paused=paused,
                workers=self._conductor.workers.count,
                plugins=self.plugins,
            ) as host:
                snapshot.close()
                task_status.started(host)
                await host._closing.wait()

    async def aclose(self) -> None:
        """End a host that ``fork`` made, and all of its guests."""
        self._closing.set()
        self.close()
        await trio.lowlevel.checkpoint()

    async def _fork_guest(
        self, guest: Guest, count: int, reseed: Reseed, clock: Date
    ) -> list[Guest]:
        """See Guest.fork."""
        if not 1 <= count <= MAX_FORKS:
            raise ConfigError(f"1 to {MAX_FORKS} forks, not {count}")
        made: list[Guest] = []
        number = 0
        with await guest.snapshot() as snapshot:
            while len(made) < count:
                number += 1
                name = f"{guest.name}.{number}"
                if name not in self.guests:
                    fork = await self.start(
                        snapshot, name=name, apart=True, reseed=reseed, clock=clock
                    )
                    made.append(fork)
        return made

    def _adapted(self, source: GuestConfig | Snapshot) -> GuestConfig:
        """The configuration, as it has to be on this host."""
        mips = self._conductor.cpus.spec.mips
        if isinstance(source, Snapshot):
            source.check_open()
            if source.config.mips != mips:
                raise ConfigError(
                    f"the snapshot is of a guest of {source.config.mips} MIPS: open a host with "
                    f"mips={source.config.mips}, not {mips}"
                )
            return source.config
        config = source
        if config.mips != mips:
            config = attrs.evolve(config, mips=mips)
        if self.seed and not config.seed:
            config = attrs.evolve(config, seed=self.seed)
        return config

    def _check_name(self, name: str) -> None:
        if name in self.guests:
            raise ConfigError(f"a guest named {name!r} runs already: give this one a name")

    def _admit(self, machine: Machine, knobs: Knobs, outbox: Outbox) -> tuple[Rates, list[Vcpu]]:
        """Give a new machine its part of the host, or raise and give it nothing."""
        config, conductor, name = machine.config, self._conductor, machine.name
        self._check_name(name)
        self._networks.check(machine)
        now = conductor.now_ns
        rates = self._rates(machine, knobs, outbox, now - int(machine.timeline.now_ns))
        group = config.trust_group or ""
        conductor.memory.add(name, config.memory, knobs.memory, now, group)
        try:
            return rates, conductor.cpus.add(name, config.harts, knobs.cpu, now)
        except ConfigError:
            conductor.memory.remove(name)
            raise

    def _rates(self, machine: Machine, knobs: Knobs, outbox: Outbox, since_ns: int) -> Rates:
        """Put the limits of ``knobs`` before a machine's devices."""
        record = functools.partial(outbox.call, self._conductor.ledger.record)
        machine.containment.mode = knobs.device_failure
        return Rates(
            limit_disks(machine, knobs, record, since_ns),
            limit_cards(machine, knobs, record, since_ns),
        )

    async def run_until(self, until: int | Callable[[], bool], *, exact: bool = False) -> None:
        """Let a paused host run to a virtual time in ns, or until a condition holds, and pause again.

        A condition is looked at whenever a guest has said something and a task has had its turn, and
        at least once every quantum of virtual time. With a guest of several harts time pauses on the
        grid of ``quantum_ns`` only, at the first such instant from ``until`` on, unless it must be
        ``exact``: then a quantum ends early, which such a guest can see.
        """
        conductor = self._conductor
        await conductor.turn()
        if callable(until):
            while not until():
                conductor.set_goal(conductor.now_ns + conductor.cpus.spec.quantum_ns)
                await conductor.wait_goal()
            return
        conductor.set_goal(max(until, conductor.now_ns), exact)
        await conductor.wait_goal()

    async def wait_quiet(self) -> None:
        """Return when all guests wait for input, with no timer or other event to come.

        Never with ``clock="realtime"``, nor for systems that keep a timer running, as Linux does.
        """
        await self._conductor.wait_quiet()

    def held(self) -> AbstractContextManager[None]:
        """Time stands still in this context: what takes wall time takes no virtual time."""
        return self._conductor.held()

    def shape(self, network: str, guest: str, **changes: Any) -> None:
        """Change the cable of a guest in a network from now on: keywords of LinkShape.

        ``host.shape("lan", "web", up=False)`` is a partition. ConfigError leaves it as it was.
        """
        if network not in self.networks:
            raise ConfigError(f"no network {network!r}: {nearest(network, self.networks)}")
        conductor = self._conductor

        def shape() -> None:
            conductor.kick()
            self.networks[network].shape(guest, **changes)
            conductor.inputs.note(SHAPE, network=network, guest=guest, changes=changes)

        if conductor.between:
            shape()
        else:  # only what waits for the wall clock comes in the middle of a quantum
            self.networks[network].check_shape(guest, **changes)
            conductor.later(shape)

    async def connect(self, guest: str, port: int) -> GuestStream:
        """A trio stream into a server in a guest, over its first network with a gateway.

        No port on this machine is involved. ConnectFailedError when the guest does not take it.
        """
        return await self._networks.connect(guest, port)

    async def forward(self, guest: str, forward: Forward | str) -> int:
        """Forward a port of this machine (loopback unless said) to a guest's, such as ``"8080:80"``.

        Returns the machine's port, until the host ends. What comes through marks the host as live.
        """
        wanted = Forward.parse(forward) if isinstance(forward, str) else forward
        return await self._networks.forward(guest, wanted)

    @property
    def live(self) -> bool:
        """Whether anything came through real sockets, or a guest or a network has something live: the run
        cannot be repeated from its seed.
        """
        return self._networks.entrance.live

    @property
    def gateways(self) -> Mapping[str, Gateway]:
        """The gateways by the names of their networks."""
        return self._networks.gateways

    def gateway(self, place: str) -> Gateway:
        """A network's gateway; KeyError when there is none."""
        return self._networks.gateways[place]

    def enter_gateway(self, gateway: Gateway, action: Callable[[int], None]) -> None:
        """Do to a gateway what came from outside when its run was recorded."""
        self._networks.entrance.enter_again(action)

    def enter_outlet(self, place: str, name: str, data: bytes) -> None:
        """Give to a network backend what came from outside when its run was recorded; KeyError when
        there is none.
        """
        outlet = self._networks.by_name[place].outlets[name]
        self._networks.entrance.enter_again(lambda now: outlet.enter(now, data))

    def follow(self, script: Script, requested: Requested) -> None:
        """Let ``script`` say what enters, and hear of what gateways ask for, instead of the world."""
        self._conductor.script = script
        self._networks.close_door(requested)
        self._backends.close_door()

    def pause(self) -> None:
        """Let time stand still from now on, once tasks have their turn."""
        self._conductor.set_goal(self._conductor.now_ns)

    def resume(self) -> None:
        """Let a paused host run on for good."""
        self._conductor.set_goal(FOREVER)

    def close(self) -> None:
        """End every guest where it is."""
        for guest in list(self.guests.values()):
            guest.finish(GuestExit("closed"))

    def _revive(
        self,
        snapshot: Snapshot,
        config: GuestConfig,
        name: str,
        log: GuestLog,
        merger: Merger | None,
        clock: Date,
    ) -> Machine:
        """A machine that is what ``snapshot`` says, but for its seed and date."""
        table = snapshot.saved.state.pages
        machine = Machine(
            config,
            snapshot.saved.files,
            self.plugins.device_types,
            open_blob=DiskOpener(snapshot),
            open_folder=open_host_folder,
            log_sink=log.add,
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
            if clock != FREEZE:
                if clock == HOST:
                    self._networks.entrance.live = True
                set_date(machine, time.time_ns() if clock == HOST else int(clock))
        except BaseException:
            for device in machine.devices:
                device.close()
            raise
        finally:
            if own:
                pages.release()
        return machine

    def _guest(
        self,
        machine: Machine,
        rates: Rates,
        log: GuestLog,
        outbox: Outbox,
        max_instructions: int | None,
    ) -> Guest:
        """A guest of this host, which is not among its others yet."""
        return Guest(
            machine,
            self._conductor,
            self._ended,
            rates,
            log,
            outbox,
            self._networks.entrance,
            max_instructions,
            self._debugging(),
            self._fork_guest,
        )

    def _debugging(self) -> Debugging:
        return Debugging(self._backends.nursery, self._revive_past, self._put_back)

    def _put_back(self, name: str, snapshot: Snapshot) -> None:
        """A guest becomes what the snapshot says, and lives on from there; its cables stay plugged in.

        It leaves the books and comes again. The host's clock goes on: the guest waits, for less than
        a quantum, until it has the place on the host's grid that it had, since harts that run side by
        side can tell.
        """
        guest, conductor = self.guests[name], self._conductor
        config, knobs = snapshot.config, guest.policy.knobs
        merger = conductor.sharing.enter(config.trust_group)
        try:
            machine = self._revive(snapshot, config, name, guest.log, merger, FREEZE)
        except BaseException:
            conductor.sharing.abandon(config.trust_group, None)
            raise
        now_ns = conductor.now_ns
        since_ns = now_ns - int(machine.timeline.now_ns)
        since_ns += (conductor.since_ns(name) - since_ns) % self.quantum_ns
        conductor.remove(guest, "goes back")
        split = split_knobs(knobs)
        rates = self._rates(machine, split, guest.outbox, since_ns)
        conductor.memory.add(name, config.memory, split.memory, now_ns, config.trust_group or "")
        vcpus = conductor.cpus.add(name, config.harts, split.cpu, now_ns)
        conductor.sharing.join(machine)
        guest.become(machine, rates)
        guest.policy.remember(knobs)
        guest.go_on_from(snapshot.saved.host_side)
        self._networks.replug(machine, since_ns)
        conductor.add(guest, vcpus, since_ns)

    def _revive_past(self, machine: Machine, snapshot: Snapshot) -> Machine:
        """What ``machine``, a guest's, was when the snapshot was taken: to be looked at."""
        return self._revive(
            snapshot, snapshot.config, machine.name, GuestLog(), machine.merger, FREEZE
        )

    def _build(
        self,
        config: GuestConfig,
        name: str,
        log: GuestLog,
        merger: Merger | None,
        open_blob: OpenBlob,
    ) -> Machine:
        return Machine(
            config,
            read_boot_files(config, self._files),
            self.plugins.device_types,
            open_blob=open_blob,
            open_folder=open_host_folder,
            log_sink=log.add,
            merger=merger,
            name=name,
        )

    def journal_refers(self, snapshot: Snapshot, folder: Path) -> None:
        """``snapshot`` is on disk in ``folder`` for good: the journal names that instead of a copy."""
        assert self.journal is not None
        self._kept[snapshot.number] = self.journal.file.name_of(folder)

    async def _keep(self, snapshot: Snapshot) -> str | int:
        """What the journal calls a snapshot: its number if it was taken here, or a folder."""
        assert self.journal is not None
        if snapshot.number in self.journal.taken:
            return snapshot.number
        folder = snapshot.folder
        if folder is not None and folder.exists():
            return str(folder.absolute())
        kept = self._kept.get(snapshot.number)
        if kept is None:
            path = self.journal.file.folder / str(len(self._kept) + 1)
            await trio.to_thread.run_sync(snapshot.save, path)
            kept = self._kept[snapshot.number] = self.journal.file.name_of(path)
        return kept

    def note(self, event: LedgerEvent) -> None:
        """What the ledger records against a guest shows in that guest's log too."""
        guest = self.guests.get(event.guest)
        if guest is not None and event.kind in GRAVE:
            guest.log.add(event.kind, event.cause)

    def _ended(self, guest: Guest) -> None:
        self.guests.pop(guest.name, None)
        self._networks.unplug(guest.name)
        self._backends.stop(guest.name)
        self.paced.discard(guest.name)


@asynccontextmanager
async def open_host(
    *,
    cpus: int = DEFAULT_CPUS,
    mips: int = DEFAULT_MIPS,
    memory: int | str = DEFAULT_MEMORY,
    overcommit: bool = False,
    policy: str = DEFAULT_POLICY,
    quantum_us: int | None = None,
    seed: int = 0,
    paused: bool = False,
    workers: int | None = None,
    networks: Mapping[str, NetworkConfig | Mapping[str, Any]] | None = None,
    plugins: PluginManager | None = None,
    wall: WallClock | None = None,
    snapshot: HostSnapshot | None = None,
    journal: Path | str | None = None,
    journal_bytes: int = DEFAULT_LIMIT_BYTES,
    reseed: Reseed = False,
    clock: Date = "freeze",
    journal_digests: bool = True,
) -> AsyncIterator[Host]:
    """A host for the block: ``async with open_host(cpus=2, mips=1000, memory="2G") as host``.

    ``cpus`` physical CPUs of ``mips`` million steps per second of virtual time and ``memory`` bytes are
    simulated: every guest's share of them is exact, and steal time shows in Linux guests.
    ``quantum_us`` is the policy's quantum in virtual time: the longest slice, the grid on which tasks
    have their turn, and the shortest latency of a cable (by default one million steps of a CPU, at
    most 1 ms). A crowded host is faster with a longer one, since every change of guests finds cold
    caches; like ``cpus``, it is part of what guests can see.
    ``networks`` are those that guests' cards may be in, besides ``lan``, which is always there.
    ``paused`` begins with time standing still: ``run_until`` moves it. Guests that still run at the end
    of the block stop. ``workers`` threads (by default one for each core that this process may use)
    run translated guests side by side; how many there are changes nothing that a guest can see.

    With ``snapshot`` it goes on where ``Host.snapshot`` was taken: what guests can see (CPUs, memory,
    policy, seed, networks) is that host's, and cannot be given besides. ``reseed`` renews the identity of
    its guests and the luck of its cables, ``clock`` their dates: see ``Host.start``.

    ``journal`` is a new file of at most ``journal_bytes`` that takes down all that enters from outside,
    for ``asyncvmm replay``; guests that could not be repeated are refused then (ConfigError).
    Without ``journal_digests`` it has none of the guests' digests, each of which takes reading all of
    a guest's memory, for a replay to compare.
    """
    check_date(clock)
    if snapshot is None and (reseed is not False or clock != FREEZE):
        raise ConfigError("reseed and clock are for a host from a snapshot")
    dated = clock == HOST
    if dated:
        clock = time.time_ns()
    if snapshot is not None:
        given = (cpus, mips, memory, overcommit, policy, quantum_us, seed, networks)
        usual = (DEFAULT_CPUS, DEFAULT_MIPS, DEFAULT_MEMORY, False, DEFAULT_POLICY, None, 0, None)
        if given != usual:
            raise ConfigError("a host from a snapshot has the CPUs, memory, policy, seed and networks"
                              " of that: give none")  # fmt: skip
        snapshot.check_open()
        known = snapshot.saved.books.settings
        cpus, mips, memory, overcommit = (
            known.cpus,
            known.mips,
            known.memory_bytes,
            known.overcommit,
        )
        policy, networks = known.policy, snapshot.saved.configs
        seed = new_seed(reseed, known.seed, "host")
    manager = (
        plugins if plugins is not None else await trio.to_thread.run_sync(create_plugin_manager)
    )
    quantum_ns = max(1_000, min(1_000_000, STEPS_PER_STRETCH * 1000 // mips)) if mips > 0 else 0
    if quantum_us is not None:
        quantum_ns = quantum_us * US
    if snapshot is not None:
        quantum_ns = snapshot.saved.books.settings.quantum_ns
    spec = CpuSpec(cpus, mips, quantum_ns)
    ledger = Ledger()
    books = Cpus(spec, make_policy(policy, spec, manager), ledger)
    conductor = Conductor(
        books,
        HostMemory(parse_size(memory), ledger, overcommit=overcommit),
        ledger,
        Workers(workers, find_spin),
        wall if wall is not None else TrioWallClock(),
        realtime=lambda: bool(host.paced),
    )
    between = Networks(networks or {}, seed, conductor, manager)
    conductor.exchange = between
    backends = Backends(conductor, between.entrance)
    host = Host(manager, conductor, seed, between, backends, policy)
    if journal is not None:
        settings: dict[str, Any] = {
            "cpus": cpus,
            "mips": mips,
            "memory": parse_size(memory),
            "overcommit": overcommit,
            "policy": policy,
            "quantum_us": quantum_us,
            "seed": seed,
            "networks": {name: one.to_mapping() for name, one in between.configs.items()},
        }
        file = JournalFile(journal, journal_bytes)
        if snapshot is not None:
            folder = file.folder / "host"
            await trio.to_thread.run_sync(snapshot.save, folder)
            settings |= {"snapshot": file.name_of(folder), "reseed": reseed, "clock": clock}
        host.journal = Journal(
            file,
            lambda: (conductor.now_ns, conductor.turns),
            lambda: host.guests,
            settings,
            digests=journal_digests,
        )
        conductor.inputs = host.journal
    ledger.listener = host.note
    conductor.watchdog.start()
    wrong: Exception | None = None
    async with trio.open_nursery() as nursery:
        between.open(nursery)
        backends.open(nursery)
        host._nursery = nursery
        try:
            if snapshot is not None:
                host._take_up(snapshot, reseed, clock)
                between.entrance.live |= dated
            if paused:
                conductor.set_goal(conductor.now_ns)
            nursery.start_soon(conductor.task)
            yield host
        except Exception as error:  # carried past the nursery, which would wrap it in a group
            wrong = error
        finally:
            if host.journal is not None:
                for guest in host.guests.values():
                    guest.leave_gdb()
                with trio.CancelScope(shield=True):
                    await conductor.turn()
                if conductor.in_stretch:
                    host.journal.lost("the host was ended in the middle of a quantum")
                host.journal.finish()
            host.close()
            between.close()
            conductor.watchdog.close()
            conductor.workers.close()
            nursery.cancel_scope.cancel()
    if wrong is not None:
        raise wrong


def _renewed(config: GuestConfig, reseed: Reseed | Identity, clock: Date) -> dict[str, Any]:
    """What the journal is told of a guest from a snapshot that is not what that was."""
    found: dict[str, Any] = {}
    if reseed is not False:
        found["identity"] = {key: getattr(config, key) for key in IDENTITY}
    if clock != FREEZE:
        found["date"] = clock
    return found


def _plain(value: Any) -> Any:
    """A knob's value as JSON has it."""
    return sorted(value) if isinstance(value, (set, frozenset)) else value
