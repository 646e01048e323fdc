"""Registers the device type ``vmgenid``."""

from __future__ import annotations

from asyncvmm.plugin import DeviceType, hookimpl
from asyncvmm_plugins.vmgenid.config import VmGenIdConfig
from asyncvmm_plugins.vmgenid.device import VmGenId


@hookimpl
def asyncvmm_device_types() -> list[DeviceType]:
    """See the hook specification."""
    return [
        DeviceType(
            name="vmgenid",
            summary="tells a guest that it goes on as a copy",
            config=VmGenIdConfig,
            factory=VmGenId,
            kind="mmio",
            compatible=("microsoft,vmgenid",),
            node_name="vmgenid",
        )
    ]
