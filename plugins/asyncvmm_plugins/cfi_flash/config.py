"""Options of the flash."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import attrs


@attrs.frozen
class CfiFlashConfig:
    """A flash that holds the image at ``path`` (up to 32 MiB; what it lacks is erased).

    What the guest programs is written to the image, unless it is ``readonly`` (the chips are then write
    protected) or a ``snapshot`` (what is written is thrown away). ``format`` is qcow2 for files named so
    and else raw; ``nvram`` is the flash part in the NVRAM of a machine's folder.
    """

    path: Path
    readonly: bool = False
    snapshot: bool = False
    format: Literal["raw", "qcow2", "nvram"] | None = None
