"""What is refused of a TOML text before anybody looks at it: what costs much more than its length.

Parsers take time in the square of the parts of a dotted key (16,000 of them took 4 s), and what is nested
deeply cannot even be shown.
"""

from __future__ import annotations

import re
from typing import Any, Final

from asyncvmm.base.errors import ConfigError

MAX_PARTS: Final = 32  # of a key
MAX_DEPTH: Final = 16

_PART: Final = r"""(?:"[^"\n]*"|'[^'\n]*'|[\w-]+)[ \t]*\.[ \t]*"""
_LONG_KEY: Final = re.compile(rf"(?<![\w-])(?:{_PART}){{{MAX_PARTS}}}")


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
