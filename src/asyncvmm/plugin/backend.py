"""What the ``run(io)`` of a live device is handed: a door to the world outside, and one back in."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class BackendIo(Protocol):
    """``async def run(self, io: BackendIo) -> None`` is a task of its own beside the guest.

    It may await anything (files, sockets, timers of trio), but it touches its device inside ``enter``
    only. It begins when the guest does and is cancelled when the guest ends: it must let trio's
    Cancelled pass and leave nothing behind. An exception out of it is logged and it is started again,
    after a growing pause; returning means that it has no more to do.
    """

    @property
    def path(self) -> str:
        """The device's, for messages."""
        ...

    async def receive(self) -> Any:
        """The oldest request in ``io.inbox``; waits for one."""
        ...

    async def enter(self, action: Callable[[], T]) -> T:
        """Do ``action()`` to the device, between two instructions of the guest, and return its result.

        This is an input from outside, which no journal can repeat: see ``give``.
        """
        ...

    async def give(self, data: bytes) -> None:
        """Let the device's ``entered(data)`` be called, between two instructions of the guest.

        A device that has ``entered`` hears of the world outside by this alone: its input is in the
        host's journal, and a replay has it again, without the task.
        """
        ...

    def log(self, message: str) -> None:
        """Leave a line in the guest's log."""
        ...


Backend = Callable[[BackendIo], Awaitable[None]]


def backend_of(device: object) -> Backend | None:
    """The device's ``run``, or None for a device that has no business outside."""
    run = getattr(device, "run", None)
    return run if inspect.iscoroutinefunction(run) else None
