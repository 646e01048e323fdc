"""Numbers of the RISC-V Supervisor Binary Interface, version 2.0."""

from __future__ import annotations

from typing import Final

# Chapter 3.1: error codes.
SUCCESS: Final = 0
ERR_FAILED: Final = -1
ERR_NOT_SUPPORTED: Final = -2
ERR_INVALID_PARAM: Final = -3
ERR_DENIED: Final = -4
ERR_INVALID_ADDRESS: Final = -5
ERR_ALREADY_AVAILABLE: Final = -6
ERR_ALREADY_STARTED: Final = -7
ERR_ALREADY_STOPPED: Final = -8

# Extension identifiers.
EXT_LEGACY_SET_TIMER: Final = 0x00
EXT_LEGACY_PUTCHAR: Final = 0x01
EXT_LEGACY_GETCHAR: Final = 0x02
EXT_LEGACY_CLEAR_IPI: Final = 0x03
EXT_LEGACY_SHUTDOWN: Final = 0x08
EXT_BASE: Final = 0x10
EXT_TIME: Final = 0x54494D45
EXT_IPI: Final = 0x735049
EXT_RFENCE: Final = 0x52464E43
EXT_HSM: Final = 0x48534D
EXT_SRST: Final = 0x53525354
EXT_DBCN: Final = 0x4442434E
EXT_STA: Final = 0x535441

SPEC_VERSION: Final = 0x02000000
IMPLEMENTATION_ID: Final = 0x41564D  # "AVM": not one of the registered small numbers
IMPLEMENTATION_VERSION: Final = 0x000100

# Chapter 9.1: hart states.
HSM_STARTED: Final = 0
HSM_STOPPED: Final = 1
HSM_SUSPENDED: Final = 4
SUSPEND_RETENTIVE: Final = 0x00000000
SUSPEND_NON_RETENTIVE: Final = 0x80000000

# Chapter 10: system reset types and reasons.
RESET_SHUTDOWN: Final = 0
RESET_COLD_REBOOT: Final = 1
RESET_WARM_REBOOT: Final = 2
REASON_NONE: Final = 0
REASON_SYSTEM_FAILURE: Final = 1
