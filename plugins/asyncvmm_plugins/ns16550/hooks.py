"""Registers the device type ``ns16550``."""

from __future__ import annotations

from collections.abc import Mapping

from asyncvmm.plugin import DeviceType, FdtValue, hookimpl
from asyncvmm_plugins.ns16550.config import Ns16550Config
from asyncvmm_plugins.ns16550.device import Ns16550


def _fdt_properties(config: Ns16550Config) -> Mapping[str, FdtValue]:
    properties: dict[str, FdtValue] = {"clock-frequency": config.clock_hz}
    if config.register_shift:
        properties["reg-shift"] = config.register_shift
    return properties


@hookimpl
def asyncvmm_device_types() -> list[DeviceType]:
    """See the hook specification."""
    return [
        DeviceType(
            name="ns16550",
            summary="16550A serial port with FIFOs",
            config=Ns16550Config,
            factory=Ns16550,
            kind="mmio",
            size_bytes=0x100,
            compatible=("ns16550a",),
            node_name="serial",
            fdt_properties=_fdt_properties,
        )
    ]
