"""Registers the device type ``test-finisher``."""

from __future__ import annotations

from asyncvmm.plugin import DeviceType, hookimpl
from asyncvmm_plugins.test_finisher.config import TestFinisherConfig
from asyncvmm_plugins.test_finisher.device import TestFinisher


@hookimpl
def asyncvmm_device_types() -> list[DeviceType]:
    """See the hook specification."""
    return [
        DeviceType(
            name="test-finisher",
            summary="power off, fail with a code, or reset, by a store",
            config=TestFinisherConfig,
            factory=TestFinisher,
            kind="mmio",
            compatible=("sifive,test1", "sifive,test0", "syscon"),
            node_name="test",
        )
    ]
