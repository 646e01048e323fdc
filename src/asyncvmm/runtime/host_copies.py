"""A whole host as a value, and a new host that becomes one: see ``Host.snapshot`` and ``open_host``.

Both are done between two stretches, by parts that each know how they are saved; here is the order, and
that a host which cannot become what a snapshot says leaves nothing open.
"""

from __future__ import annotations

from typing import Any

from asyncvmm.base.units import PAGE_SIZE
from asyncvmm.machine.renewal import Reseed, new_seed, reseeded
from asyncvmm.runtime.guest import Guest
from asyncvmm.runtime.host_parts import HostParts
from asyncvmm.runtime.host_saved import HostBooks, HostSettings, ResidentState, SavedHost
from asyncvmm.runtime.host_snapshots import HostSnapshot, check_books
from asyncvmm.runtime.snapshots import Snapshot


def save_host(parts: HostParts) -> HostSnapshot:
    """All guests and all that is between them, as tasks have their turn. ConfigError for a policy that
    keeps no state.
    """
    conductor, networks = parts.conductor, parts.networks
    guests = list(parts.population.by_name.values())
    spec = conductor.cpus.spec
    books = HostBooks(
        HostSettings(
            spec.cpus,
            spec.mips,
            spec.quantum_ns,
            conductor.memory.capacity_pages * PAGE_SIZE,
            conductor.memory.overcommit,
            parts.options.policy,
            parts.options.seed,
            networks.entrance.live,
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
    between = networks.save()
    taken = tuple(guest.taken().saved for guest in guests)
    return HostSnapshot(SavedHost(books, networks.configs, between, taken))


def take_up(parts: HostParts, snapshot: HostSnapshot, reseed: Reseed, date: int | None) -> None:
    """Let a new host become what ``snapshot`` says, before its time has begun; its backends may run.

    ``date`` is that of all guests (see ``Machines.date``). ConfigError when the snapshot contradicts
    itself.
    """
    snapshot.check_open()
    conductor, networks, population = parts.conductor, parts.networks, parts.population
    saved = snapshot.saved
    check_books(saved.books)
    since = {place.guest: place.since_ns for place in saved.books.conductor.places}
    made: dict[str, Guest] = {}
    try:
        for resident, one in zip(saved.books.guests, saved.guests, strict=True):
            config = one.config
            if reseed is not False:
                seed = new_seed(True, parts.options.seed, resident.name)
                config = reseeded(config, seed, resident.name)
            made[resident.name] = population.bring_back(
                resident, Snapshot(one), config, since[resident.name], date
            )
        conductor.memory.restore(saved.books.memory)
        conductor.ledger.restore(saved.books.ledger)
        vcpus = conductor.cpus.restore(saved.books.cpus)
        networks.load(saved.networks, {name: guest.machine for name, guest in made.items()})
        conductor.restore(saved.books.conductor, made, vcpus)
    except BaseException:
        for guest in made.values():
            guest.machine.close()
        raise
    if saved.books.settings.live:
        networks.entrance.live = True
    for guest in made.values():
        population.welcome(guest)
    networks.cut_off(conductor.now_ns)


def _plain(value: Any) -> Any:
    """A knob's value as JSON has it."""
    return sorted(value) if isinstance(value, (set, frozenset)) else value
