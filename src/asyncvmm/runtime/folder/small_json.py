"""Small files of a machine's folder that hold one JSON value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from asyncvmm.base.errors import ConfigError


def read_json(path: Path, max_bytes: int, error_type: type[ConfigError]) -> Any:
    """The value in a file of at most ``max_bytes``; ``error_type`` names the file and the cause.

    FileNotFoundError is the caller's: what it means that there is no file differs.
    """
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise error_type(f"{path}: cannot be read: {error.strerror}") from error
    if len(data) > max_bytes:
        raise error_type(f"{path}: is longer than {max_bytes} bytes")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise error_type(f"{path}: is not JSON: {error}") from error
