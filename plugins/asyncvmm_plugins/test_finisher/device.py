"""The test finisher of SiFive's cores (``sifive,test0``; ``sifive,test1`` adds the reset)."""

from __future__ import annotations

from typing import Final

from asyncvmm.device import UNKNOWN_IS_ZERO, WO, DeviceIo, MmioDevice, Register
from asyncvmm_plugins.test_finisher.config import TestFinisherConfig

FAIL: Final = 0x3333
PASS: Final = 0x5555
RESET: Final = 0x7777


class TestFinisher(MmioDevice):
    """One register: the low half says what to do, the high half is the exit code of a failure.

    It has no state: what was asked for is the machine's business.
    """

    __test__ = False

    def __init__(self, config: TestFinisherConfig, io: DeviceIo) -> None:
        super().__init__(io, [Register("finish", 0, 4, WO)], 0x1000, UNKNOWN_IS_ZERO)

    def write_finish(self, value: int) -> None:
        """Act on the low half; values that mean nothing are ignored."""
        action, code = value & 0xFFFF, value >> 16
        if action == PASS:
            self.io.power.poweroff(0)
        elif action == FAIL:
            self.io.power.poweroff(code)
        elif action == RESET:
            self.io.power.reboot()
        else:
            self.io.log(f"store of {value:#x} to the test finisher means nothing")
