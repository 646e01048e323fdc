"""The run protocol's frames, without I/O: specs/run-protocol.md, version 1, the host's side."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from asyncvmm.base.errors import ConfigError, GuestError

MAX_PAYLOAD: Final = 65536
MAX_STRINGS: Final = 1024
VERSION: Final = 1
_HEADER: Final = struct.Struct("<BBHI")
_U32: Final = struct.Struct("<I")

RUN: Final = ord("R")
INPUT: Final = ord("I")
KILL: Final = ord("K")
WINSIZE: Final = ord("W")
POWEROFF: Final = ord("Q")
HELLO: Final = ord("H")
STARTED: Final = ord("S")
FAILED: Final = ord("F")
OUTPUT: Final = ord("O")
ERROR: Final = ord("E")
ACK: Final = ord("A")
EXIT: Final = ord("X")
BYE: Final = ord("B")

ENOENT: Final = 2
DEFAULT_ENVIRONMENT: Final[Mapping[str, str]] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "TERM": "dumb",
    "LANG": "C.UTF-8",
}


class RunChannelError(GuestError):
    """The guest's agent broke the protocol or went away."""


@attrs.frozen
class Frame:
    """One frame: its type (an ASCII code), the command's id and the payload."""

    kind: int
    command: int
    payload: bytes

    def word(self, index: int = 0) -> int:
        """The payload's u32 number ``index``; RunChannelError when it is too short."""
        if len(self.payload) < 4 * index + 4:
            raise RunChannelError(f"the guest's agent sent a short {chr(self.kind)!r} frame")
        word: int = _U32.unpack_from(self.payload, 4 * index)[0]
        return word


class FrameReader:
    """Puts frames together from bytes cut anywhere. Holds at most one frame beyond what it gave."""

    def __init__(self) -> None:
        self._pending = bytearray()

    @property
    def rest(self) -> bytes:
        """The beginning of a frame that is not whole yet."""
        return bytes(self._pending)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that ``data`` completes; RunChannelError when one is longer than allowed."""
        self._pending += data
        frames = []
        start = 0
        while len(self._pending) - start >= _HEADER.size:
            kind, _, command, length = _HEADER.unpack_from(self._pending, start)
            if length > MAX_PAYLOAD:
                raise RunChannelError(f"the guest's agent sent a frame of {length} bytes")
            end = start + _HEADER.size + length
            if len(self._pending) < end:
                break
            frames.append(Frame(kind, command, bytes(self._pending[start + _HEADER.size : end])))
            start = end
        del self._pending[:start]
        return frames


def encode(kind: int, command: int = 0, payload: bytes = b"") -> bytes:
    """A frame as bytes; ConfigError when the payload is longer than 65536."""
    if len(payload) > MAX_PAYLOAD:
        raise ConfigError(f"a frame's payload is at most {MAX_PAYLOAD} bytes, not {len(payload)}")
    return _HEADER.pack(kind, 0, command, len(payload)) + payload


def encode_run(
    command: int,
    arguments: Sequence[str | bytes],
    environment: Mapping[str, str],
    directory: str = "",
) -> bytes:
    """RUN; ConfigError when there is no argument, a NUL in one, or too much of everything."""
    if not arguments:
        raise ConfigError("a command needs at least one argument: the program")
    words = [directory.encode()]
    words += [a.encode(errors="surrogateescape") if isinstance(a, str) else a for a in arguments]
    words += [f"{name}={value}".encode() for name, value in environment.items()]
    if len(words) > MAX_STRINGS:
        raise ConfigError(f"a command has at most {MAX_STRINGS} words, not {len(words)}")
    if any(b"\0" in word for word in words):
        raise ConfigError("a command's words cannot hold NUL characters")
    head = struct.pack("<II", len(arguments), len(environment))
    return encode(RUN, command, head + b"".join(word + b"\0" for word in words))


def exit_status(frame: Frame) -> int:
    """The shell's status of an EXIT or FAILED frame: 0-255, 126 and 127, 128 + signal."""
    if frame.kind == FAILED:
        return 127 if frame.word() == ENOENT else 126
    if frame.word(0) == 0:
        return frame.word(1) & 0xFF
    return 128 + (frame.word(1) & 0x7F)
