"""What guests, plugins and strangers' files say, in messages: short, and as a terminal may show it."""

from __future__ import annotations

import reprlib
from typing import Any, Final

KEPT: Final = "\n\t"  # in messages of several lines
MAX_SHOWN: Final = 60
MAX_ERROR: Final = 600

_SHORT: Final = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = MAX_SHOWN
_SHORT.maxlevel = 3


def shown(value: Any) -> str:
    """A value, as Python would write it, as far as it is short."""
    text = _SHORT.repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def shortened(text: str) -> str:
    """A message that has somebody's value in it, of a bounded length, and such as can be encoded."""
    text = text if len(text) <= MAX_ERROR else f"{text[:MAX_ERROR]}..."
    return text.encode(errors="backslashreplace").decode()


def printable(text: str, keep: str = "") -> str:
    """``text`` with escapes for what moves cursors, changes colours or cannot be encoded.

    ``keep`` are characters that stay: line ends, in texts of several lines.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in keep else each.encode("unicode_escape").decode()
        for each in text
    )
