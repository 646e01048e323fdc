"""How fast a device may work: the host's limit on its requests, in virtual time."""

from __future__ import annotations

from mypy_extensions import mypyc_attr


@mypyc_attr(allow_interpreted_subclasses=True)
class IoRate:
    """Tells a device when each request may be done. This one knows no limit."""

    def take(self, now_ns: int, size_bytes: int, write: bool) -> int:
        """Count one request of ``size_bytes``, made at ``now_ns``: when it may be done (>= now)."""
        return now_ns

    def ready_at(self, now_ns: int, size_bytes: int, write: bool) -> int:
        """What ``take`` would say now; nothing is counted."""
        return now_ns

    def tokens(self) -> list[int]:
        """What it remembers of earlier requests, for digests: two that agree delay alike."""
        return []
