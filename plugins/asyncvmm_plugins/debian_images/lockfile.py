"""The lock file: which package files the images were last made and tested with."""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from typing import Final

from attrs import frozen

from asyncvmm.base.errors import ConfigError

NAME: Final = "images.lock.toml"


@frozen
class Pin:
    """One package file: exactly this version, size and hash, from ``suite`` for ``architecture``."""

    package: str
    suite: str
    architecture: str
    version: str
    size_bytes: int
    sha256: str


class LockFile:
    """Pins by (package, suite)."""

    def __init__(self, pins: list[Pin]) -> None:
        self.pins = {(pin.package, pin.suite): pin for pin in pins}

    def find(self, package: str, suite: str) -> Pin | None:
        """The pin of a package in a suite, if it has one."""
        return self.pins.get((package, suite))


def parse(text: str) -> LockFile:
    """A lock file's pins. Raises `ConfigError` that names what is wrong."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{NAME}: {error}") from error
    if raw.get("format") != 1 or set(raw) - {"format", "package"}:
        raise ConfigError(f"{NAME}: not a lock file of format 1")
    return LockFile([_pin(number, item) for number, item in enumerate(raw.get("package", []), 1)])


def load() -> LockFile:
    """The lock file that is shipped beside this module."""
    return parse(resources.files(__package__).joinpath(NAME).read_text("utf-8"))


def dump(pins: list[Pin]) -> str:
    """The text of a lock file with ``pins``."""
    lines = [
        "# Package files that the images are made from. Written by `python -m "
        "asyncvmm_plugins.debian_images.relock`.",
        "format = 1",
    ]
    for pin in sorted(pins, key=lambda pin: (pin.suite, pin.package)):
        lines += [
            "",
            "[[package]]",
            f'package = "{pin.package}"',
            f'suite = "{pin.suite}"',
            f'architecture = "{pin.architecture}"',
            f'version = "{pin.version}"',
            f"size_bytes = {pin.size_bytes}",
            f'sha256 = "{pin.sha256}"',
        ]
    return "\n".join(lines) + "\n"


def _pin(number: int, item: object) -> Pin:
    texts = {
        "package": r"[a-z0-9][a-z0-9+.\-]+",
        "suite": r"[a-z][a-z0-9\-]*",
        "architecture": r"[a-z0-9\-]+",
        "version": r"[0-9A-Za-z.+:~\-]+",
        "sha256": r"[0-9a-f]{64}",
    }
    if not isinstance(item, dict) or set(item) != {*texts, "size_bytes"}:
        raise ConfigError(f"{NAME}: package {number} must have {', '.join(texts)} and size_bytes")
    for key, pattern in texts.items():
        if not isinstance(item[key], str) or re.fullmatch(pattern, item[key]) is None:
            raise ConfigError(f"{NAME}: package {number}: {key} = {item[key]!r} is not valid")
    size = item["size_bytes"]
    if not isinstance(size, int) or isinstance(size, bool) or size <= 0:
        raise ConfigError(f"{NAME}: package {number}: size_bytes = {size!r} is not valid")
    return Pin(
        item["package"], item["suite"], item["architecture"], item["version"], size, item["sha256"]
    )
