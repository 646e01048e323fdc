"""Registers the device type ``example-thermometer``."""

from __future__ import annotations

from asyncvmm.plugin import DeviceType, hookimpl
from asyncvmm_example_thermometer.config import ThermometerConfig
from asyncvmm_example_thermometer.device import Thermometer

THERMOMETER = DeviceType(
    name="example-thermometer",
    summary="thermometer with an alarm (an example)",
    config=ThermometerConfig,
    factory=Thermometer,
    kind="mmio",
    compatible=("asyncvmm,example-thermometer",),
    node_name="thermometer",
    api_version=1,
)


@hookimpl
def asyncvmm_device_types() -> list[DeviceType]:
    """See the hook specification."""
    return [THERMOMETER]
