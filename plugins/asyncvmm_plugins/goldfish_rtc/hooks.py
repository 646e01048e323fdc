"""Registers the device type ``goldfish-rtc``."""

from __future__ import annotations

from asyncvmm.plugin import DeviceType, hookimpl
from asyncvmm_plugins.goldfish_rtc.config import GoldfishRtcConfig
from asyncvmm_plugins.goldfish_rtc.device import GoldfishRtc


@hookimpl
def asyncvmm_device_types() -> list[DeviceType]:
    """See the hook specification."""
    return [
        DeviceType(
            name="goldfish-rtc",
            summary="real-time clock with an alarm",
            config=GoldfishRtcConfig,
            factory=GoldfishRtc,
            kind="mmio",
            compatible=("google,goldfish-rtc",),
            node_name="rtc",
        )
    ]
