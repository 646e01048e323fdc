"""Options of virtio-balloon."""

from __future__ import annotations

import attrs
from attrs.validators import ge


@attrs.frozen
class VirtioBalloonConfig:
    """``size`` is what the balloon should hold at first, in bytes. ``reporting=no`` takes away the
    guest's reports of free pages, ``statistics=no`` its counters; ``oom=no`` lets the balloon stay as it is
    when the guest has no memory left.
    """

    size: int = attrs.field(default=0, validator=ge(0))
    reporting: bool = True
    statistics: bool = True
    oom: bool = True
