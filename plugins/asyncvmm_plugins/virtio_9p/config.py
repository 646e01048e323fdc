"""Options of virtio-9p."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs
from attrs.validators import and_, ge, le, matches_re

# A snapshot keeps the overlay in its manifest.
MAX_OVERLAY: Final = 32 << 20


@attrs.frozen
class Virtio9pConfig:
    """The folder at ``path``, mounted as ``tag``. With ``cow`` the guest may write: what it writes, at
    most ``overlay`` bytes, is its own and gone with it. ``limit`` bounds the folder's contents in bytes,
    which are all read once at the start. A message has at most ``msize`` bytes.
    """

    path: Path
    tag: str = attrs.field(default="share", validator=matches_re(r"[\w.-]{1,31}"))
    cow: bool = False
    overlay: int = attrs.field(default=16 << 20, validator=and_(ge(0), le(MAX_OVERLAY)))
    limit: int = attrs.field(default=4 << 30, validator=ge(0))
    msize: int = attrs.field(default=512 << 10, validator=and_(ge(4096), le(1 << 20)))
