"""The test finisher's three commands."""

from __future__ import annotations

import pytest

from asyncvmm.testing.device_bench import DeviceBench
from asyncvmm_plugins.test_finisher.config import TestFinisherConfig
from asyncvmm_plugins.test_finisher.device import TestFinisher


@pytest.mark.parametrize(
    ("value", "size", "requested", "code"),
    [
        (0x5555, 4, "poweroff", 0),
        (0x5555, 2, "poweroff", 0),
        (0x0007_3333, 4, "poweroff", 7),
        (0xFFFF_3333, 4, "poweroff", 0xFFFF),
        (0x7777, 4, "reboot", 0),
        (0x1234, 4, "", 0),
        (0x0001_5555, 8, "poweroff", 0),
    ],
)
def test_commands(value: int, size: int, requested: str, code: int) -> None:
    bench = DeviceBench()
    device = TestFinisher(TestFinisherConfig(), bench.io)
    device.reset()
    device.write(0, size, value)
    assert (bench.io.power.requested, bench.io.power.code) == (requested, code)
    assert device.read(0, 4) == 0
