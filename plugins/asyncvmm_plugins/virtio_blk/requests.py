"""The requests of a disk that wait for their time, in the order in which they came."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import attrs

from asyncvmm.device import DeviceIo
from asyncvmm.virtio import Chain, VirtQueue

# A disk is no faster than this, so that a guest cannot make its host copy without end at one instant.
WORK_BYTES_PER_NS: Final = 4
WORK_BURST_NS: Final = 4_000_000  # 16 MB at once
REQUEST_WORK_BYTES: Final = 4096


@attrs.define(eq=False)
class Request:
    """One request (5.2.6). ``payload`` are the ranges of a discard or of zeroes."""

    queue: VirtQueue
    chain: Chain
    kind: int
    sector: int
    payload: bytes
    due_ns: int = 0

    @property
    def lives(self) -> bool:
        """Whether its queue was not stopped, reset or broken meanwhile."""
        return self.queue.live and self.chain.generation == self.queue.generation


class RequestLine:
    """Serves requests in order, each when ``io.rate`` and the disk's own speed allow it."""

    def __init__(self, io: DeviceIo, serve: Callable[[Request], None]) -> None:
        self.work_ns = 0
        self._io = io
        self._serve = serve
        self._waiting: deque[Request] = deque()
        self._expected: list[int] = []  # due times of requests that come again after a load
        self._event = io.clock.after(0, self._go_on)
        self._event.cancel()

    def _forget_dead(self) -> None:
        """Drop the requests of queues that were stopped, reset or broken meanwhile."""
        if any(not request.lives for request in self._waiting):
            self._waiting = deque(request for request in self._waiting if request.lives)

    def submit(self, request: Request, size_bytes: int | None, write: bool) -> None:
        """Serve ``request`` now or later. It moves ``size_bytes``; None is never limited."""
        now = self._io.clock.now_ns
        self._forget_dead()
        request.due_ns = self._due_ns(now, size_bytes, write)
        if not self._waiting and request.due_ns <= now:
            self._serve(request)
            return
        self._waiting.append(request)
        self._schedule(now)

    def _due_ns(self, now: int, size_bytes: int | None, write: bool) -> int:
        if self._expected:
            return self._expected.pop(0)
        due = self._waiting[-1].due_ns if self._waiting else now
        if size_bytes is not None:
            due = max(due, self._io.rate.take(now, size_bytes, write))
            work = (size_bytes + REQUEST_WORK_BYTES) // WORK_BYTES_PER_NS
            self.work_ns = max(self.work_ns, now) + work
            due = max(due, self.work_ns - WORK_BURST_NS)
        return due

    def _schedule(self, now: int) -> None:
        if not self._event.pending:
            self._event = self._io.clock.after(self._waiting[0].due_ns - now, self._go_on)

    def _go_on(self) -> None:
        now = self._io.clock.now_ns
        queues: dict[int, VirtQueue] = {}
        while self._waiting and self._waiting[0].due_ns <= now:
            request = self._waiting.popleft()
            if request.queue.index not in queues:
                queues[request.queue.index] = request.queue
                request.queue.hold_signals()
            if request.lives:
                self._serve(request)
        for queue in queues.values():
            queue.release_signals()
        if self._waiting:
            self._schedule(now)

    def clear(self) -> None:
        """Forget everything: the device is reset."""
        self._event.cancel()
        self._waiting.clear()
        self._expected = []
        self.work_ns = 0

    @property
    def due_times(self) -> tuple[int, ...]:
        """When the waiting requests are due, in order."""
        self._forget_dead()
        return tuple(request.due_ns for request in self._waiting) or tuple(self._expected)

    def expect(self, due_times: tuple[int, ...], work_ns: int) -> None:
        """After a load: the requests that are submitted next are those that waited."""
        self._expected = list(due_times)
        self.work_ns = work_ns
