"""A guest's connection and a socket of the world outside, joined.

What the guest says goes into the socket in the turn in which the host hears of it, without waking a
task; tasks wait for the socket only: for bytes, or for room when the other end is slow.
"""

from __future__ import annotations

import socket
from typing import Final

import trio

from asyncvmm.runtime.connections import CHUNK, GuestStream


class Splice:
    """``run`` copies both ways until both ends have finished or one breaks. It owns both."""

    def __init__(self, inside: GuestStream, outside: trio.SocketStream) -> None:
        self._inside = inside
        # Trio's own cannot be asked without a checkpoint, which is a turn of the loop for each piece.
        self._outside: Final = socket.socket(fileno=outside.socket.detach())
        self._outside.setblocking(False)
        self._rest = b""  # taken from the guest, not yet in the socket
        self._finished = False  # everything that the guest said is in the socket, and its end
        self._broken = False
        self._news = trio.lowlevel.ParkingLot()  # where ``_outward`` waits

    async def run(self) -> None:
        """Until it is over; then both ends are closed. An end that breaks is cut at the other side."""
        try:
            async with trio.open_nursery() as nursery:
                self._inside.on_turn = self._pump
                nursery.start_soon(self._inward, nursery.cancel_scope)
                nursery.start_soon(self._outward, nursery.cancel_scope)
        finally:
            self._inside.on_turn = None
            self._outside.close()
            if self._broken:
                self._inside.abort()
            else:
                with trio.CancelScope(shield=True):
                    await self._inside.aclose()

    async def _inward(self, scope: trio.CancelScope) -> None:
        try:
            while True:
                await trio.lowlevel.wait_readable(self._outside)
                try:
                    data = self._outside.recv(CHUNK)
                except BlockingIOError:
                    continue
                if not data:
                    await self._inside.send_eof()
                    return
                if not self._inside.send_now(data):
                    await self._inside.send_all(data)
        except OSError:
            self._broken = True
            scope.cancel()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            scope.cancel()

    async def _outward(self, scope: trio.CancelScope) -> None:
        """Do what ``_pump`` cannot do at once."""
        try:
            await self._inside.turn()
            self._pump()
            while not self._finished:
                if not self._rest:
                    await self._news.park()
                    continue
                await trio.lowlevel.wait_writable(self._outside)
                self._put(self._rest)
                if not self._rest:
                    await self._inside.turn()
                    self._pump()
        except OSError:
            self._broken = True
            scope.cancel()
        except trio.BrokenResourceError:
            scope.cancel()
        if self._broken or self._inside.cut:
            scope.cancel()

    def _pump(self) -> None:
        """In tasks' turn: what the guest has said into the socket, as much as goes. Raises nothing:
        the one who calls is the host's loop.
        """
        try:
            while not self._rest and not self._finished:
                data = self._inside.take_now(CHUNK)
                if data is None:
                    return
                if data:
                    self._put(data)
                else:
                    self._outside.shutdown(socket.SHUT_WR)
                    self._finished = True
        except OSError:
            self._broken = self._finished = True
        except trio.BrokenResourceError:
            self._finished = True  # ``_outward`` sees that it was cut
        self._news.unpark_all()

    def _put(self, data: bytes) -> None:
        try:
            self._rest = data[self._outside.send(data) :]
        except BlockingIOError:
            self._rest = data
