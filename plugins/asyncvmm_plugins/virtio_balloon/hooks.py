"""Registers the device type ``virtio-balloon``."""

from __future__ import annotations

from asyncvmm.plugin import DeviceType, hookimpl
from asyncvmm_plugins.virtio_balloon.config import VirtioBalloonConfig
from asyncvmm_plugins.virtio_balloon.device import VirtioBalloon


@hookimpl
def asyncvmm_device_types() -> list[DeviceType]:
    """See the hook specification."""
    return [
        DeviceType(
            name="virtio-balloon",
            summary="memory that the guest gives back (guest.balloon)",
            config=VirtioBalloonConfig,
            factory=VirtioBalloon,
            kind="virtio",
        )
    ]
