"""The Goldfish RTC: date, latching, alarm, snapshot."""

from __future__ import annotations

from typing import Any

import pytest

from asyncvmm.base.errors import ConfigError
from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm_plugins.goldfish_rtc.config import GoldfishRtcConfig
from asyncvmm_plugins.goldfish_rtc.device import GoldfishRtc

LOW, HIGH, ALARM_LOW, ALARM_HIGH = 0x00, 0x04, 0x08, 0x0C
ENABLED, CLEAR_ALARM, STATUS, CLEAR_IRQ = 0x10, 0x14, 0x18, 0x1C
SECOND = 1_000_000_000


class Rtc:
    def __init__(self, epoch: int | None = 1_700_000_000, epoch_ns: int = 0) -> None:
        self.bench = DeviceBench(epoch_ns=epoch_ns)
        self.device = GoldfishRtc(GoldfishRtcConfig(epoch), self.bench.io)
        self.device.reset()

    def __getitem__(self, offset: int) -> int:
        return int(self.device.read(offset, 4))

    def __setitem__(self, offset: int, value: int) -> None:
        self.device.write(offset, 4, value)

    @property
    def now_ns(self) -> int:
        return self[LOW] | self[HIGH] << 32

    def set_alarm(self, when_ns: int) -> None:
        self[ALARM_HIGH] = when_ns >> 32
        self[ALARM_LOW] = when_ns & 0xFFFFFFFF


def test_date_is_epoch_plus_virtual_time() -> None:
    rtc = Rtc()
    rtc.bench.advance(5 * SECOND)
    assert rtc.now_ns == 1_700_000_005 * SECOND
    assert Rtc(None, epoch_ns=123 * SECOND).now_ns == 123 * SECOND


def test_reading_low_latches_high() -> None:
    rtc = Rtc(epoch=0)
    rtc.bench.advance(0xFFFF_FFFF)
    assert rtc[LOW] == 0xFFFF_FFFF
    rtc.bench.advance(1)
    assert rtc[HIGH] == 0
    assert (rtc[LOW], rtc[HIGH]) == (0, 1)


def test_the_guest_sets_the_date_and_a_reset_keeps_it() -> None:
    rtc = Rtc()
    rtc.bench.advance(SECOND)
    rtc[HIGH], rtc[LOW] = 7, 9
    rtc.device.reset()
    rtc.bench.advance(1)
    assert rtc.now_ns == (7 << 32) + 10


def test_alarm_rings_at_its_time_if_enabled() -> None:
    rtc = Rtc()
    rtc[ENABLED] = 1
    rtc.set_alarm(rtc.now_ns + SECOND)
    assert rtc[STATUS] == 1
    rtc.bench.advance(SECOND - 1)
    assert not rtc.bench.irq
    rtc.bench.advance(1)
    assert rtc.bench.irq
    assert rtc[STATUS] == 0
    rtc[CLEAR_IRQ] = 1
    assert not rtc.bench.irq


def test_alarm_in_the_past_rings_now_and_cleared_never() -> None:
    rtc = Rtc()
    rtc[ENABLED] = 1
    rtc.set_alarm(5)
    assert rtc.bench.irq
    rtc[CLEAR_IRQ] = 1
    rtc.set_alarm(rtc.now_ns + SECOND)
    rtc[CLEAR_ALARM] = 1
    rtc.bench.advance(2 * SECOND)
    assert not rtc.bench.irq
    rtc.set_alarm((1 << 64) - 1)
    rtc.bench.advance(SECOND)
    assert not rtc.bench.irq


def test_setting_the_date_moves_the_alarm() -> None:
    rtc = Rtc()
    rtc[ENABLED] = 1
    rtc.set_alarm(rtc.now_ns + 100 * SECOND)
    later = rtc.now_ns + 99 * SECOND
    rtc[HIGH] = later >> 32
    rtc[LOW] = later & 0xFFFFFFFF
    rtc.bench.advance(2 * SECOND)
    assert rtc.bench.irq


def test_snapshot_keeps_date_and_alarm() -> None:
    rtc = Rtc()
    rtc[ENABLED] = 1
    rtc.set_alarm(rtc.now_ns + SECOND)
    saved: dict[str, Any] = rtc.device.save()
    state = saved["state"]
    other = Rtc(epoch=0)
    other.device.load(saved)
    assert other.device.save() == saved
    assert other.now_ns == rtc.now_ns
    other.bench.advance(SECOND)
    assert other.bench.irq
    with pytest.raises(ConfigError):
        other.device.load({**saved, "state": {**state, "alarm_ns": -1}})
