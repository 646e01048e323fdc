"""What failed on a host though its guests went on: devices and network backends of plugins."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from asyncvmm.hypervisor.ledger import FAILED, LedgerEvent

MOST_LINES: Final = 8  # one that is started again and again fails as often


def failure_lines(events: Iterable[LedgerEvent], known: Iterable[str] = ()) -> list[str]:
    """A line each, without what ``known`` says already: the reasons for which guests ended."""
    ended, heard = list(known), set[str]()
    lines: list[str] = []
    for event in events:
        if event.kind != FAILED or event.cause in heard or any(event.cause in one for one in ended):
            continue
        heard.add(event.cause)
        whose = "" if event.cause.startswith(f"{event.guest}/") else f"{event.guest}: "
        said = event.cause.startswith("failed")
        lines.append(f"{'' if said else 'failed: '}{whose}{event.cause}")
    more = len(lines) - MOST_LINES
    return lines if more <= 0 else [*lines[:MOST_LINES], f"... and {more} more failures"]
