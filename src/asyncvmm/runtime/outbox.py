"""What a guest that runs, perhaps in a thread of its own, leaves for the host's thread to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final


class Outbox:
    """Calls that wait while their guest runs, and are made at once while it does not.

    Whatever a guest's devices tell the world goes through here, so that a trio task is only ever
    woken in trio's own thread, and in an order that does not depend on which guest ran when.
    """

    def __init__(self) -> None:
        self._calls: Final[list[tuple[Callable[..., Any], tuple[Any, ...]]]] = []
        self._closed = False

    def close(self) -> None:
        """The guest begins to run: calls wait from now on."""
        self._closed = True

    def call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call ``function`` now, or as soon as the guest's stretch is over."""
        if self._closed:
            self._calls.append((function, arguments))
        else:
            function(*arguments)

    @property
    def waiting(self) -> bool:
        """Whether calls wait."""
        return bool(self._calls)

    def open(self) -> None:
        """The guest does not run any more: make the calls that waited, in their order."""
        self._closed = False
        if not self._calls:
            return
        calls = self._calls.copy()
        self._calls.clear()
        for function, arguments in calls:
            function(*arguments)
