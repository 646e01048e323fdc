"""Registers the device type ``virtio-net``."""

from __future__ import annotations

from asyncvmm.network.ethernet import parse_mac
from asyncvmm.plugin import DeviceType, NetSpec, hookimpl
from asyncvmm_plugins.virtio_net.config import VirtioNetConfig
from asyncvmm_plugins.virtio_net.device import VirtioNet


def _net(config: VirtioNetConfig) -> NetSpec:
    return NetSpec(config.network, parse_mac(config.mac) if config.mac else None)


@hookimpl
def asyncvmm_device_types() -> list[DeviceType]:
    """See the hook specification."""
    return [
        DeviceType(
            name="virtio-net",
            summary="network card",
            config=VirtioNetConfig,
            factory=VirtioNet,
            kind="virtio",
            net=_net,
        )
    ]
