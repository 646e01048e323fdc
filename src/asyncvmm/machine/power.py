"""How a guest ends: the one place where all the ways to switch it off meet."""

from __future__ import annotations

from typing import Literal

import attrs

from asyncvmm.device import Power
from asyncvmm.firmware.htif import HtifExit
from asyncvmm.firmware.sbi import SystemReset
from asyncvmm.firmware.sbi_abi import REASON_SYSTEM_FAILURE, RESET_SHUTDOWN
from asyncvmm.machine.scheduler import Scheduler


@attrs.frozen
class Ending:
    """Why a machine stopped: it powered off (``code`` 0 is success), or it wants to reboot."""

    kind: Literal["poweroff", "reboot"]
    code: int
    by: str


class PowerSwitch:
    """Keeps the first ending that the guest asked for and stops its harts."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.ending: Ending | None = None

    def end(self, kind: Literal["poweroff", "reboot"], code: int, by: str) -> None:
        """Stop after the current instruction."""
        if self.ending is None:
            self.ending = Ending(kind, code, by)
        self.scheduler.request_stop()


class DevicePower(Power):
    """The power capability of one device."""

    def __init__(self, switch: PowerSwitch, path: str) -> None:
        super().__init__()
        self._switch = switch
        self._path = path

    def poweroff(self, code: int) -> None:
        """See Power."""
        self._switch.end("poweroff", code, self._path)

    def reboot(self) -> None:
        """See Power."""
        self._switch.end("reboot", 0, self._path)


class SbiReset(SystemReset):
    """SRST of the built-in SBI."""

    def __init__(self, switch: PowerSwitch) -> None:
        self._switch = switch

    def system_reset(self, reset_type: int, reason: int) -> None:
        """See SystemReset: a shutdown for system failure has code 1."""
        if reset_type == RESET_SHUTDOWN:
            self._switch.end("poweroff", 1 if reason == REASON_SYSTEM_FAILURE else 0, "sbi")
        else:
            self._switch.end("reboot", 0, "sbi")


class ProgramExit(HtifExit):
    """The exit of a bare-metal program through HTIF."""

    def __init__(self, switch: PowerSwitch) -> None:
        self._switch = switch

    def htif_exit(self, code: int) -> None:
        """See HtifExit."""
        self._switch.end("poweroff", code, "htif")
