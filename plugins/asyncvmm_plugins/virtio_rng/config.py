"""Options of virtio-rng."""

from __future__ import annotations

import attrs


@attrs.frozen
class VirtioRngConfig:
    """There are none: the bytes depend on the machine's seed and the device's path only."""
