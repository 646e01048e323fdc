"""GuestConfig -> Machine: board, boot, devices, the harts' scheduler. Nothing here awaits.

Reading order: ``config.py`` (what a user can ask for), ``board.py`` (where things are),
``devices.py`` and ``device_tree.py`` (putting them there, and telling the guest), ``boot.py``
(loading and entering its software), ``scheduler.py`` (whose turn it is in virtual time),
``machine.py`` (all of it together), ``roster.py`` (all guests of a host).
"""

from asyncvmm.machine.config import GuestConfig, parse_size
from asyncvmm.machine.engine_stats import EngineStats
from asyncvmm.machine.files import BootFile, BootFileReader, BootFiles, read_boot_files
from asyncvmm.machine.machine import Machine, Stats
from asyncvmm.machine.power import Ending
from asyncvmm.machine.roster import ASLEEP, AWAKE, GRANTED, Roster, Seat
from asyncvmm.machine.scheduler import (
    RAN_ASLEEP,
    RAN_HALT,
    RAN_IDLE,
    RAN_PAUSE,
    RAN_STEPS,
    RAN_STOP,
    RAN_TIME,
    UNLIMITED,
    Scheduler,
)
from asyncvmm.machine.snapshot import MachineState, SnapshotError

__all__ = [
    "RAN_ASLEEP",
    "ASLEEP",
    "AWAKE",
    "GRANTED",
    "RAN_HALT",
    "RAN_IDLE",
    "RAN_PAUSE",
    "RAN_STEPS",
    "RAN_STOP",
    "EngineStats",
    "RAN_TIME",
    "UNLIMITED",
    "BootFile",
    "BootFileReader",
    "BootFiles",
    "Ending",
    "GuestConfig",
    "Machine",
    "MachineState",
    "SnapshotError",
    "Roster",
    "Scheduler",
    "Seat",
    "Stats",
    "parse_size",
    "read_boot_files",
]
