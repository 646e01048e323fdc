"""Making a guest's devices from its config and putting them on the bus."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from asyncvmm.base.errors import AsyncvmmError, ConfigError, InternalError
from asyncvmm.bus.address_map import Bus, Region
from asyncvmm.device import (
    Blob,
    BusGuard,
    CharPort,
    DeviceIo,
    Dma,
    Folder,
    InterruptLine,
    MmioDevice,
    RandomStream,
)
from asyncvmm.interrupts.lines import InterruptSink
from asyncvmm.machine.attachable import check_device, check_snapshot, node_properties
from asyncvmm.machine.board import STANDARD, Board, Place
from asyncvmm.machine.bugs import bug_text
from asyncvmm.machine.config import GuestConfig, share_options, split_disk
from asyncvmm.machine.device_tree import DeviceNode
from asyncvmm.machine.power import DevicePower, PowerSwitch
from asyncvmm.memory.pages import Ram
from asyncvmm.platform.device_clock import MachineDeviceClock
from asyncvmm.plugin import BlobSpec, DeviceType, FolderSpec, split_options
from asyncvmm.plugin.options import nearest
from asyncvmm.timeline.clock import Clock
from asyncvmm.timeline.events import DEVICES
from asyncvmm.virtio import VirtioMmio

OpenBlob = Callable[[BlobSpec], Blob]
OpenFolder = Callable[[FolderSpec], Folder]
LogSink = Callable[[str, str], None]


@attrs.frozen
class Wanted:
    """A device that the config asks for, with its checked options."""

    type: DeviceType
    config: Any


@attrs.frozen
class Attached:
    """A device in its place. ``target`` is what the bus calls: the device or its transport."""

    type: DeviceType
    config: Any
    io: DeviceIo
    device: Any
    target: MmioDevice
    place: Place
    region: Region

    def close(self) -> None:
        """Let go of what the device has of the world outside; it is not used any more."""
        self.io.blob.close()
        self.io.folder.close()

    @property
    def node(self) -> DeviceNode:
        """What the device tree says about it."""
        kind = self.type
        properties = node_properties(kind, self.config, self.device, self.io.path)
        virtio = kind.kind == "virtio"
        return DeviceNode(
            "virtio_mmio" if virtio else kind.node_name or kind.name,
            self.place.base,
            int(self.region.size),
            self.place.irq,
            ("virtio,mmio",) if virtio else kind.compatible,
            properties,
        )


def no_blobs(spec: BlobSpec) -> Blob:
    """The ``open_blob`` of a machine that was given none."""
    raise ConfigError(f"{spec.path}: this machine was not given a way to open disks")


def no_folders(spec: FolderSpec) -> Folder:
    """The ``open_folder`` of a machine that was given none."""
    raise ConfigError(f"{spec.path}: this machine was not given a way to open folders")


def wanted_devices(config: GuestConfig, types: Mapping[str, DeviceType]) -> list[Wanted]:
    """The standard devices that ``types`` has, then flash, disks, network cards, shared folders, and the
    other devices.

    A device of the config replaces the standard one of its type.
    """
    chosen = [_parse(text, types) for text in config.devices]
    named = {wanted.type.name for wanted in chosen}
    standard = [
        Wanted(types[name], types[name].parse({}))
        for name in STANDARD
        if name in types and name not in named
    ]
    disks = [_on_image("cfi-flash", text, types) for text in config.flash]
    disks += [_on_image("virtio-blk", text, types) for text in config.disks]
    cards = [_parse(f"virtio-net,network={text}", types) for text in config.nets]
    shares = []
    for share in share_options(config.shares):
        kind = _type_of("virtio-9p", types)
        shares.append(Wanted(kind, kind.parse(share)))
    return standard + disks + cards + shares + chosen


def _on_image(name: str, text: str, types: Mapping[str, DeviceType]) -> Wanted:
    disk = split_disk(text)
    kind = _type_of(name, types)
    options: dict[str, str | None] = {"path": str(disk.path)}
    options |= {name: None for name in ("readonly", "snapshot") if getattr(disk, name)}
    if disk.format is not None:
        options["format"] = disk.format
    return Wanted(kind, kind.parse(options))


def _type_of(name: str, types: Mapping[str, DeviceType]) -> DeviceType:
    try:
        return types[name]  # the plugins' own knows which of them failed
    except KeyError:
        raise ConfigError(f"no device {name!r}: {nearest(name, types)}") from None


def _parse(text: str, types: Mapping[str, DeviceType]) -> Wanted:
    name, options = split_options(text)
    kind = _type_of(name, types)
    return Wanted(kind, kind.parse(options))


def card_address(seed: int, guest: str, number: int) -> bytes:
    """The MAC address of a guest's card: locally administered, the same in every run of a seed."""
    digest = hashlib.sha256(f"asyncvmm mac\0{seed}\0{guest}\0{number}".encode()).digest()
    return bytes([digest[0] & 0xFC | 2]) + digest[1:6]


def _own_address(config: GuestConfig, number: int) -> bytes:
    seed = config.seed if config.mac_seed is None else config.mac_seed
    return card_address(seed, config.name, number)


def card_addresses(config: GuestConfig, types: Mapping[str, DeviceType]) -> list[str]:
    """The MAC addresses of a guest's cards, in their order, as people write them."""
    specs = [wanted.type.net(wanted.config) for wanted in wanted_devices(config, types)]
    cards = [spec for spec in specs if spec is not None]
    return [
        (spec.mac or _own_address(config, number)).hex(":") for number, spec in enumerate(cards)
    ]


class DeviceFactory:
    """Everything that a device of one guest is handed."""

    def __init__(
        self,
        config: GuestConfig,
        ram: Ram,
        bus: Bus,
        clock: Clock,
        interrupts: InterruptSink,
        switch: PowerSwitch,
        open_blob: OpenBlob,
        log_sink: LogSink | None,
        open_folder: OpenFolder = no_folders,
    ) -> None:
        self._config = config
        self._bus = bus
        self._ram = ram
        self._dma = Dma(ram)
        self._clock = clock
        self._interrupts = interrupts
        self._switch = switch
        self._open_blob = open_blob
        self._open_folder = open_folder
        self._log_sink = log_sink
        self._board = Board()
        self._counts: dict[str, int] = {}
        self._attached = 0

    def attach(self, wanted: Wanted) -> Attached:
        """Create, reset and attach one device; ConfigError when it cannot be (a device that cannot be
        saved, for one), InternalError when its own code fails.
        """
        kind = wanted.type
        number = self._counts.get(kind.name, 0)
        self._counts[kind.name] = number + 1
        self._attached += 1
        path = f"{self._config.name}/{kind.name}{number}"
        place = self._board.place(kind.name, kind.kind, kind.size_bytes)
        guard = BusGuard(self._bus, path)
        io = DeviceIo(
            path,
            self._dma,
            InterruptLine(self._interrupts, place.irq),
            MachineDeviceClock(self._clock, self._config.epoch_ns, guard, DEVICES + self._attached),
            RandomStream(self._config.seed, path),
        )
        io.guard = guard
        io.power = DevicePower(self._switch, path)
        io.log_sink = self._log_sink
        io.console = CharPort(path)
        spec = kind.blob(wanted.config)
        if spec is not None:
            io.blob = self._open_blob(spec)
        folder = kind.folder(wanted.config)
        if folder is not None:
            io.folder = self._open_folder(folder)
        for name in kind.ports(wanted.config):
            io.port(name)
        if kind.window:
            io.window.connect(self._ram, place.base, kind.size_bytes)
        net = kind.net(wanted.config)
        if net is not None:
            card = self._counts.get("net", 0)
            self._counts["net"] = card + 1
            io.net.network = net.network
            io.net.mac = net.mac or _own_address(self._config, card)
        try:
            device = kind.factory(wanted.config, io)
            check_device(kind, device, path)
            target: MmioDevice = VirtioMmio(io, device) if kind.kind == "virtio" else device
            target.reset()
            check_snapshot(target, path)
            node_properties(kind, wanted.config, device, path)
        except AsyncvmmError:
            raise
        except Exception as error:
            raise InternalError(
                f"device {path} failed when it was made: {bug_text(error)}"
            ) from error
        region = self._bus.attach(place.base, target.size_bytes, target, path)
        return Attached(kind, wanted.config, io, device, target, place, region)
