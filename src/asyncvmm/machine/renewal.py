"""A copy of a guest that is to be told from the original: other randomness, other addresses, a date.

Without any of this a copy is its original to the bit, which is what an exact replay wants. The seed is
what identity comes from: random streams, the addresses of cards, ``machine_id``. Devices that have
something to tell their guest have a method ``renew()`` or ``set_date(unix_ns)``.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final, Literal

from asyncvmm.base.errors import ConfigError
from asyncvmm.machine.machine import Machine

FREEZE: Final = "freeze"  # the guest's date goes on where it was
HOST: Final = "host"  # it becomes that of the machine on which it runs
SEED_BITS: Final = 62
MAX_DATE_NS: Final = 1 << 62

Reseed = bool | int
Date = Literal["freeze", "host"] | int


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


def machine_id(seed: int, name: str) -> str:
    """What ``/etc/machine-id`` may hold in a guest of this seed and name: 32 hexadecimal digits."""
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


def _tell(device: Any, what: str, *arguments: int) -> None:
    call = getattr(device.device, what, None)
    if call is not None and not device.io.guard.broken:
        device.io.guard.run(lambda: call(*arguments))
