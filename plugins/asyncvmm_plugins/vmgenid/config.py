"""Options of the generation identifier."""

from __future__ import annotations

import attrs


@attrs.frozen
class VmGenIdConfig:
    """None."""
