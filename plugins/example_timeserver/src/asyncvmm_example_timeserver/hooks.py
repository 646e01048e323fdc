"""Registers the network backend ``example-timeserver``."""

from __future__ import annotations

from asyncvmm.plugin import NetworkBackendType, hookimpl
from asyncvmm_example_timeserver.backend import TimeServer
from asyncvmm_example_timeserver.config import TimeServerConfig

TIME_SERVER = NetworkBackendType(
    name="example-timeserver",
    summary="SNTP server in virtual time (an example)",
    config=TimeServerConfig,
    factory=TimeServer,
    api_version=1,
)


@hookimpl
def asyncvmm_network_backends() -> list[NetworkBackendType]:
    """See the hook specification."""
    return [TIME_SERVER]
