"""Every first-party device passes the conformance kit, and the kit finds faults."""

from __future__ import annotations

import itertools
from importlib import import_module

import attrs
import pytest

from asyncvmm.device import DeviceIo, MmioDevice, Register
from asyncvmm.plugin import DeviceType
from asyncvmm.testing import check_device

DEVICES: list[tuple[str, dict[str, str | None]]] = [
    ("ns16550", {}),
    ("ns16550", {"register-shift": "2"}),
    ("goldfish_rtc", {"epoch": "1700000000"}),
    ("test_finisher", {}),
    ("virtio_blk", {"path": "disk.img"}),
    ("virtio_blk", {"path": "disk.img", "readonly": None}),
    ("virtio_console", {"ports": "asyncvmm.run+log"}),
    ("virtio_rng", {}),
]


@pytest.mark.parametrize(("name", "options"), DEVICES)
def test_first_party_device(name: str, options: dict[str, str | None]) -> None:
    (device_type,) = import_module(f"asyncvmm_plugins.{name}.hooks").asyncvmm_device_types()
    check_device(device_type, options)


@attrs.frozen
class NoOptions:
    """Options of the devices below: none."""


REGISTERS = [Register("VALUE", 0, 4), Register("TICKS", 4, 4)]


class Good(MmioDevice):
    """What a third party's device may be: nothing but registers."""

    def __init__(self, config: NoOptions, io: DeviceIo) -> None:
        super().__init__(io, REGISTERS, 0x10)


class Crashes(Good):
    def write_value(self, value: int) -> None:
        raise ZeroDivisionError("cannot")


class Forgets(Good):
    """Its state is not in what it saves."""

    ticks = 0

    def write_ticks(self, value: int) -> None:
        self.io.irq.set(True)

    def load(self, saved: dict[str, object]) -> None:
        super().load(saved)
        self.io.irq.set(False)


class Drifts(Good):
    counter = itertools.count()

    def read_ticks(self) -> int:
        return next(self.counter)


class Sticky(Good):
    resets = 0

    def reset(self) -> None:
        super().reset()
        self.resets += 1
        self.registers["VALUE"] = self.resets


class Credulous(Good):
    def load(self, saved: dict[str, object]) -> None:
        if "registers" in saved:
            super().load({**saved, "version": 1})


def kind(device: type[MmioDevice]) -> DeviceType:
    return DeviceType("sample", "a sample", NoOptions, device, "mmio")


def test_the_kit_accepts_a_device_of_registers_only() -> None:
    check_device(kind(Good))


@pytest.mark.parametrize(
    ("device", "error", "message"),
    [
        (Crashes, ZeroDivisionError, "cannot"),
        (Forgets, AssertionError, "forgets the interrupt|not give what was saved"),
        (Drifts, AssertionError, "answered differently"),
        (Sticky, AssertionError, "two resets"),
        (Credulous, AssertionError, "spoilt state was accepted"),
    ],
)
def test_the_kit_finds(device: type[MmioDevice], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_device(kind(device))
