"""A machine as a value: everything that a guest is at one instant, and a machine made from it.

``MachineState.values`` is plain data (JSON-ready, integers and text); ``pages`` is its RAM. Saved values
are untrusted: ``restore`` checks what could harm anything but the guest itself, and works on a new
machine only, so that a refusal leaves nothing half done. Host-side statistics are not part of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs

from asyncvmm.arch.code import DecodedPages
from asyncvmm.arch.tlb_words import restore_tlb, tlb_words
from asyncvmm.base.errors import ConfigError
from asyncvmm.base.texts import shortened, shown
from asyncvmm.machine.machine import Machine
from asyncvmm.machine.registers import hart_values, restore_hart
from asyncvmm.memory.pages import PageTable

VERSION: Final = 2
PARTS: Final = frozenset(
    ("version", "now_ns", "highest_ns", "harts", "tlbs", "scheduler", "aclint", "plic", "sbi",
     "htif", "devices")
)  # fmt: skip
MAX_TIME_NS: Final = 1 << 62
WORD_BITS: Final = 64


class SnapshotError(ConfigError):
    """A saved state is damaged, of another version, or of another kind of machine."""


@attrs.frozen(eq=False)
class MachineState:
    """What ``save`` took: ``values`` as plain data, ``pages`` as a table that is shared until written."""

    values: Mapping[str, Any]
    pages: PageTable
    decoded: DecodedPages = attrs.field(factory=DecodedPages)  # of ``pages``, by whoever has them


def save(machine: Machine) -> MachineState:
    """The state of ``machine`` between two runs. RAM is shared with it from now on, not copied."""
    values = save_values(machine)
    if machine.merger is not None:  # its pages are shared without being frozen
        return MachineState(values, machine.ram.freeze())
    decoded = machine.code.share(machine.ram)
    return MachineState(values, machine.ram.freeze(), decoded)


def save_values(machine: Machine) -> dict[str, Any]:
    """All of the state but RAM."""
    return {
        "version": VERSION,
        "now_ns": int(machine.timeline.now_ns),
        "highest_ns": int(machine.clock.highest_ns),
        "harts": [hart_values(hart) for hart in machine.harts],
        "tlbs": [tlb_words(hart.tlb) for hart in machine.harts],
        "scheduler": machine.scheduler.state(),
        "aclint": machine.aclint.state(),
        "plic": machine.plic.state(),
        "sbi": [] if machine.sbi is None else machine.sbi.state(),
        "htif": [] if machine.htif is None else machine.htif.state(),
        "devices": {device.io.path: _save_device(device) for device in machine.devices},
    }


def _save_device(device: Any) -> dict[str, Any]:
    io = device.io
    ports = {"": io.console, **io.ports}
    net = io.net.save() if device.type.net(device.config) is not None else None
    return {
        "net": net,
        "type": device.type.name,
        "state": None if io.guard.broken else device.target.save(),
        "rng": io.rng.position,
        "ports": {name: port.save() for name, port in ports.items()},
    }


def restore(machine: Machine, state: MachineState) -> None:
    """Make a machine that was never ``powered`` what ``state`` says; SnapshotError when it cannot be.

    After an error the machine is not to be used.
    """
    values = _checked(machine, state.values)
    machine.ram.thaw(state.pages)
    if machine.merger is None:
        machine.code.adopt(state.decoded)
    machine.timeline.now_ns = values["now_ns"]
    machine.clock.highest_ns = values["highest_ns"]
    try:
        _restore_devices(machine, values["devices"])
        machine.aclint.restore(values["aclint"])
        machine.plic.restore(values["plic"])
        if machine.sbi is not None:
            machine.sbi.restore(values["sbi"])
        if values["htif"]:
            if len(values["htif"]) < 2:
                raise SnapshotError(f"guest {machine.config.name}: saved HTIF has no words")
            machine.watch_htif(values["htif"][0], values["htif"][1])
            assert machine.htif is not None
            machine.htif.restore(values["htif"])
        for hart, saved in zip(machine.harts, values["harts"], strict=True):
            restore_hart(hart, saved)
        for hart, saved in zip(machine.harts, values["tlbs"], strict=False):
            if not restore_tlb(hart.tlb, saved):
                raise SnapshotError(f"guest {machine.config.name}: no TLB is like a saved one")
        machine.scheduler.restore(values["scheduler"])
    except SnapshotError:
        raise
    except ConfigError as error:
        raise SnapshotError(f"guest {machine.config.name}: {shortened(str(error))}") from error
    for device in machine.devices:
        device.io.guard.run(device.target.resume)
    machine.clock.highest_ns = values["highest_ns"]  # what was read in here, no guest has read


def _checked(machine: Machine, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, when their shape fits the machine."""
    name = machine.config.name
    if not isinstance(values, Mapping) or values.get("version") not in (1, VERSION):
        raise SnapshotError(f"guest {name}: saved by an unknown version (this is {VERSION})")
    if values["version"] == 1:  # it left out the TLBs, so that its guests go on with empty ones
        values = {"tlbs": [], **values}
    if set(values) != PARTS:
        wrong = ", ".join(sorted(str(key) for key in set(values) ^ PARTS))
        raise SnapshotError(f"guest {name}: saved parts differ: {shortened(wrong)}")
    checked = dict(values)
    for key in ("now_ns", "highest_ns"):
        if type(values[key]) is not int or not 0 <= values[key] < MAX_TIME_NS:
            raise SnapshotError(f"guest {name}: {key} is {shown(values[key])}")
    for key in ("scheduler", "aclint", "plic", "sbi", "htif"):
        checked[key] = words(values[key], f"guest {name}: {key}")
    if bool(checked["sbi"]) != (machine.sbi is not None):
        raise SnapshotError(f"guest {name}: saved with another kind of firmware")
    harts = values["harts"]
    if not isinstance(harts, list) or len(harts) != len(machine.harts):
        raise SnapshotError(f"guest {name}: {len(machine.harts)} harts were expected")
    checked["harts"] = [words(saved, f"guest {name}: hart {n}") for n, saved in enumerate(harts)]
    tlbs = values["tlbs"]
    if not isinstance(tlbs, list) or len(tlbs) not in (0, len(harts)):
        raise SnapshotError(f"guest {name}: {len(machine.harts)} TLBs were expected")
    checked["tlbs"] = [words(saved, f"guest {name}: TLB {n}") for n, saved in enumerate(tlbs)]
    devices = values["devices"]
    paths = [device.io.path for device in machine.devices]
    if not isinstance(devices, dict) or sorted(devices) != sorted(paths):
        raise SnapshotError(f"guest {name}: the saved devices are not {', '.join(paths)}")
    return checked


def words(value: object, what: str) -> list[int]:
    """A list of signed 64-bit integers, or SnapshotError."""
    if not isinstance(value, list):
        raise SnapshotError(f"{what} is not a list of numbers")
    half = 1 << (WORD_BITS - 1)
    for number in value:
        if type(number) is not int or not -half <= number < half:
            raise SnapshotError(f"{what} holds {shown(number)}")
    return value


def _restore_devices(machine: Machine, saved: Mapping[str, Any]) -> None:
    for device in machine.devices:
        io = device.io
        mine = saved[io.path]
        if not isinstance(mine, dict) or set(mine) != {"type", "state", "rng", "ports", "net"}:
            raise SnapshotError(f"{io.path}: the saved device has other parts")
        if mine["type"] != device.type.name:
            raise SnapshotError(
                f"{io.path}: saved as {shown(mine['type'])}, not {device.type.name}"
            )
        if type(mine["rng"]) is not int or not 0 <= mine["rng"] < 1 << 63:
            raise SnapshotError(f"{io.path}: the saved position of its randomness is wrong")
        ports = {"": io.console, **io.ports}
        if not isinstance(mine["ports"], dict) or sorted(mine["ports"]) != sorted(ports):
            raise SnapshotError(f"{io.path}: the saved ports are not those of this device")
        for name, port in ports.items():
            if not isinstance(mine["ports"][name], dict):
                raise SnapshotError(f"{io.path}: saved port {name!r} is not a mapping")
            port.load(mine["ports"][name])
        io.rng.position = mine["rng"]
        has_card = device.type.net(device.config) is not None
        if has_card != isinstance(mine["net"], dict):
            raise SnapshotError(f"{io.path}: saved with another kind of card")
        if has_card:
            io.net.load(mine["net"])
        if mine["state"] is None:
            machine.containment.give_up(device)
        elif not isinstance(mine["state"], dict):
            raise SnapshotError(f"{io.path}: its saved state is not a mapping")
        else:
            try:
                device.target.load(mine["state"])
            except (ValueError, TypeError) as error:  # a number that no word of the device can hold
                text = shortened(str(error))
                raise SnapshotError(f"{io.path}: its saved state cannot be: {text}") from error


def same_values(one: Mapping[str, Any], other: Mapping[str, Any]) -> Sequence[str]:
    """The parts in which two saved states differ, for people: ``devices: guest/ns165500``."""
    found = []
    for key in sorted(PARTS):
        if key == "devices":
            paths = sorted({*one[key], *other[key]})
            found += [f"{key}: {p}" for p in paths if one[key].get(p) != other[key].get(p)]
        elif one.get(key) != other.get(key):  # version 1 had fewer
            found.append(key)
    return found
