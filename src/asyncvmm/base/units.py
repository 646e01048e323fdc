"""Units: sizes in bytes, times in nanoseconds of virtual time."""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * 1024
GIB: Final = 1024 * 1024 * 1024
US: Final = 1_000
MS: Final = 1_000_000
SECOND: Final = 1_000_000_000

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 4096
PAGE_WORDS: Final = 512
