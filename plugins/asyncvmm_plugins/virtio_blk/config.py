"""Options of virtio-blk."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import attrs
from attrs.validators import in_


def _is_serial(config: Any, attribute: Any, value: str) -> None:
    if len(value) > 20 or not value.isascii() or not (value.isprintable() or value == ""):
        raise ValueError(f"serial={value}: at most 20 printable ASCII characters are allowed")


@attrs.frozen
class VirtioBlkConfig:
    """An image at ``path``; ``serial`` is what the guest sees in /sys/block/*/serial.

    ``format`` is qcow2 for files named so and else raw. With ``snapshot`` writes are thrown away.
    """

    path: Path
    readonly: bool = False
    serial: str = attrs.field(default="", validator=_is_serial)
    block_size: int = attrs.field(default=512, validator=in_((512, 1024, 2048, 4096)))
    queue_size: int = attrs.field(default=256, validator=in_((16, 32, 64, 128, 256, 512, 1024)))
    snapshot: bool = False
    format: Literal["raw", "qcow2"] | None = None
