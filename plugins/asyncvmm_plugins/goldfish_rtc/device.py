"""The Goldfish RTC of Android's emulator, as Linux's ``rtc-goldfish`` drives it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from asyncvmm.device import RO, UNKNOWN_IS_ZERO, WO, DeviceIo, MmioDevice, Register
from asyncvmm_plugins.goldfish_rtc.config import GoldfishRtcConfig
from asyncvmm_plugins.goldfish_rtc.state import GoldfishRtcState

_U64: Final = (1 << 64) - 1

REGISTERS: Final = (
    Register("time_low", 0x00, 4),
    Register("time_high", 0x04, 4),
    Register("alarm_low", 0x08, 4),
    Register("alarm_high", 0x0C, 4),
    Register("irq_enabled", 0x10, 4),
    Register("clear_alarm", 0x14, 4, WO),
    Register("alarm_status", 0x18, 4, RO),
    Register("clear_interrupt", 0x1C, 4, WO),
)


def _nobody_listens() -> None:
    """The date was set."""


class GoldfishRtc(MmioDevice):
    """The date is virtual time plus an offset, which the guest may set (``on_date_set`` is called then); it
    survives resets.

    Reading the low half of the time latches the high half. Writing a low half acts on both.
    """

    state_type = GoldfishRtcState

    def __init__(self, config: GoldfishRtcConfig, io: DeviceIo) -> None:
        super().__init__(io, REGISTERS, 0x1000, UNKNOWN_IS_ZERO)
        epoch_ns = io.clock.epoch_ns if config.epoch is None else config.epoch * 1_000_000_000
        self.offset_ns = epoch_ns & _U64
        self.on_date_set: Callable[[], None] = _nobody_listens
        self._event = io.clock.after(0, self._ring)
        self._event.cancel()
        self._clear()

    def _clear(self) -> None:
        self.alarm_ns = self.time_high = self.alarm_high = 0
        self.irq_enabled = self.irq_pending = self.alarm_armed = False

    def reset(self) -> None:
        """No alarm, no interrupt; the date goes on."""
        super().reset()
        self._event.cancel()
        self._clear()

    def set_date(self, unix_ns: int) -> None:
        """The date is this from now on: the guest is a copy that is to have another."""
        self.offset_ns = (unix_ns - self.io.clock.now_ns) & _U64
        if self.alarm_armed:
            self._arm()

    @property
    def time_ns(self) -> int:
        """The date, in nanoseconds since 1970 (mod 2**64)."""
        return (self.offset_ns + self.io.clock.now_ns) & _U64

    def read_time_low(self) -> int:
        """TIME_LOW; latches TIME_HIGH."""
        now = self.time_ns
        self.time_high = now >> 32
        return now & 0xFFFFFFFF

    def read_time_high(self) -> int:
        """TIME_HIGH, as of the last reading of TIME_LOW."""
        return self.time_high

    def write_time_high(self, value: int) -> None:
        """TIME_HIGH, for the TIME_LOW that follows."""
        self.time_high = value

    def write_time_low(self, value: int) -> None:
        """TIME_LOW: sets the date."""
        self.offset_ns = ((self.time_high << 32 | value) - self.io.clock.now_ns) & _U64
        if self.alarm_armed:
            self._arm()
        self.on_date_set()

    def read_alarm_low(self) -> int:
        """ALARM_LOW."""
        return self.alarm_ns & 0xFFFFFFFF

    def read_alarm_high(self) -> int:
        """ALARM_HIGH."""
        return self.alarm_ns >> 32

    def write_alarm_high(self, value: int) -> None:
        """ALARM_HIGH, for the ALARM_LOW that follows."""
        self.alarm_high = value

    def write_alarm_low(self, value: int) -> None:
        """ALARM_LOW: arms the alarm."""
        self.alarm_ns = self.alarm_high << 32 | value
        self._arm()

    def read_irq_enabled(self) -> int:
        """IRQ_ENABLED."""
        return int(self.irq_enabled)

    def write_irq_enabled(self, value: int) -> None:
        """IRQ_ENABLED."""
        self.irq_enabled = bool(value & 1)
        self._update()

    def write_clear_alarm(self, value: int) -> None:
        """CLEAR_ALARM: disarms."""
        self._event.cancel()
        self.alarm_armed = False

    def read_alarm_status(self) -> int:
        """ALARM_STATUS: armed or not."""
        return int(self.alarm_armed)

    def write_clear_interrupt(self, value: int) -> None:
        """CLEAR_INTERRUPT."""
        self.irq_pending = False
        self._update()

    def _arm(self) -> None:
        self._event.cancel()
        self.alarm_armed = True
        delay = self.alarm_ns - self.time_ns
        if delay <= 0:
            self._ring()
        elif self.io.clock.now_ns + delay < 1 << 62:
            # Later than that is never: virtual time does not get there.
            self._event = self.io.clock.after(delay, self._ring)

    def _ring(self) -> None:
        self.alarm_armed = False
        self.irq_pending = True
        self._update()

    def _update(self) -> None:
        self.io.irq.set(self.irq_enabled and self.irq_pending)

    def state(self) -> GoldfishRtcState:
        """Everything that a reset RTC lacks. The date is relative to virtual time."""
        return GoldfishRtcState(
            offset_ns=self.offset_ns,
            alarm_ns=self.alarm_ns,
            time_high=self.time_high,
            alarm_high=self.alarm_high,
            irq_enabled=self.irq_enabled,
            irq_pending=self.irq_pending,
            alarm_armed=self.alarm_armed,
        )

    def restore(self, state: GoldfishRtcState) -> None:
        """Become what ``state`` says; virtual time must have been restored before."""
        self._event.cancel()
        self.offset_ns = state.offset_ns
        self.alarm_ns = state.alarm_ns
        self.time_high = state.time_high
        self.alarm_high = state.alarm_high
        self.irq_enabled = state.irq_enabled
        self.irq_pending = state.irq_pending
        self.alarm_armed = state.alarm_armed
        if state.alarm_armed:
            self._arm()
        self._update()
