"""What a device must be to be attached (DESIGN section 8), and what its state and node say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import attrs
import pytest

from asyncvmm.base.errors import ConfigError
from asyncvmm.device import DeviceIo, MmioDevice, Register
from asyncvmm.isa.asm import assemble
from asyncvmm.isa.elf_writer import to_elf
from asyncvmm.machine import BootFile, BootFiles, GuestConfig, Machine
from asyncvmm.plugin import DeviceState, DeviceType
from asyncvmm.virtio import VirtioDevice


@attrs.frozen
class NoOptions:
    """None."""


class Plain(MmioDevice):
    def __init__(self, config: NoOptions, io: DeviceIo) -> None:
        super().__init__(io, [Register("value", 0, 4)], 0x1000)


@attrs.frozen
class CountState(DeviceState):
    version: ClassVar[int] = 2

    count: int

    @classmethod
    def upgrade(cls, saved: dict[str, Any], version: int) -> dict[str, Any]:
        if version != 1:
            return super().upgrade(saved, version)
        return {"count": saved["number"]}


class Counts(Plain):
    state_type = CountState
    count = 0

    def reset(self) -> None:
        super().reset()
        self.count = 0

    def write_value(self, value: int) -> None:
        self.count += 1

    def state(self) -> CountState:
        return CountState(self.count)

    def restore(self, state: CountState) -> None:
        self.count = state.count

    def fdt_properties(self) -> dict[str, Any]:
        return {"asyncvmm,width": 32, "status": "okay"}


class SavesOnly(Plain):
    def save(self) -> dict[str, object]:
        return {"version": 1}


class NoSave(Plain):
    save = None  # type: ignore[assignment]
    load = None  # type: ignore[assignment]


class NoRestore(Plain):
    state_type = CountState

    def state(self) -> CountState:
        return CountState(0)


class Untyped(Counts):
    state_type = None


class Opaque(Counts):
    def state(self) -> Any:
        return self


class Runs(Plain):
    async def run(self, io: Any) -> None:
        return None


class Bossy(Plain):
    def fdt_properties(self) -> dict[str, Any]:
        return {"reg": 0}


class Wide(Plain):
    def fdt_properties(self) -> dict[str, Any]:
        return {"asyncvmm,wide": 1 << 32}


class Forgetful(VirtioDevice):
    def __init__(self, config: NoOptions, io: DeviceIo) -> None:
        super().__init__(io, 42, [16])

    def load(self, saved: dict[str, object]) -> None:
        raise ConfigError("not today")

    def save(self) -> dict[str, object]:
        return super().save()


def machine(factory: Callable[..., Any], kind: Any = "mmio", **options: Any) -> Machine:
    device_type = DeviceType("sample", "a sample", NoOptions, factory, kind, **options)
    elf = to_elf(assemble("_start: wfi\n", 0x80000000))
    config = GuestConfig(elf="program.elf", memory="8M", devices=("sample",))
    return Machine(config, BootFiles(elf=BootFile("p", elf)), {"sample": device_type})


@pytest.mark.parametrize(
    ("factory", "kind", "message"),
    [
        (SavesOnly, "mmio", r"it has save\(\) of its own, but no load\(\)"),
        (NoSave, "mmio", r"it has no save\(\)"),
        (NoRestore, "mmio", r"it has state\(\) of its own, but no restore\(\)"),
        (Untyped, "mmio", r"it has state\(\), but no state_type"),
        (Opaque, "mmio", r"save\(\) gives no plain data"),
        (Forgetful, "virtio", r"load\(\) does not take what save\(\) gave: .*not today"),
    ],
)
def test_a_device_that_cannot_be_saved_is_refused_when_attached(
    factory: Callable[..., Any], kind: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=f"sample0: a device that cannot be saved.*{message}"):
        machine(factory, kind)


@pytest.mark.parametrize(
    ("factory", "kind", "message"),
    [
        (Runs, "mmio", "has to say live=True"),
        (Bossy, "mmio", "property 'reg' is the board's to say"),
        (Wide, "mmio", "property 'asyncvmm,wide' is 4294967296"),
        (Plain, "virtio", "made Plain, which is no VirtioDevice"),
    ],
)
def test_other_refusals(factory: Callable[..., Any], kind: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        machine(factory, kind)


def test_registers_line_and_state_are_kept_and_old_states_upgraded() -> None:
    made = machine(Counts)
    (device,) = made.devices
    device.target.write(0, 4, 7)
    device.io.irq.set(True)
    saved = device.target.save()
    assert saved["state"] == {"version": 2, "count": 1}
    device.target.reset()
    assert not device.io.irq.level
    device.target.load(saved)
    assert device.target.save() == saved
    assert device.io.irq.level
    device.target.load({**saved, "state": {"version": 1, "number": 5}})
    assert device.device.count == 5
    before = device.target.save()
    for spoilt in ({"version": 3, "count": 1}, {"version": 2}, None):
        with pytest.raises(ConfigError):
            device.target.load({**saved, "registers": {"value": 9}, "state": spoilt})
        assert device.target.save() == before


def test_the_device_writes_its_own_node() -> None:
    made = machine(Counts, compatible=("asyncvmm,counts",), fdt_properties=lambda c: {"status": ""})
    node = made.tree.find(f"/soc/sample@{made.devices[0].place.base:x}")
    assert node is not None
    assert node.text("status") == "okay"
    assert node.number("asyncvmm,width") == 32
    assert node.text("compatible") == "asyncvmm,counts"
