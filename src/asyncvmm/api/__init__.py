"""What a user imports: hosts, guests, their configuration, consoles, commands and errors."""

from asyncvmm.api import disks
from asyncvmm.api.folder import VmFolder, create_vm, open_folder
from asyncvmm.api.images import find_image, image_config, image_types
from asyncvmm.api.profile import Profile, Profiler, read_kernel_symbols
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
from asyncvmm.firmware.symbols import SymbolTable, read_symbols
from asyncvmm.machine import EngineStats, GuestConfig, SnapshotError
from asyncvmm.network import LinkShape, Network, NetworkConfig
from asyncvmm.runtime.balloon import BalloonShortError
from asyncvmm.runtime.commands import CommandFailedError, CompletedCommand
from asyncvmm.runtime.connections import ConnectFailedError, GuestStream
from asyncvmm.runtime.console import Console
from asyncvmm.runtime.edge import Forward
from asyncvmm.runtime.guest import Guest, GuestExit, GuestStats
from asyncvmm.runtime.host import Host, open_host
from asyncvmm.runtime.host_snapshots import HostSnapshot
from asyncvmm.runtime.journal_file import JournalError
from asyncvmm.runtime.ports import GuestEndedError
from asyncvmm.runtime.replay import Compared, Replay, open_replay
from asyncvmm.runtime.scenario import Scenario, load_scenario
from asyncvmm.runtime.snapshots import Snapshot
from asyncvmm.runtime.vsock import GuestListener

__all__ = [
    "AsyncvmmError",
    "BackendError",
    "BalloonShortError",
    "CommandFailedError",
    "Compared",
    "CompletedCommand",
    "ConfigError",
    "ConnectFailedError",
    "Console",
    "DmaError",
    "EngineStats",
    "Forward",
    "Guest",
    "GuestConfig",
    "GuestEndedError",
    "GuestError",
    "GuestExit",
    "GuestStats",
    "GuestListener",
    "GuestStream",
    "Host",
    "HostSnapshot",
    "InternalError",
    "JournalError",
    "Profile",
    "Profiler",
    "LinkShape",
    "Network",
    "NetworkConfig",
    "Replay",
    "Scenario",
    "ScenarioObserver",
    "ScenarioResult",
    "Snapshot",
    "SnapshotError",
    "SymbolTable",
    "Verdict",
    "VmFolder",
    "create_vm",
    "disks",
    "find_image",
    "image_config",
    "image_types",
    "load_scenario",
    "open_folder",
    "open_host",
    "open_replay",
    "read_kernel_symbols",
    "read_symbols",
    "run_scenario",
    "verify_scenario",
]
