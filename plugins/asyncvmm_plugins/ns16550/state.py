"""What a snapshot keeps of a 16550A."""

from __future__ import annotations

from typing import ClassVar

import attrs
from attrs.validators import and_, ge, le, max_len

from asyncvmm.plugin import DeviceState

_BYTE = and_(ge(0), le(0xFF))


@attrs.frozen
class Ns16550State(DeviceState):
    """All registers, both FIFOs, and how far the receive timeout has come (ns left, -1 for
    none).
    """

    version: ClassVar[int] = 1

    ier: int = attrs.field(validator=and_(ge(0), le(0x0F)))
    fcr: int = attrs.field(validator=_BYTE)
    lcr: int = attrs.field(validator=_BYTE)
    mcr: int = attrs.field(validator=and_(ge(0), le(0x1F)))
    lsr_errors: int = attrs.field(validator=_BYTE)
    msr_deltas: int = attrs.field(validator=and_(ge(0), le(0x0F)))
    msr_lines: int = attrs.field(validator=_BYTE)
    scratch: int = attrs.field(validator=_BYTE)
    divisor: int = attrs.field(validator=and_(ge(0), le(0xFFFF)))
    thre_pending: bool
    timed_out: bool
    timeout_left_ns: int = attrs.field(validator=ge(-1))
    receive_fifo: bytes = attrs.field(validator=max_len(16))
    transmit_fifo: bytes = attrs.field(validator=max_len(16))
