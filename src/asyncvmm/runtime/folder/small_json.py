"""Small files of a machine's folder that hold one JSON value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from asyncvmm.base.errors import ConfigError
from asyncvmm.storage.bounded import read_bounded


def read_json(path: Path, max_bytes: int, error_type: type[ConfigError]) -> Any:
    """The value in a file of at most ``max_bytes``; ``error_type`` names the file and the cause.

    FileNotFoundError is the caller's: what it means that there is no file differs.
    """
    data = read_bounded(path, max_bytes, error_type)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise error_type(f"{path}: is not JSON: {error}") from error


def read_object(path: Path, max_bytes: int, error_type: type[ConfigError]) -> dict[str, Any]:
    """As ``read_json`` for an object; also a file that is not there is ``error_type``."""
    try:
        values = read_json(path, max_bytes, error_type)
    except FileNotFoundError as error:
        raise error_type(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(values, dict):
        raise error_type(f"{path}: is no JSON object")
    return values
