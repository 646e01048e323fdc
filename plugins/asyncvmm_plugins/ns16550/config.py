"""Options of the 16550A."""

from __future__ import annotations

import attrs
from attrs.validators import ge, in_


@attrs.frozen
class Ns16550Config:
    """``clock_hz`` feeds the baud rate divisor; registers are ``1 << register_shift`` bytes
    apart.
    """

    clock_hz: int = attrs.field(default=3_686_400, validator=ge(1))
    register_shift: int = attrs.field(default=0, validator=in_((0, 1, 2)))
