"""A command that somebody runs in a machine through its control socket."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Final

import trio

from asyncvmm.base.errors import AsyncvmmError, BackendError
from asyncvmm.runtime.folder.protocol import ControlError, Kind, Link, error_values
from asyncvmm.runtime.guest import Guest

UNREAD_BYTES: Final = 64 << 20


class RemoteCommand:
    """One command: its input, output and status are frames of ``link``."""

    def __init__(self, guest: Guest, link: Link, arguments: Sequence[str]) -> None:
        self._guest = guest
        self._link = link
        self._arguments = arguments
        self._unsent: deque[tuple[Kind, bytes]] = deque()
        self._unsent_bytes = 0
        self._news = trio.Event()
        self._over = False
        self._input, self._typed = trio.open_memory_channel[bytes](0)

    async def run(self) -> None:
        """To its end; it is killed when the other side goes away."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, nursery.cancel_scope)
            nursery.start_soon(self._send, nursery.cancel_scope)
            try:
                done = await self._guest.run(
                    self._arguments,
                    stdin=self._pieces(),
                    stdout=lambda data: self._say(Kind.OUTPUT, data),
                    stderr=lambda data: self._say(Kind.ERROR, data),
                )
                self._put(Kind.STATUS, bytes([done.status & 0xFF]))
            except AsyncvmmError as error:
                self._put(Kind.ENDED, json.dumps(error_values(error)).encode())
            self._over = True
            self._news.set()

    def _say(self, kind: Kind, data: bytes) -> None:
        if self._unsent_bytes + len(data) > UNREAD_BYTES:
            raise BackendError(
                f"{UNREAD_BYTES >> 20} MiB of the command's output were not read: it was ended"
            )
        self._put(kind, data)

    def _put(self, kind: Kind, data: bytes) -> None:
        self._unsent.append((kind, data))
        self._unsent_bytes += len(data)
        self._news.set()

    async def _send(self, scope: trio.CancelScope) -> None:
        with suppress(ControlError):
            while not (self._over and not self._unsent):
                if not self._unsent:
                    self._news = trio.Event()
                    await self._news.wait()
                    continue
                kind, data = self._unsent.popleft()
                self._unsent_bytes -= len(data)
                await self._link.send(kind, data)
        scope.cancel()

    async def _listen(self, scope: trio.CancelScope) -> None:
        with suppress(ControlError, trio.BrokenResourceError):
            async with self._input:
                while (frame := await self._link.receive()) is not None:
                    kind, payload = frame
                    if kind != Kind.INPUT:
                        break
                    if not payload:
                        await self._input.aclose()
                        continue
                    await self._input.send(payload)
        scope.cancel()

    async def _pieces(self) -> AsyncIterator[bytes]:
        async for data in self._typed:
            yield data
