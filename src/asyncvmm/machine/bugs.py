"""A device's bug in one line, for the one who wrote the device."""

from __future__ import annotations

import traceback
from pathlib import PurePath


def bug_text(error: Exception) -> str:
    """What was raised and where: a file's name and line, which are the same on every machine."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" ({PurePath(last[0].filename).name}:{last[0].lineno})" if last else ""
    return f"{type(error).__name__}: {error}{place}"
