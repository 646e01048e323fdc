"""Options of virtio-vsock."""

from __future__ import annotations

import attrs
from attrs.validators import and_, ge, le


@attrs.frozen
class VirtioVsockConfig:
    """``cid`` is the guest's address; the host's is 2. Guests reach their host only, never each other."""

    cid: int = attrs.field(default=3, validator=and_(ge(3), le((1 << 32) - 2)))
