"""Where in a TOML file a key is: parsers keep no lines, and errors should name them."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any, Final

MAX_PARSES: Final = 200


def line_of(text: str, path: Sequence[str]) -> int | None:
    """The line, from 1, at which the statement begins that first gives ``path`` in a valid text.

    Found by parsing beginnings of the text; None when that takes more than a few hundred of them (in the
    middle of huge values no beginning is valid).
    """
    lines = text.split("\n")
    low, high = 0, len(lines)  # the first ``low`` lines lack it, the first ``high`` have it
    parses = 0
    while high - low > 1:
        middle = (low + high) // 2
        for count in (*range(middle, high), *range(middle - 1, low, -1)):
            parses += 1
            if parses > MAX_PARSES:
                return None
            document = _parsed("\n".join(lines[:count]))
            if document is None:
                continue  # the middle of a statement
            if _has(document, path):
                high = count
            else:
                low = count
            break
        else:
            break  # one statement of several lines
    return low + 1


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        return None


def _has(document: Any, path: Sequence[str]) -> bool:
    at = document
    for key in path:
        if not isinstance(at, dict) or key not in at:
            return False
        at = at[key]
    return True
