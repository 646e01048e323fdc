"""What ``run`` and ``up`` say about devices that failed while their guests went on."""

from __future__ import annotations

from asyncvmm.cli.failures import MOST_LINES, failure_lines
from asyncvmm.hypervisor.ledger import ADMITTED, FAILED, LedgerEvent


def event(cause: str, guest: str = "web", kind: str = FAILED) -> LedgerEvent:
    return LedgerEvent(0, 0, kind, guest, cause)


def test_whose_it_is_and_why() -> None:
    events = [
        event("web/late0: LookupError: no (late.py:3)"),
        event("1 vCPUs", kind=ADMITTED),
        event("failed, and is called no more: ValueError: a bug", guest="net/lan/far"),
        event("web/late0: LookupError: no (late.py:3)"),
    ]
    assert failure_lines(events) == [
        "failed: web/late0: LookupError: no (late.py:3)",
        "net/lan/far: failed, and is called no more: ValueError: a bug",
    ]


def test_what_ended_a_guest_is_not_said_twice() -> None:
    assert failure_lines([event("device x failed")], ["InternalError: device x failed"]) == []


def test_not_too_many() -> None:
    lines = failure_lines(event(f"web/x: {number}") for number in range(MOST_LINES + 5))
    assert len(lines) == MOST_LINES + 1 and lines[-1] == "... and 5 more failures"
