"""fcsr: the accrued exception flags and the dynamic rounding mode."""

from __future__ import annotations

from mypy_extensions import i64


class FloatStatus:
    """``flags``: fflags (NX 1, UF 2, OF 4, DZ 8, NV 16); ``frm``: dynamic rounding mode (0..7)."""

    def __init__(self) -> None:
        self.flags: i64 = 0
        self.frm: i64 = 0
