"""Registers the device type ``virtio-9p``."""

from __future__ import annotations

from asyncvmm.plugin import DeviceType, FolderSpec, hookimpl
from asyncvmm_plugins.virtio_9p.config import Virtio9pConfig
from asyncvmm_plugins.virtio_9p.device import Virtio9p


def _folder(config: Virtio9pConfig) -> FolderSpec:
    return FolderSpec(config.path, config.limit)


@hookimpl
def asyncvmm_device_types() -> list[DeviceType]:
    """See the hook specification."""
    return [
        DeviceType(
            name="virtio-9p",
            summary="folder of the host, read-only or copy-on-write",
            config=Virtio9pConfig,
            factory=Virtio9p,
            kind="virtio",
            folder=_folder,
        )
    ]
