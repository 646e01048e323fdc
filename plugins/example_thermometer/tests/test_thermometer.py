"""The thermometer: the conformance kit, then what it is for."""

from __future__ import annotations

from asyncvmm.testing import DeviceBench, DeviceConformance
from asyncvmm_example_thermometer.config import ThermometerConfig
from asyncvmm_example_thermometer.device import Thermometer
from asyncvmm_example_thermometer.hooks import THERMOMETER

SECOND = 1_000_000_000
TEMPERATURE, LIMIT, ALARM, COUNT = 0x00, 0x04, 0x08, 0x0C


class TestConformance(DeviceConformance):
    """All checks of asyncvmm's kit."""

    device_type = THERMOMETER
    options = {"start": "-5", "rate": "500"}
    previous = (
        {
            "version": 1,
            "registers": {"temperature": 0, "limit": 30_000, "alarm": 0, "count": 0},
            "irq": False,
            "state": {"version": 1, "armed": True},
        },
    )


def test_the_alarm_interrupts_when_the_limit_is_reached() -> None:
    bench = DeviceBench()
    device = Thermometer(ThermometerConfig(start=20, rate=1000), bench.io)
    device.reset()
    device.write(LIMIT, 4, 25_000)
    bench.advance(5 * SECOND - 1)
    assert (device.read(TEMPERATURE, 4), bench.irq) == (24_999, False)
    bench.advance(1)
    assert (device.read(TEMPERATURE, 4), bench.irq) == (25_000, True)
    assert (device.read(ALARM, 4), device.read(COUNT, 4)) == (1, 1)
    device.write(ALARM, 4, 1)
    assert not bench.irq


def test_a_state_of_version_1_still_rings() -> None:
    bench = DeviceBench()
    device = Thermometer(ThermometerConfig(start=20), bench.io)
    device.reset()
    device.load(dict(TestConformance.previous[0]))
    bench.advance(10 * SECOND)
    assert bench.irq
    assert device.read(COUNT, 4) == 1
