"""What a user imports: hosts, guests, their configuration, consoles, commands and errors."""

from asyncvmm.api.images import find_image, image_config, image_types
from asyncvmm.api.scenarios import ScenarioObserver, ScenarioResult, run_scenario
from asyncvmm.api.verify import Verdict, verify_scenario
from asyncvmm.base.errors import (
    AsyncvmmError,
    BackendError,
    ConfigError,
    DmaError,
    GuestError,
    InternalError,
)
from asyncvmm.machine import GuestConfig
from asyncvmm.network import LinkShape, Network, NetworkConfig
from asyncvmm.runtime.commands import CommandFailedError, CompletedCommand
from asyncvmm.runtime.connections import ConnectFailedError, GuestStream
from asyncvmm.runtime.console import Console
from asyncvmm.runtime.edge import Forward
from asyncvmm.runtime.guest import Guest, GuestExit, GuestStats
from asyncvmm.runtime.host import Host, open_host
from asyncvmm.runtime.ports import GuestEndedError
from asyncvmm.runtime.scenario import Scenario, load_scenario

__all__ = [
    "AsyncvmmError",
    "BackendError",
    "CommandFailedError",
    "CompletedCommand",
    "ConfigError",
    "ConnectFailedError",
    "Console",
    "DmaError",
    "Forward",
    "Guest",
    "GuestConfig",
    "GuestEndedError",
    "GuestError",
    "GuestExit",
    "GuestStats",
    "GuestStream",
    "Host",
    "InternalError",
    "LinkShape",
    "Network",
    "NetworkConfig",
    "Scenario",
    "ScenarioObserver",
    "ScenarioResult",
    "Verdict",
    "find_image",
    "image_config",
    "image_types",
    "load_scenario",
    "open_host",
    "run_scenario",
    "verify_scenario",
]
