"""The thermometer. It knows virtual time, its registers and its interrupt line, and nothing else."""

from __future__ import annotations

from typing import Final

from asyncvmm.device import RO, W1C, DeviceIo, MmioDevice, Register
from asyncvmm_example_thermometer.config import ThermometerConfig
from asyncvmm_example_thermometer.state import ThermometerState

SECOND: Final = 1_000_000_000
FAR: Final = 1 << 62  # ns: virtual time does not get there

REGISTERS: Final = (
    Register("temperature", 0x00, 4, RO),
    Register("limit", 0x04, 4),
    Register("alarm", 0x08, 4, W1C, mask=1),
    Register("count", 0x0C, 4, RO),
)


class Thermometer(MmioDevice):
    """Its temperature follows from virtual time, so every run of a guest sees the same."""

    state_type = ThermometerState

    def __init__(self, config: ThermometerConfig, io: DeviceIo) -> None:
        super().__init__(io, REGISTERS)
        self._config = config
        self._armed = False
        self._count = 0
        self._event = io.clock.after(0, self._ring)
        self._event.cancel()

    def reset(self) -> None:
        """No alarm is set."""
        super().reset()
        self._event.cancel()
        self._armed, self._count = False, 0

    def read_temperature(self) -> int:
        """Millidegrees, as a 32-bit number."""
        passed = self.io.clock.now_ns * self._config.rate // SECOND
        return (1000 * self._config.start + passed) & 0xFFFFFFFF

    def read_count(self) -> int:
        """How often the alarm has rung."""
        return self._count

    def write_limit(self, value: int) -> None:
        """Sets the alarm; a limit that is reached already rings at once."""
        self._armed = True
        self._schedule()

    def write_alarm(self, ones: int) -> None:
        """Clears the alarm, and the interrupt with it."""
        self.io.irq.set(self.registers["alarm"] != 0)

    def _schedule(self) -> None:
        self._event.cancel()
        limit = self.registers["limit"]
        limit -= (limit & 0x8000_0000) << 1
        rise = limit - 1000 * self._config.start
        at = -(-rise * SECOND // self._config.rate)
        if at < FAR:
            self._event = self.io.clock.after(at - self.io.clock.now_ns, self._ring)

    def _ring(self) -> None:
        self._armed = False
        self._count = (self._count + 1) & 0xFFFFFFFF
        self.registers["alarm"] = 1
        self.io.irq.set(True)

    def state(self) -> ThermometerState:
        """See MmioDevice."""
        return ThermometerState(self._armed, self._count)

    def restore(self, state: ThermometerState) -> None:
        """See MmioDevice; virtual time goes on from where it was saved."""
        self._event.cancel()
        self._armed, self._count = state.armed, state.count
        if self._armed:
            self._schedule()
