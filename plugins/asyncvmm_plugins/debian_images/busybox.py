"""What a busybox binary can do, read from the binary, because it cannot be run here."""

from __future__ import annotations

import re
from typing import Final

from asyncvmm.plugin.images import BuildError

FIRST_APPLETS: Final = re.compile(rb"\[\0\[\[\0(?=[a-z])")
MAX_APPLETS: Final = 1000


def applets(binary: bytes) -> list[str]:
    """The names of its applets: a sorted table of strings that begins with ``[`` and ``[[`` and ends
    with an empty one. Raises `BuildError` if there is no such table."""
    first = FIRST_APPLETS.search(binary)
    end = binary.find(b"\0\0", first.end()) if first is not None else -1
    if first is None or end < 0:
        raise BuildError("this busybox binary has no table of applets that can be read")
    names = binary[first.start() : end].decode("ascii", "replace").split("\0")
    if len(names) > MAX_APPLETS or names != sorted(names) or "sh" not in names:
        raise BuildError("this busybox binary's table of applets makes no sense")
    return names
