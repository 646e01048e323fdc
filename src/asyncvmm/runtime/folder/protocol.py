"""How commands talk with a machine that runs: over ``control.sock`` in its folder, which only its user can
open.

A connection is one request, a line of JSON such as ``{"do": "status"}``. The answer is a line ``{"ok":
{...}}`` or ``{"error": "...", "kind": "ConfigError"}``. After the answer to ``console`` and ``run`` come
frames both ways: a byte of kind, four of length (little-endian), and that many bytes, at most 64 KiB.
"""

from __future__ import annotations

import json
import struct
from enum import IntEnum
from typing import Any, Final

import trio

from asyncvmm.base.errors import AsyncvmmError, BackendError, ConfigError, GuestError

MAX_LINE_BYTES: Final = 256 << 10
MAX_FRAME_BYTES: Final = 64 << 10
_HEAD: Final = struct.Struct("<BI")
_WINDOW: Final = struct.Struct("<HH")


class Kind(IntEnum):
    """What a frame holds."""

    KEYS = 1  # to the console
    WINDOW = 2  # its columns and rows
    OUTPUT = 3  # of the console, or of a command
    ERROR = 4  # a command's standard error
    INPUT = 5  # for a command; an empty one ends it
    STATUS = 6  # a command's, a byte: it is over
    ENDED = 7  # the machine is; how, as JSON


class ControlError(BackendError):
    """The other side of a control socket broke the protocol or is gone."""


class Link:
    """One connection, on either side: lines first, frames then."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._heard = bytearray()
        self._sending = trio.Lock()

    async def __aenter__(self) -> Link:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await trio.aclose_forcefully(self._stream)

    async def _more(self) -> bool:
        try:
            data = await self._stream.receive_some(MAX_FRAME_BYTES)
        except trio.BrokenResourceError:
            return False
        self._heard += data
        return bool(data)

    async def receive_line(self) -> dict[str, Any]:
        """An object; ControlError when none comes."""
        while b"\n" not in self._heard:
            if len(self._heard) > MAX_LINE_BYTES:
                raise ControlError("a request of the control socket is too long")
            if not await self._more():
                raise ControlError("the control socket was closed before it answered")
        line, _, rest = bytes(self._heard).partition(b"\n")
        self._heard = bytearray(rest)
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ControlError(f"the control socket: not JSON: {error}") from error
        if not isinstance(value, dict):
            raise ControlError("the control socket: an object was expected")
        return value

    async def send_line(self, value: dict[str, Any]) -> None:
        """ControlError when the other side is gone."""
        await self._send(json.dumps(value).encode() + b"\n")

    async def receive(self) -> tuple[Kind, bytes] | None:
        """A frame, or None at the end; ControlError for what is none."""
        while True:
            if len(self._heard) >= _HEAD.size:
                kind, length = _HEAD.unpack_from(self._heard)
                if length > MAX_FRAME_BYTES or kind not in set(Kind):
                    raise ControlError(
                        f"the control socket: a frame of kind {kind}, {length} bytes"
                    )
                if len(self._heard) >= _HEAD.size + length:
                    payload = bytes(self._heard[_HEAD.size : _HEAD.size + length])
                    del self._heard[: _HEAD.size + length]
                    return Kind(kind), payload
            if not await self._more():
                return None

    async def send(self, kind: Kind, payload: bytes) -> None:
        """One frame, or several when it is long. ControlError when the other side is gone."""
        for at in range(0, len(payload) or 1, MAX_FRAME_BYTES):
            piece = payload[at : at + MAX_FRAME_BYTES]
            await self._send(_HEAD.pack(kind, len(piece)) + piece)

    async def _send(self, data: bytes) -> None:
        try:
            async with self._sending:
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ControlError("the control socket: the other side is gone") from error


def pack_window(columns: int, rows: int) -> bytes:
    """The payload of WINDOW."""
    return _WINDOW.pack(min(columns, 0xFFFF), min(rows, 0xFFFF))


def unpack_window(payload: bytes) -> tuple[int, int]:
    """(columns, rows); ControlError when it is neither."""
    if len(payload) != _WINDOW.size:
        raise ControlError("the control socket: a window has two numbers")
    columns, rows = _WINDOW.unpack(payload)
    return columns, rows


_KINDS: Final[dict[str, type[AsyncvmmError]]] = {
    "ConfigError": ConfigError,
    "BackendError": BackendError,
    "GuestError": GuestError,
}


def error_values(error: AsyncvmmError) -> dict[str, Any]:
    """An error as the other side gets it."""
    kind = next((name for name, cls in _KINDS.items() if isinstance(error, cls)), "BackendError")
    return {"error": str(error), "kind": kind}


def raise_error(answer: dict[str, Any]) -> None:
    """Raise the error that an answer is; nothing for a good one."""
    if "error" in answer:
        raise _KINDS.get(str(answer.get("kind")), BackendError)(str(answer["error"]))
