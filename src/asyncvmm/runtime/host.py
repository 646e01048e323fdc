"""The host: one virtual clock, a policy, and the guests that share its simulated CPUs and memory.

``Host`` is what a program holds: each of its methods asks the part whose matter it is (``host_parts``).
``open_host`` puts the parts together, lets them run for its block, and ends them in order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio

from asyncvmm.base.errors import ConfigError
from asyncvmm.hypervisor import DEFAULT_POLICY, LedgerEvent
from asyncvmm.machine import GuestConfig, Machine
from asyncvmm.machine.devices import OpenBlob
from asyncvmm.machine.renewal import FREEZE, Date, Identity, Reseed, check_date, new_seed
from asyncvmm.network import Network, NetworkConfig
from asyncvmm.network.gateway import Gateway
from asyncvmm.plugin import PluginManager, create_plugin_manager
from asyncvmm.plugin.options import nearest
from asyncvmm.runtime.blobs import open_file_blob
from asyncvmm.runtime.connections import GuestStream
from asyncvmm.runtime.edge import Forward
from asyncvmm.runtime.guest import Guest
from asyncvmm.runtime.host_copies import save_host, take_up
from asyncvmm.runtime.host_parts import (
    DEFAULT_CPUS,
    DEFAULT_MEMORY,
    DEFAULT_MIPS,
    HostOptions,
    HostParts,
    put_together,
)
from asyncvmm.runtime.host_snapshots import HostSnapshot
from asyncvmm.runtime.inputs import Script
from asyncvmm.runtime.journal import Journal
from asyncvmm.runtime.journal_file import DEFAULT_LIMIT_BYTES, SHAPE
from asyncvmm.runtime.networks import Requested
from asyncvmm.runtime.recording import Recording
from asyncvmm.runtime.snapshots import Snapshot
from asyncvmm.runtime.wall import TrioWallClock, WallClock
from asyncvmm.timeline.events import FOREVER

__all__ = ["DEFAULT_CPUS", "DEFAULT_MEMORY", "DEFAULT_MIPS", "Host", "open_host"]


class Host:
    """Runs guests side by side. Made by ``open_host``; ends them all when its block ends."""

    def __init__(self, parts: HostParts, nursery: trio.Nursery) -> None:
        self.plugins: Final = parts.plugins
        self.seed: Final = parts.options.seed
        self._parts = parts
        self._conductor = parts.conductor
        self._networks = parts.networks
        self._population = parts.population
        self._nursery = nursery
        self._closing = trio.Event()
        self._forks = 0

    @property
    def guests(self) -> dict[str, Guest]:
        """Those that run, by name."""
        return self._population.by_name

    @property
    def paced(self) -> set[str]:
        """The names of those that keep step with the wall."""
        return self._population.paced

    @property
    def journal(self) -> Journal | None:
        """What takes down all that enters, where the host is recorded."""
        recording = self._population.recording
        return None if recording is None else recording.journal

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
        return await self._population.start(
            source,
            name=name,
            max_instructions=max_instructions,
            apart=apart,
            check=check,
            open_blob=open_blob,
            reseed=reseed,
            clock=clock,
        )

    async def snapshot(self) -> HostSnapshot:
        """All guests and all that is between them at this instant, as a value: ``open_host`` goes on
        from it (``open_host(snapshot=...)``), as often as wanted, to the same digests.

        Memory and disks are shared until written. What only this process can have stays here: streams
        of ``connect`` and forwarded ports end in the copy with RST (see ``Gateway.cut_off``), commands
        of ``Guest.run`` are killed there, captures do not go on. ConfigError for a policy that keeps
        no state.
        """
        await self._conductor.turn()
        self._conductor.kick()
        return save_host(self._parts)

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
        self._parts.backends.close_door()

    def pause(self) -> None:
        """Let time stand still from now on, once tasks have their turn."""
        self._conductor.set_goal(self._conductor.now_ns)

    def resume(self) -> None:
        """Let a paused host run on for good."""
        self._conductor.set_goal(FOREVER)

    def close(self) -> None:
        """End every guest where it is."""
        self._population.close()


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
    options = HostOptions(cpus, mips, memory, overcommit, policy, quantum_us, seed, networks)
    if snapshot is not None:
        options = options.from_snapshot(snapshot, reseed)
    manager = (
        plugins if plugins is not None else await trio.to_thread.run_sync(create_plugin_manager)
    )
    parts = put_together(options, manager, workers, wall if wall is not None else TrioWallClock())
    conductor, population = parts.conductor, parts.population
    date = parts.machines.date(clock)
    if journal is not None:
        settings = options.journaled(parts.networks.configs)
        if snapshot is not None:
            settings |= {"reseed": reseed, "clock": FREEZE if date is None else date}
        population.recording = await Recording.begin(
            journal,
            journal_bytes,
            conductor,
            population.by_name,
            settings,
            snapshot,
            digests=journal_digests,
        )
    conductor.watchdog.start()
    wrong: Exception | None = None
    async with trio.open_nursery() as nursery:
        parts.networks.open(nursery)
        parts.backends.open(nursery)
        try:
            if snapshot is not None:
                take_up(parts, snapshot, reseed, date)
            if paused:
                conductor.set_goal(conductor.now_ns)
            nursery.start_soon(conductor.task)
            yield Host(parts, nursery)
        except Exception as error:  # carried past the nursery, which would wrap it in a group
            wrong = error
        finally:
            if population.recording is not None:
                await population.recording.end(conductor)
            population.close()
            parts.networks.close()
            conductor.watchdog.close()
            conductor.workers.close()
            nursery.cancel_scope.cancel()
    if wrong is not None:
        raise wrong
