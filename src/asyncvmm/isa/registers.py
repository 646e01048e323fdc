"""Register and mode names as assembly spells them (the psABI's names)."""

from __future__ import annotations

from typing import Final

X_NAMES: Final = (
    "zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2",
    "s0", "s1", "a0", "a1", "a2", "a3", "a4", "a5",
    "a6", "a7", "s2", "s3", "s4", "s5", "s6", "s7",
    "s8", "s9", "s10", "s11", "t3", "t4", "t5", "t6",
)  # fmt: skip
"""ABI names of x0 to x31."""

F_NAMES: Final = (
    "ft0", "ft1", "ft2", "ft3", "ft4", "ft5", "ft6", "ft7",
    "fs0", "fs1", "fa0", "fa1", "fa2", "fa3", "fa4", "fa5",
    "fa6", "fa7", "fs2", "fs3", "fs4", "fs5", "fs6", "fs7",
    "fs8", "fs9", "fs10", "fs11", "ft8", "ft9", "ft10", "ft11",
)  # fmt: skip
"""ABI names of f0 to f31."""

ROUNDING_MODES: Final = ("rne", "rtz", "rdn", "rup", "rmm", "5", "6", "dyn")
"""Names of the rm field's values."""

X_NUMBERS: Final[dict[str, int]] = {
    **{name: number for number, name in enumerate(X_NAMES)},
    **{f"x{number}": number for number in range(32)},
    "fp": 8,
}
"""Every spelling of an integer register."""

F_NUMBERS: Final[dict[str, int]] = {
    **{name: number for number, name in enumerate(F_NAMES)},
    **{f"f{number}": number for number in range(32)},
}
"""Every spelling of a floating-point register."""

FENCE_LETTERS: Final = "iorw"
"""The letters of a fence's sets, from bit 3 down to bit 0."""
