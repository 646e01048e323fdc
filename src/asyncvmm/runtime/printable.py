"""What guests, plugins and strangers' files say, as a terminal may show it."""

from __future__ import annotations

from typing import Final

KEPT: Final = "\n\t"  # in messages of several lines


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
