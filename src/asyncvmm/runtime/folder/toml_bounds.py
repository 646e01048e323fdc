"""What is refused of a TOML text before anybody looks at it: what costs much more than its length.

Parsers take time in the square of the parts of a dotted key (16,000 of them took 4 s), and what is nested
deeply cannot even be shown.
"""

from __future__ import annotations

import re
import reprlib
from typing import Any, Final

from asyncvmm.base.errors import ConfigError

MAX_PARTS: Final = 32  # of a key
MAX_DEPTH: Final = 16
MAX_SHOWN: Final = 60
MAX_ERROR: Final = 600

_PART: Final = r"""(?:"[^"\n]*"|'[^'\n]*'|[\w-]+)[ \t]*\.[ \t]*"""
_LONG_KEY: Final = re.compile(rf"(?<![\w-])(?:{_PART}){{{MAX_PARTS}}}")
_SHORT: Final = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = MAX_SHOWN
_SHORT.maxlevel = 3


def check_text(text: str) -> None:
    """ConfigError, with the line, for a key of more than ``MAX_PARTS`` parts."""
    found = _LONG_KEY.search(text)
    if found is not None:
        line = text.count("\n", 0, found.start()) + 1
        raise ConfigError(f"line {line}: a key of more than {MAX_PARTS} parts")


def check_value(value: Any) -> None:
    """ConfigError for what is nested deeper than ``MAX_DEPTH``, or a number of more than 64 bits."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner += each.values()
            elif isinstance(each, list):
                inner += each
            elif isinstance(each, int) and not -(1 << 63) <= each < 1 << 64:
                raise ConfigError("a number of more than 64 bits")
        level = inner
    if level:
        raise ConfigError(f"is nested more than {MAX_DEPTH} deep")


def shown(value: Any) -> str:
    """A value for a message: short, whatever it is."""
    text = _SHORT.repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def shortened(text: str) -> str:
    """A message that has somebody's value in it, of a bounded length."""
    return text if len(text) <= MAX_ERROR else f"{text[:MAX_ERROR]}..."
