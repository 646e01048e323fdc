"""The base class of devices at guest addresses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from mypy_extensions import i64, mypyc_attr

from asyncvmm.base.bits import to_signed, to_unsigned
from asyncvmm.base.errors import ConfigError
from asyncvmm.bus.address_map import MmioTarget
from asyncvmm.device.io import DeviceIo
from asyncvmm.device.registers import UNKNOWN_FAULTS, Register, RegisterBank


@mypyc_attr(allow_interpreted_subclasses=True)
class MmioDevice(MmioTarget):
    """A device made of declared registers, ``size_bytes`` long, with the capabilities in ``io``.

    Life: created -> ``reset()`` -> attached to the bus -> (``read`` | ``write``)* -> ``reset()`` ->
    ... A subclass declares its registers, gives those that do something
    ``read_name``/``write_name`` methods (see ``RegisterBank``), and extends ``reset``, which must
    be idempotent.

    Registers and the interrupt's level are in snapshots by themselves. What else a device has to keep
    is an attrs class (``asyncvmm.plugin.DeviceState``) in ``state_type``, made by ``state`` and taken
    back by ``restore``.
    """

    state_type: ClassVar[Any] = None

    def __init__(
        self,
        io: DeviceIo,
        registers: Sequence[Register],
        size_bytes: int = 0x1000,
        unknown: str = UNKNOWN_FAULTS,
    ) -> None:
        self.io: DeviceIo = io
        self.size_bytes: int = size_bytes
        self.registers: RegisterBank = RegisterBank(self, registers, size_bytes, unknown)

    def read(self, offset: i64, size: i64) -> i64:
        """The bus's way in: ``size`` (1, 2, 4 or 8) bytes at ``offset``, as a signed word."""
        return to_signed(self.registers.read(int(offset), int(size)))

    def write(self, offset: i64, size: i64, value: i64) -> None:
        """The bus's way in: store the low ``size`` bytes of ``value`` at ``offset``."""
        self.registers.write(int(offset), int(size), to_unsigned(value))

    def reset(self) -> None:
        """Power-on state: reset values in all registers, interrupt line low."""
        self.registers.reset()
        self.io.inbox.clear()
        self.io.irq.set(False)

    def state(self) -> Any:
        """What the device has besides its registers, as a ``state_type``."""
        return None

    def restore(self, state: Any) -> None:
        """Become what ``state`` says; registers, line and virtual time were restored before."""

    def fdt_properties(self) -> dict[str, Any]:
        """What the device has to say in its device tree node, besides what the board knows."""
        return {}

    def save(self) -> dict[str, object]:
        """Everything that a reset device lacks, as plain data with a ``version``."""
        saved: dict[str, object] = {
            "version": 1,
            "registers": self.registers.save(),
            "irq": self.io.irq.level,
        }
        if _state_type(self) is not None:
            saved["state"] = self.state().save()
        return saved

    def load(self, saved: dict[str, object]) -> None:
        """Take back what ``save`` gave to a device just reset; ConfigError, with nothing changed,
        when it does not fit.
        """
        if saved.get("version") != 1 or type(saved.get("irq")) is not bool:
            raise ConfigError(f"{self.io.path}: saved state of an unknown version")
        state = load_state(self, saved)
        self.registers.load(saved.get("registers"))
        self.io.irq.set(saved["irq"] is True)
        if state is not None:
            self.restore(state)

    def resume(self) -> None:
        """Called once after ``load``, when the whole machine was loaded: take up work in flight."""


def _state_type(device: object) -> Any:
    return getattr(device, "state_type", None)


def load_state(device: object, saved: dict[str, object]) -> Any:
    """The device's own state in ``saved``, checked; None for devices without one."""
    kind = _state_type(device)
    return None if kind is None else kind.load(saved.get("state"))
