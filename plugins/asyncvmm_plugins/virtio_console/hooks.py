"""Registers the device type ``virtio-console``."""

from __future__ import annotations

from asyncvmm.plugin import DeviceType, hookimpl
from asyncvmm_plugins.virtio_console.config import VirtioConsoleConfig
from asyncvmm_plugins.virtio_console.device import VirtioConsole


def _ports(config: VirtioConsoleConfig) -> tuple[str, ...]:
    return config.ports


@hookimpl
def asyncvmm_device_types() -> list[DeviceType]:
    """See the hook specification."""
    return [
        DeviceType(
            name="virtio-console",
            summary="console with window size, and named byte streams",
            config=VirtioConsoleConfig,
            factory=VirtioConsole,
            kind="virtio",
            ports=_ports,
        )
    ]
