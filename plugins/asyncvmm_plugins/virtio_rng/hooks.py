"""Registers the device type ``virtio-rng``."""

from __future__ import annotations

from asyncvmm.plugin import DeviceType, hookimpl
from asyncvmm_plugins.virtio_rng.config import VirtioRngConfig
from asyncvmm_plugins.virtio_rng.device import VirtioRng


@hookimpl
def asyncvmm_device_types() -> list[DeviceType]:
    """See the hook specification."""
    return [
        DeviceType(
            name="virtio-rng",
            summary="entropy, reproducible from the machine's seed",
            config=VirtioRngConfig,
            factory=VirtioRng,
            kind="virtio",
        )
    ]
