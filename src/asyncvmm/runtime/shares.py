"""A guest's part of its host: live changes of its knobs, and what it got."""

from __future__ import annotations

import functools
from contextlib import suppress
from typing import Any, Final, cast

import attrs

from asyncvmm.base.errors import ConfigError
from asyncvmm.hypervisor import (
    CpuKnobs,
    CpuUsage,
    DiskRates,
    DiskUsage,
    IoKnobs,
    MemoryKnobs,
    MemoryUsage,
    Recorder,
)
from asyncvmm.machine import Machine
from asyncvmm.machine.containment import FailureMode
from asyncvmm.runtime.conductor import Conductor
from asyncvmm.runtime.journal_file import POLICY

PREFIXES: Final = ("cpu", "cpuset", "memory", "io", "net")
FAILURE_KNOB: Final = "device.failure"


@attrs.frozen
class GuestUsage:
    """``cpu`` as cpu.stat has it, ``memory`` in bytes, ``disks`` and network ``cards`` as far as
    ``io.max`` and ``net.max`` held them up."""

    cpu: CpuUsage
    memory: MemoryUsage
    disks: tuple[DiskUsage, ...] = ()
    cards: tuple[DiskUsage, ...] = ()


@attrs.frozen
class Knobs:
    """All knobs of one guest. ``device_failure``: what a bug of a device's code brings down."""

    cpu: CpuKnobs
    memory: MemoryKnobs
    io: IoKnobs
    net: IoKnobs
    device_failure: FailureMode


def knob_name(key: str) -> str:
    """The name with dots: ``cpu_weight`` is ``cpu.weight``, ``io_max_0`` is ``io.max.0``."""
    if "." in key:
        return key
    return key.replace("_", ".") if key.startswith(("io_", "net_")) else key.replace("_", ".", 1)


def split_knobs(knobs: dict[str, Any]) -> Knobs:
    """The knobs of a flat mapping such as ``{"cpu.weight": 200, "memory.max": "64M"}``.

    ConfigError names an unknown knob.
    """
    cpu: dict[str, Any] = {}
    memory: dict[str, Any] = {}
    io: dict[str, Any] = {}
    net: dict[str, Any] = {}
    failure: Any = "device"
    for key, value in knobs.items():
        name = knob_name(key)
        family = name.partition(".")[0]
        if family == "memory":
            memory[name] = value
        elif family == "io":
            io[name] = value
        elif family == "net":
            net[name] = value
        elif name == FAILURE_KNOB:
            failure = value
        elif family == "cpu":
            cpu[name] = value
        elif family == "cpuset":
            cpu["cpuset.cpus"] = value
        else:
            raise ConfigError(
                f"no knob {key!r}: there is {FAILURE_KNOB}, others begin with {', '.join(PREFIXES)}"
            )
    if failure not in ("device", "guest"):
        raise ConfigError(f"{FAILURE_KNOB} is device or guest, not {failure!r}")
    return Knobs(
        CpuKnobs.from_mapping(cpu),
        MemoryKnobs.from_mapping(memory),
        IoKnobs.from_mapping(io),
        IoKnobs.from_mapping(net, "net"),
        cast(FailureMode, failure),
    )


def limit_disks(machine: Machine, knobs: Knobs, record: Recorder, since_ns: int) -> DiskRates:
    """Put ``io.max`` before the disks of a machine; ConfigError when it names one too many."""
    disks = [
        device
        for device in machine.devices
        if device.type.blob(device.config) is not None and not device.type.window
    ]
    rates = DiskRates(machine.name, [disk.io.path for disk in disks], record, since_ns)
    rates.change(0, knobs.io)
    for disk, rate in zip(disks, rates.disks, strict=True):
        disk.io.rate = rate
    return rates


def limit_cards(machine: Machine, knobs: Knobs, record: Recorder, since_ns: int) -> DiskRates:
    """Put ``net.max`` before the network cards; ConfigError when it names one too many.

    Reading is receiving. What would wait longer than 200 ms is dropped.
    """
    cards = [device for device in machine.devices if device.type.net(device.config) is not None]
    names = [card.io.path for card in cards]
    rates = DiskRates(machine.name, names, record, since_ns, "net")
    rates.change(0, knobs.net)
    for card, rate in zip(cards, rates.disks, strict=True):
        card.io.net.rate = rate
    return rates


@attrs.frozen
class Rates:
    """What limits a guest's disks and network cards."""

    disks: DiskRates
    cards: DiskRates


class GuestPolicy:
    """The knobs of one guest, by the names of cgroup v2."""

    def __init__(self, machine: Machine, conductor: Conductor, rates: Rates) -> None:
        self._name = machine.name
        self._machine = machine
        self._conductor = conductor
        self._rates = rates
        self._knobs: dict[str, Any] = {}
        self._last: GuestUsage | None = None

    def remember(self, knobs: dict[str, Any]) -> None:
        """What the guest was admitted with."""
        self._knobs = {knob_name(key): value for key, value in knobs.items()}

    @property
    def knobs(self) -> dict[str, Any]:
        """What was said of the guest's knobs so far, by name."""
        return dict(self._knobs)

    def freeze(self) -> None:
        """The guest is about to leave its host."""
        self._last = self.usage()

    def update(self, **knobs: Any) -> None:
        """Change knobs of the running guest, such as ``update(cpu_weight=200, cpu_max="50000 100000")``.

        AdmissionError or ConfigError leave everything as it was. In the middle of a quantum, where only
        what waits for the wall clock comes, the change waits for its end; what the host cannot admit is
        then in its ledger.
        """
        if self._conductor.between:
            self._update(knobs)
            return
        split_knobs({**self._knobs, **{knob_name(k): v for k, v in knobs.items()}})
        self._conductor.later(functools.partial(self._update_later, knobs))

    def _update_later(self, knobs: dict[str, Any]) -> None:
        if self._last is None:
            with suppress(ConfigError):
                self._update(knobs)

    def _update(self, knobs: dict[str, Any]) -> None:
        wanted = {**self._knobs, **{knob_name(k): v for k, v in knobs.items()}}
        new, old = split_knobs(wanted), split_knobs(self._knobs)
        conductor = self._conductor
        conductor.kick()
        self._rates.disks.check(new.io)
        self._rates.cards.check(new.net)
        if new.memory != old.memory:
            conductor.memory.update(self._name, new.memory, conductor.now_ns)
        try:
            conductor.cpus.update(self._name, new.cpu, conductor.now_ns)
        except ConfigError:
            if new.memory != old.memory:
                conductor.memory.update(self._name, old.memory, conductor.now_ns)
            raise
        guest_ns = int(self._machine.scheduler.now_ns())
        self._rates.disks.change(guest_ns, new.io)
        self._rates.cards.change(guest_ns, new.net)
        self._machine.containment.mode = new.device_failure
        self._knobs = wanted
        conductor.inputs.note(POLICY, guest=self._name, knobs=knobs)
        conductor.kick()

    def usage(self) -> GuestUsage:
        """What the guest got so far; all it ever got (but for its last stretch) once it is gone."""
        if self._last is not None:
            return self._last
        conductor = self._conductor
        return GuestUsage(
            conductor.cpus.usage(self._name, conductor.now_ns),
            conductor.memory.usage(self._name),
            self._rates.disks.usage(),
            self._rates.cards.usage(),
        )
