"""Registers the device type ``virtio-vsock``."""

from __future__ import annotations

from asyncvmm.plugin import DeviceType, hookimpl
from asyncvmm_plugins.virtio_vsock.config import VirtioVsockConfig
from asyncvmm_plugins.virtio_vsock.device import VirtioVsock


@hookimpl
def asyncvmm_device_types() -> list[DeviceType]:
    """See the hook specification."""
    return [
        DeviceType(
            name="virtio-vsock",
            summary="sockets between the guest and Python (guest.vsock)",
            config=VirtioVsockConfig,
            factory=VirtioVsock,
            kind="virtio",
        )
    ]
