"""A device's bug brings down its device or its guest, never a neighbour or the host."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import attrs
import pytest

from asyncvmm.device import DeviceIo, MmioDevice, Register
from asyncvmm.machine import GuestConfig
from asyncvmm.plugin import DeviceType, PluginManager, create_plugin_manager, hookimpl
from asyncvmm.runtime.host import open_host
from asyncvmm.testing import assemble, to_elf
from asyncvmm.testing.virtio_driver import NEEDS_RESET
from asyncvmm.virtio import VirtioDevice, VirtioMmio

MS = 1_000_000

# Reads the device at the address that the device tree would name, counts faults in s4, spins.
POKE = """
_start:
    la   t0, trap
    csrw mtvec, t0
    li   s0, {address}
1:  lw   t1, 0(s0)
    sw   t1, {offset}(s0)
    addi s5, s5, 1
    j    1b
.balign 4
trap:
    csrr t0, mepc
    addi t0, t0, 4
    csrw mepc, t0
    addi s4, s4, 1
    mret
"""
SPIN = "_start: addi s1, s1, 1\n j _start\n"


@attrs.frozen
class Options:
    """None."""


class Buggy(MmioDevice):
    """Raises in an access, or in an event."""

    def __init__(self, config: Options, io: DeviceIo) -> None:
        super().__init__(io, [Register("value", 0, 4), Register("trigger", 4, 4)])

    def write_trigger(self, value: int) -> None:
        self.io.clock.after(1000, self._boom)

    def _boom(self) -> None:
        raise LookupError("a bug in an event")

    def read_value(self) -> int:
        return 1

    def write_value(self, value: int) -> None:
        raise ZeroDivisionError("a bug in an access")


class BuggyVirtio(VirtioDevice):
    """Raises when its configuration is read."""

    def __init__(self, config: Options, io: DeviceIo) -> None:
        super().__init__(io, 42, [16], config=bytes(8))

    def write_config(self, offset: int, size: int, value: int) -> None:
        raise KeyError("a bug in virtio")


class Blocking(MmioDevice):
    """Holds the thread until somebody says so in the log."""

    named = threading.Event()

    def __init__(self, config: Options, io: DeviceIo) -> None:
        super().__init__(io, [Register("value", 0, 4)])

    def read_value(self) -> int:
        assert self.named.wait(60)
        return 0


class Plugin:
    """Brings them."""

    @hookimpl
    def asyncvmm_device_types(self) -> list[DeviceType]:
        return [
            DeviceType("buggy", "x", Options, Buggy, "mmio"),
            DeviceType("buggy-virtio", "x", Options, BuggyVirtio, "virtio"),
            DeviceType("blocking", "x", Options, Blocking, "mmio"),
        ]


@pytest.fixture
def plugins() -> PluginManager:
    manager = create_plugin_manager()
    manager.register(Plugin(), "buggy")
    return manager


def program(directory: Path, source: str, name: str) -> Path:
    path = directory / f"{name}.elf"
    path.write_bytes(to_elf(assemble(source, 0x80000000)))
    return path


async def place_of(plugins: PluginManager, elf: Path, device: str) -> int:
    async with open_host(plugins=plugins, paused=True) as host:
        guest = await host.start(GuestConfig(elf=elf, devices=(device,)))
        return next(d.place.base for d in guest.machine.devices if d.type.name == device)


async def neighbour_alone(elf: Path, until_ns: int) -> str:
    async with open_host(paused=True) as host:
        guest = await host.start(GuestConfig(name="neighbour", elf=elf, memory="4M"))
        await host.run_until(until_ns)
        return guest.machine.digest()


@pytest.mark.parametrize(
    ("device", "offset", "cause"),
    [
        ("buggy", 0, "ZeroDivisionError: a bug in an access"),
        ("buggy", 4, "LookupError: a bug in an event"),
        ("buggy-virtio", 0x100, "KeyError: 'a bug in virtio'"),
    ],
)
async def test_a_bug_fails_its_device_alone_or_its_guest_by_policy(
    plugins: PluginManager, tmp_path: Path, device: str, offset: int, cause: str
) -> None:
    spin = program(tmp_path, SPIN, "spin")
    base = await place_of(plugins, spin, device)
    poke = program(tmp_path, POKE.format(address=base, offset=offset), "poke")
    alone = await neighbour_alone(spin, 3 * MS)
    for mode in ("device", "guest"):
        async with open_host(plugins=plugins, paused=True) as host:
            policy = {"device.failure": mode}
            guest = await host.start(
                GuestConfig(name="bad", elf=poke, memory="4M", devices=(device,), policy=policy)
            )
            beside = await host.start(GuestConfig(name="neighbour", elf=spin, memory="4M"))
            await host.run_until(3 * MS)
            assert beside.machine.digest() == alone and beside.exit is None
            (event,) = [event for event in host.events if event.kind == "failed"]
            assert event.guest == "bad" and cause.partition(":")[0] in event.cause
            if mode == "guest":
                assert guest.exit is not None and guest.exit.reason == "crash"
                continue
            assert guest.exit is None
            assert event.cause.startswith(f"bad/{device}0: {cause} (test_containment.py:")
            assert f"failed: {event.cause}" in guest.log.lines
            broken = next(d for d in guest.machine.devices if d.type.name == device)
            faults = int(guest.machine.harts[0].x[20])
            if isinstance(broken.target, VirtioMmio):
                assert broken.target.device.status & NEEDS_RESET and faults == 1
            else:
                assert faults > 1000
            guest.machine.digest()


async def test_a_device_that_blocks_the_thread_is_named_in_the_log(
    plugins: PluginManager, tmp_path: Path
) -> None:
    spin = program(tmp_path, SPIN, "spin")
    base = await place_of(plugins, spin, "blocking")
    poke = program(tmp_path, POKE.format(address=base, offset=0), "poke")
    said: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())
            Blocking.named.set()

    handler = Listener()
    logging.getLogger("asyncvmm").addHandler(handler)
    try:
        async with open_host(plugins=plugins, paused=True) as host:
            guest = await host.start(GuestConfig(name="slow", elf=poke, devices=("blocking",)))
            await host.run_until(MS)
            assert [event.guest for event in host.events if event.kind == "blocked"] == ["slow"]
            assert any("slow/blocking0" in line for line in guest.log.lines)
    finally:
        logging.getLogger("asyncvmm").removeHandler(handler)
    assert len(said) == 1 and "guest slow: device slow/blocking0 blocks" in said[0]
