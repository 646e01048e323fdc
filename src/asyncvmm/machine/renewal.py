"""A copy of a guest that is to be told from the original: other randomness, other addresses, a date.

Without any of this a copy is its original to the bit, which is what an exact replay wants. The seed is
what identity comes from: random streams, the addresses of cards, ``machine_id``. Devices that have
something to tell their guest have a method ``renew()`` or ``set_date(unix_ns)``. One with the latter
may have ``offset_ns``, its date minus virtual time (mod 2**64), and call ``on_date_set()``, which is
somebody else's function, when its guest has set the date.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, Final, Literal

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.machine.config import GuestConfig
from asyncvmm.machine.machine import Machine

FREEZE: Final = "freeze"  # the guest's date goes on where it was
HOST: Final = "host"  # it becomes that of the machine on which it runs
SEED_BITS: Final = 62
MAX_DATE_NS: Final = 1 << 62


@attrs.frozen
class Identity:
    """Who a guest is: the fields of GuestConfig that say so."""

    seed: int
    mac_seed: int | None = None
    machine_id: str | None = None
    uuid: str | None = None


IDENTITY: Final = tuple(field.name for field in attrs.fields(Identity))
Reseed = bool | int
Date = Literal["freeze", "host"] | int


def reseeded(config: GuestConfig, reseed: Reseed | Identity, name: str) -> GuestConfig:
    """The configuration of a copy called ``name``: with another identity, unless ``reseed`` is False."""
    if reseed is False:
        return config
    if not isinstance(reseed, Identity):
        reseed = Identity(new_seed(reseed, config.seed, name))
    return attrs.evolve(config, **attrs.asdict(reseed))


def new_seed(reseed: Reseed, old: int, name: str) -> int:
    """The seed of a copy called ``name``: of another one for each name with True, the same with
    False, or ``reseed`` itself.
    """
    if reseed is False:
        return old
    if reseed is not True:
        if not 0 <= reseed < 1 << SEED_BITS:
            raise ConfigError(f"reseed: a seed is 0 to 2**{SEED_BITS} - 1, not {reseed}")
        return reseed
    digest = hashlib.sha256(f"asyncvmm reseed\0{old}\0{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> (64 - SEED_BITS)


def machine_id(config: GuestConfig, name: str) -> str:
    """What ``/etc/machine-id`` may hold in a guest of this name: 32 hexadecimal digits."""
    if config.machine_id is not None:
        return config.machine_id
    seed = config.seed
    return hashlib.sha256(f"asyncvmm machine-id\0{seed}\0{name}".encode()).hexdigest()[:32]


def check_date(date: object) -> None:
    """ConfigError unless it is a Date."""
    whole = type(date) is int and 0 <= date < MAX_DATE_NS
    if date not in (FREEZE, HOST) and not whole:
        raise ConfigError(f"clock: freeze, host or Unix time in ns, not {date!r}")


def renew(machine: Machine) -> None:
    """Tell the devices of a machine, restored with another seed, that it is a copy."""
    for device in machine.devices:
        _tell(device, "renew")


def set_date(machine: Machine, unix_ns: int) -> None:
    """Set the clocks that show a date; a running system looks at them when it wants to."""
    for device in machine.devices:
        _tell(device, "set_date", unix_ns)


def date_offset(machine: Machine) -> int | None:
    """The date in a machine minus its virtual time, in ns (Unix time); None when it has no clock."""
    for device in _clocks(machine):
        offset = int(device.offset_ns)
        return offset - (1 << 64) if offset >> 63 else offset
    return None


def watch_date(machine: Machine, listener: Callable[[], None]) -> None:
    """Call ``listener``, in whatever thread the guest runs, when the guest has set its date."""
    for device in _clocks(machine):
        device.on_date_set = listener


def _clocks(machine: Machine) -> Iterator[Any]:
    for device in machine.devices:
        if hasattr(device.device, "offset_ns") and not device.io.guard.broken:
            yield device.device


def _tell(device: Any, what: str, *arguments: int) -> None:
    call = getattr(device.device, what, None)
    if call is not None and not device.io.guard.broken:
        device.io.guard.run(lambda: call(*arguments))
