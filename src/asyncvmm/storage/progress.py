"""How long operations on images tell how far they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all); what it raises ends the operation at a safe place."""

PIECE_BYTES: Final = 2 << 20
_ZEROS: Final = bytes(PIECE_BYTES)


def silent(done: int, total: int) -> None:
    """Tells nobody."""


def is_zero(data: bytes | memoryview) -> bool:
    """Whether all bytes of at most 2 MiB are zero."""
    return data == memoryview(_ZEROS)[: len(data)]
