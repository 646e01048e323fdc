"""The VM generation identifier as a device tree has it (``microsoft,vmgenid``)."""

from __future__ import annotations

from typing import Final

from asyncvmm.device import RO, UNKNOWN_IS_ZERO, DeviceIo, MmioDevice, Register
from asyncvmm_plugins.vmgenid.config import VmGenIdConfig
from asyncvmm_plugins.vmgenid.state import ID_BYTES, VmGenIdState

REGISTERS: Final = (Register("low", 0, 8, RO), Register("high", 8, 8, RO))


class VmGenId(MmioDevice):
    """16 bytes that a guest reads. They are others from ``renew`` on, and the guest is interrupted;
    reading them takes the interrupt back. A reset leaves them as they are.
    """

    state_type = VmGenIdState

    def __init__(self, config: VmGenIdConfig, io: DeviceIo) -> None:
        super().__init__(io, REGISTERS, 0x1000, UNKNOWN_IS_ZERO)
        self.identity = io.rng.bytes(ID_BYTES)
        self.notified = False

    def reset(self) -> None:
        """No notice; the identifier stays."""
        super().reset()
        self._notify(False)

    def renew(self) -> None:
        """The guest is a copy that is to be told from the original."""
        self.identity = self.io.rng.bytes(ID_BYTES)
        self._notify(True)

    def read_low(self) -> int:
        """The first eight bytes."""
        self._notify(False)
        return int.from_bytes(self.identity[:8], "little")

    def read_high(self) -> int:
        """The other eight."""
        self._notify(False)
        return int.from_bytes(self.identity[8:], "little")

    def _notify(self, on: bool) -> None:
        self.notified = on
        self.io.irq.set(on)

    def state(self) -> VmGenIdState:
        """Everything that a reset device lacks."""
        return VmGenIdState(self.identity, self.notified)

    def restore(self, state: VmGenIdState) -> None:
        """Become what ``state`` says."""
        self.identity = state.identity
        self._notify(state.notified)
