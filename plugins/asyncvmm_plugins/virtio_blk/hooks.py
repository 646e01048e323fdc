"""Registers the device type ``virtio-blk``."""

from __future__ import annotations

from asyncvmm.plugin import BlobSpec, DeviceType, hookimpl
from asyncvmm_plugins.virtio_blk.config import VirtioBlkConfig
from asyncvmm_plugins.virtio_blk.device import VirtioBlk


def _blob(config: VirtioBlkConfig) -> BlobSpec:
    return BlobSpec(config.path, config.readonly, config.format, config.snapshot)


@hookimpl
def asyncvmm_device_types() -> list[DeviceType]:
    """See the hook specification."""
    return [
        DeviceType(
            name="virtio-blk",
            summary="disk on a raw or qcow2 image",
            config=VirtioBlkConfig,
            factory=VirtioBlk,
            kind="virtio",
            blob=_blob,
        )
    ]
