"""The SBI console on a character port of the host."""

from __future__ import annotations

from mypy_extensions import i64

from asyncvmm.device.charport import CharPort
from asyncvmm.firmware.sbi import SbiConsole


class PortConsole(SbiConsole):
    """DBCN and the legacy calls share ``port`` with whatever device uses it too."""

    def __init__(self, port: CharPort) -> None:
        self.port: CharPort = port

    def write(self, data: bytes) -> i64:
        """See SbiConsole: fewer bytes are taken when nobody empties the port."""
        return self.port.transmit(data)

    def read(self, limit: i64) -> bytes:
        """See SbiConsole."""
        return self.port.receive(int(limit))
