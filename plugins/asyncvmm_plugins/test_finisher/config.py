"""Options of the test finisher."""

from __future__ import annotations

import attrs


@attrs.frozen
class TestFinisherConfig:
    """There are none."""

    __test__ = False
