"""The bounded way from a device, which never waits, to its backend task, which may."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

DEFAULT_CAPACITY: Final = 64


class Inbox:
    """Requests of a device to its ``run(io)``, first in, first out; never more than ``capacity``.

    The device calls ``put`` from its registers, chains and events; the runtime takes. Requests are
    not in snapshots: the device's state says what was asked for, and ``resume`` puts it once more.
    """

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        self.capacity: int = capacity
        self.on_put: Callable[[], None] | None = None
        self._requests: list[object] = []

    def put(self, request: object) -> bool:
        """Leave a request; False when there is no room, and it is up to the device what then."""
        if len(self._requests) >= self.capacity:
            return False
        self._requests.append(request)
        listener = self.on_put
        if listener is not None:
            listener()
        return True

    def take(self) -> object:
        """The oldest request; IndexError when there is none."""
        return self._requests.pop(0)

    def clear(self) -> None:
        """Forget all requests, as a reset does."""
        self._requests.clear()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._requests)
