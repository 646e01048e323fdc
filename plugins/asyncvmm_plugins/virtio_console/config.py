"""Options of virtio-console."""

from __future__ import annotations

from typing import Any, Literal

import attrs

MAX_PORTS = 31


def _are_names(config: Any, attribute: Any, value: tuple[str, ...]) -> None:
    if len(value) > MAX_PORTS:
        raise ValueError(f"ports: at most {MAX_PORTS} are allowed")
    for name in value:
        if not 0 < len(name.encode()) <= 64 or "/" in name or not name.isprintable():
            raise ValueError(f"ports: {name!r} is not a name of 1 to 64 bytes without '/'")
    if len(set(value)) != len(value):
        raise ValueError("ports: a name is given twice")


@attrs.frozen
class VirtioConsoleConfig:
    """Port 0 is the console; ``ports`` are further ones (/dev/virtio-ports/NAME in Linux).

    ``resize`` is the order of the two numbers in the RESIZE message: columns first as virtio 1.2
    (5.3.6.2) says, or rows first as Linux read them before 6.14.
    """

    ports: tuple[str, ...] = attrs.field(default=(), validator=_are_names)
    resize: Literal["spec", "rows-first"] = "spec"
