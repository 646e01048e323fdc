"""The guests of a host: how they come, become what they were, and go.

A guest comes in three ways, and each makes the same things in the same order: a machine, its limits,
a ``Guest`` around both. A new one (``start``) is admitted to the books and plugged into the networks. One
of a host's snapshot (``bring_back``) is in the saved books and networks already. One that goes back in
time (``put_back``) leaves the books and comes again; its ``Guest`` and its cables stay.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import attrs
import trio

from asyncvmm.base.errors import ConfigError
from asyncvmm.hypervisor import LedgerEvent, Vcpu
from asyncvmm.hypervisor.ledger import GRAVE
from asyncvmm.machine import GuestConfig, Machine
from asyncvmm.machine.devices import OpenBlob
from asyncvmm.machine.renewal import FREEZE, IDENTITY, Date, Identity, Reseed, check_date, reseeded
from asyncvmm.runtime.backends import Backends
from asyncvmm.runtime.blobs import open_file_blob
from asyncvmm.runtime.conductor import Conductor
from asyncvmm.runtime.debugger import Debugging
from asyncvmm.runtime.fingerprints import config_values
from asyncvmm.runtime.guest import Guest, GuestExit, GuestLog
from asyncvmm.runtime.host_saved import ResidentState
from asyncvmm.runtime.journal_file import START
from asyncvmm.runtime.machines import Machines
from asyncvmm.runtime.networks import Networks
from asyncvmm.runtime.outbox import Outbox
from asyncvmm.runtime.recording import Recording
from asyncvmm.runtime.shares import Knobs, Rates, limit_cards, limit_disks, split_knobs
from asyncvmm.runtime.snapshots import Snapshot

MAX_FORKS: Final = 10_000


class Population:
    """All guests of one host by name; ``paced`` are those that keep step with the wall.

    ``seed`` is the host's, ``recording`` that of a host with a journal, from before its first guest on.
    """

    def __init__(
        self,
        conductor: Conductor,
        networks: Networks,
        backends: Backends,
        machines: Machines,
        seed: int,
    ) -> None:
        self.by_name: Final[dict[str, Guest]] = {}
        self.paced: Final[set[str]] = set()
        self.recording: Recording | None = None
        self._conductor = conductor
        self._networks = networks
        self._backends = backends
        self._machines = machines
        self._seed = seed

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
        clock: Date = FREEZE,
    ) -> Guest:
        """See Host.start."""
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
        date = self._machines.date(clock)
        log, outbox = GuestLog(), Outbox()
        machine: Machine | None = None
        prints: dict[str, Any] = {}
        merger = conductor.sharing.enter(config.trust_group)
        try:
            if snapshot is not None:
                machine = self._machines.revive(snapshot, config, name, log.add, merger, date)
                if check is not None:
                    await trio.to_thread.run_sync(check, machine)
                if self.recording is not None:
                    prints = await self._prints(self.recording, machine, snapshot)
                    prints |= _renewed(config, reseed, date)
                await conductor.turn()
            else:
                with conductor.held():
                    build = functools.partial(
                        self._machines.build, config, name, log.add, merger, open_blob
                    )
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
            if machine is not None:
                machine.close()
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
        self.by_name[name] = guest
        since_ns = conductor.now_ns - guest.now_ns
        self._networks.plug(machine, since_ns, apart=apart)
        self._keep_step(guest)
        conductor.add(guest, vcpus, since_ns)
        self._backends.start(guest)
        return guest

    async def fork(self, guest: Guest, count: int, reseed: Reseed, clock: Date) -> list[Guest]:
        """See Guest.fork."""
        if not 1 <= count <= MAX_FORKS:
            raise ConfigError(f"1 to {MAX_FORKS} forks, not {count}")
        made: list[Guest] = []
        number = 0
        with await guest.snapshot() as snapshot:
            while len(made) < count:
                number += 1
                name = f"{guest.name}.{number}"
                if name not in self.by_name:
                    fork = await self.start(
                        snapshot, name=name, apart=True, reseed=reseed, clock=clock
                    )
                    made.append(fork)
        return made

    # -- guests of a host's snapshot

    def bring_back(
        self,
        resident: ResidentState,
        snapshot: Snapshot,
        config: GuestConfig,
        since_ns: int,
        date: int | None,
    ) -> Guest:
        """A guest of a host's snapshot, which the books know already. It is not among the others before
        ``welcome``: until then it can still come to nothing, by closing its machine.
        """
        conductor = self._conductor
        knobs = dict(resident.knobs)
        split = split_knobs(knobs)
        log, outbox = GuestLog(), Outbox()
        merger = conductor.sharing.enter(config.trust_group)
        machine = self._machines.revive(snapshot, config, resident.name, log.add, merger, date)
        rates = self._rates(machine, split, outbox, since_ns)
        conductor.sharing.join(machine)
        limit = None if resident.max_steps < 0 else resident.max_steps
        guest = self._guest(machine, rates, log, outbox, limit)
        guest.policy.remember(knobs)
        guest.go_on_from(snapshot.saved.host_side)
        return guest

    def welcome(self, guest: Guest) -> None:
        """A guest of ``bring_back`` runs from now on."""
        self.by_name[guest.name] = guest
        self._keep_step(guest)
        self._backends.start(guest)

    # -- guests that go back

    def put_back(self, name: str, snapshot: Snapshot) -> None:
        """A guest becomes what the snapshot says, and lives on from there; its cables stay plugged in.

        It leaves the books and comes again. The host's clock goes on: the guest waits, for less than
        a quantum, until it has the place on the host's grid that it had, since harts that run side by
        side can tell.
        """
        guest, conductor = self.by_name[name], self._conductor
        config, knobs = snapshot.config, guest.policy.knobs
        merger = conductor.sharing.enter(config.trust_group)
        try:
            machine = self._machines.revive(snapshot, config, name, guest.log.add, merger)
        except BaseException:
            conductor.sharing.abandon(config.trust_group, None)
            raise
        now_ns = conductor.now_ns
        since_ns = now_ns - int(machine.timeline.now_ns)
        since_ns += (conductor.since_ns(name) - since_ns) % conductor.cpus.spec.quantum_ns
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
        return self._machines.revive(
            snapshot, snapshot.config, machine.name, GuestLog().add, machine.merger
        )

    # -- what becomes of them

    def note(self, event: LedgerEvent) -> None:
        """What the ledger records against a guest shows in that guest's log too."""
        guest = self.by_name.get(event.guest)
        if guest is not None and event.kind in GRAVE:
            guest.log.add(event.kind, event.cause)

    def close(self) -> None:
        """End every guest where it is."""
        for guest in list(self.by_name.values()):
            guest.finish(GuestExit("closed"))

    def _ended(self, guest: Guest) -> None:
        self.by_name.pop(guest.name, None)
        self._networks.unplug(guest.name)
        self._backends.stop(guest.name)
        self.paced.discard(guest.name)

    # -- how they are made

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
        if self._seed and not config.seed:
            config = attrs.evolve(config, seed=self._seed)
        return config

    def _check_name(self, name: str) -> None:
        if name in self.by_name:
            raise ConfigError(f"a guest named {name!r} runs already: give this one a name")

    async def _prints(
        self, recording: Recording, machine: Machine, snapshot: Snapshot
    ) -> dict[str, Any]:
        """What the journal is told of a machine that goes on from ``snapshot``."""
        look = functools.partial(recording.journal.fingerprint, machine, disks=False)
        with self._conductor.held():
            prints = await trio.to_thread.run_sync(look)
            prints["snapshot"] = await recording.name_of(snapshot)
        return prints

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
            Debugging(self._backends.nursery, self._revive_past, self.put_back),
            self.fork,
        )

    def _keep_step(self, guest: Guest) -> None:
        if guest.config.clock == "realtime":
            self.paced.add(guest.name)


def _renewed(config: GuestConfig, reseed: Reseed | Identity, date: int | None) -> dict[str, Any]:
    """What the journal is told of a guest from a snapshot that is not what that was."""
    found: dict[str, Any] = {}
    if reseed is not False:
        found["identity"] = {key: getattr(config, key) for key in IDENTITY}
    if date is not None:
        found["date"] = date
    return found
