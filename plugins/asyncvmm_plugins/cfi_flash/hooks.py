"""Registers the device type ``cfi-flash``."""

from __future__ import annotations

from asyncvmm.plugin import BlobSpec, DeviceType, hookimpl
from asyncvmm_plugins.cfi_flash.config import CfiFlashConfig
from asyncvmm_plugins.cfi_flash.device import SIZE_BYTES, CfiFlash


def _blob(config: CfiFlashConfig) -> BlobSpec:
    return BlobSpec(config.path, config.readonly, config.format, config.snapshot)


@hookimpl
def asyncvmm_device_types() -> list[DeviceType]:
    """See the hook specification."""
    return [
        DeviceType(
            name="cfi-flash",
            summary="32 MiB of NOR flash (CFI, Intel's command set) that firmware runs from",
            config=CfiFlashConfig,
            factory=CfiFlash,
            kind="mmio",
            size_bytes=SIZE_BYTES,
            compatible=("cfi-flash",),
            node_name="flash",
            fdt_properties=lambda config: {"bank-width": 4},
            blob=_blob,
            window=True,
        )
    ]
